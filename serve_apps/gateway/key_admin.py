"""Keys and tokens as the gateway needs them: by workspace, and a revoked key takes its tokens
along."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

from mesh.core.errors import NotFound, Unauthenticated
from mesh.security.keys import KeyInfo, KeyService, NewKey
from mesh.security.principal import Principal
from mesh.security.tokens import TokenService

REVOKED_CHANNEL = "maily:revoked"
"""Valkey pub/sub: a key was revoked (message: its id); every gateway forgets it at once."""

Publish = Callable[[str, str], Awaitable[object]]


class WorkspaceKeys:
    """Keys of one workspace at a time. ``publish(channel, message)`` tells the other gateways."""

    def __init__(self, keys: KeyService, publish: Publish) -> None:
        self._keys = keys
        self._publish = publish

    async def verify(self, key: str) -> Principal:
        return await self._keys.verify(key)

    async def create(
        self,
        workspace_id: UUID,
        name: str,
        scopes: Iterable[str],
        expires_in_s: float | None = None,
    ) -> NewKey:
        return await self._keys.create(workspace_id, name, scopes, expires_in_s)

    async def list(self, workspace_id: UUID) -> builtins.list[KeyInfo]:
        return await self._keys.list(workspace_id)

    async def revoke(self, key_id: str, workspace_id: UUID) -> KeyInfo:
        """Raises NotFound, also when it belongs to another workspace."""
        if (await self._keys.info(key_id)).workspace_id != workspace_id:
            raise NotFound("There is no such key.", {"id": key_id[:100]})
        info = await self._keys.revoke(key_id)
        await self._publish(REVOKED_CHANNEL, key_id)
        return info


class LinkedTokens:
    """Tokens that end with the key that they rest on; those of services rest on none."""

    def __init__(self, tokens: TokenService, keys: KeyService) -> None:
        self._tokens = tokens
        self._keys = keys

    async def verify(self, token: str) -> Principal:
        principal = await self._tokens.verify(token)
        if principal.kind == "service":
            return principal  # rests on no key; its life is minutes
        try:
            info = await self._keys.info(principal.key_id)
        except NotFound:
            raise Unauthenticated("The token's key is not known.") from None
        if info.revoked_at is not None:
            raise Unauthenticated("The token's key was revoked.")
        return principal

    async def issue(
        self, principal: Principal, scopes: Iterable[str] | None = None, ttl_s: float | None = None
    ) -> str:
        return await self._tokens.issue(principal, scopes, ttl_s)

    async def jwks(self) -> dict[str, Any]:
        return await self._tokens.jwks()
