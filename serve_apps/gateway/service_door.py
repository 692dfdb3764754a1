"""How the runtime's own services get their tokens: by a client assertion, never by an API key."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from mesh.core.errors import InvalidInput
from mesh.security.assertion import AssertionVerifier
from mesh.security.keys import KeyService
from mesh.security.tokens import ServiceToken, TokenService


class ServiceDoor:
    def __init__(
        self, tokens: TokenService, keys: KeyService, verifier: AssertionVerifier, ttl_s: int
    ) -> None:
        self._tokens = tokens
        self._keys = keys
        self._verifier = verifier
        self._ttl_s = ttl_s

    async def admit(
        self, assertion: str, workspace_id: UUID | None, scopes: Iterable[str] | None
    ) -> ServiceToken:
        """Raises Unauthenticated (the assertion), Forbidden (not granted), InvalidInput (there is
        no such workspace)."""
        service = await self._verifier.verify(assertion)
        if workspace_id is not None and not await self._keys.workspace_exists(workspace_id):
            raise InvalidInput("There is no such workspace.", {"field": "workspace"})
        return await self._tokens.issue_service(
            service, self._ttl_s, workspace_id=workspace_id, scopes=scopes
        )
