"""Who is asking, for which workspace, with which rights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from mesh.core.errors import Forbidden

NO_WORKSPACE = UUID(int=0)
"""Of a service that acts for nobody. No workspace has this id."""


@dataclass(frozen=True, slots=True)
class Principal:
    subject: str
    """Stable name of the caller: the API key's id, also when it comes with a token; of one of
    our services ``service:<name>``."""
    workspace_id: UUID
    scopes: frozenset[str]
    kind: Literal["key", "token", "service"]
    key_id: str
    """The API key that this rests on: revoking it should end its tokens too. Of a service: its
    subject."""
    expires_at: float | None = None
    """Unix seconds when the credential expires: caches must not keep it longer. None: never."""

    def require(self, scope: str) -> None:
        """Raises Forbidden, naming the scope that is missing."""
        if scope not in self.scopes:
            raise Forbidden(f"This needs the scope {scope}.", {"scope": scope})

    def require_workspace(self) -> None:
        """Raises Forbidden for a service whose token names no workspace."""
        if self.workspace_id == NO_WORKSPACE:
            raise Forbidden(
                "This needs a workspace, and the service's token names none.",
                {"claim": "wsp"},
            )
