"""Memory as agents and the gateway hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from mesh.contracts.memory import (
    ForgetReceipt,
    ForgetSelector,
    MemoryAnswer,
    MemoryItem,
    MemoryQuery,
    NewMemory,
)


class MemoryClient(Protocol):
    """Errors: InvalidInput, NotFound, Overloaded, Unavailable, DeadlineExceeded.

    Everything is within one workspace: another's memories can neither be read nor named.
    """

    async def remember(
        self, workspace_id: UUID, items: Sequence[NewMemory], *, timeout_s: float
    ) -> list[MemoryItem]:
        """In the order of ``items``, when all of them are committed. What was there already (the
        same ``client_id``, or the same text and kind in the namespace) is given as it is."""
        ...

    async def recall(
        self, workspace_id: UUID, query: MemoryQuery, *, timeout_s: float
    ) -> MemoryAnswer:
        """Best first. While an owner is away the answer comes from the database alone and says
        ``degraded``. What was read is noted in the running step's ledger, by citation."""
        ...

    async def forget(
        self, workspace_id: UUID, selector: ForgetSelector, *, timeout_s: float
    ) -> ForgetReceipt:
        """Erase for good; the receipt says what, and that it was looked for in vain. A forgetting
        that was begun is finished even when this process dies."""
        ...
