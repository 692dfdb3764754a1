"""Who is asking, for which workspace, with which rights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from mesh.core.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Principal:
    subject: str
    """Stable name of the caller: the API key's id, also when it comes with a token."""
    workspace_id: UUID
    scopes: frozenset[str]
    kind: Literal["key", "token"]
    key_id: str
    """The API key that this rests on: revoking it should end its tokens too."""
    expires_at: float | None = None
    """Unix seconds when the credential expires: caches must not keep it longer. None: never."""

    def require(self, scope: str) -> None:
        """Raises Forbidden, naming the scope that is missing."""
        if scope not in self.scopes:
            raise Forbidden(f"This needs the scope {scope}.", {"scope": scope})
