"""A memory for the tests of agents: it answers with what it was given, whatever it is asked."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mesh.contracts.memory import (
    MemoryAnswer,
    MemoryHit,
    MemoryItem,
    MemoryKind,
    MemoryQuery,
    MemoryState,
    Namespace,
    NamespaceKind,
    NewMemory,
    ScoreParts,
    Source,
)
from mesh.core.errors import MailyError

WORKSPACE = uuid.UUID(int=9)
BRAND = Namespace(kind=NamespaceKind.WORKSPACE)


def contact(name: str) -> Namespace:
    return Namespace(kind=NamespaceKind.CONTACT, id=name)


def hit(
    text: str,
    kind: MemoryKind = MemoryKind.FACT,
    namespace: Namespace = BRAND,
    *,
    score: float = 0.5,
    contacts: Sequence[str] = (),
) -> MemoryHit:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    id = uuid.uuid5(WORKSPACE, f"{namespace}{text}")
    item = MemoryItem(
        id=id,
        namespace=namespace,
        kind=kind,
        state=MemoryState.ACTIVE,
        text=text,
        importance=0.5,
        pinned=False,
        contacts=list(contacts),
        source=Source(),
        created_at=at,
        updated_at=at,
    )
    parts = ScoreParts(fused=score, recency=1.0, importance=0.5)
    return MemoryHit(item=item, score=score, parts=parts, citation=f"mem:{id}")


class ListedMemory:
    """Filters by kind and, unless ``leaky``, by namespace; that is all it does."""

    def __init__(
        self, *hits: MemoryHit, leaky: bool = False, error: MailyError | None = None
    ) -> None:
        self.hits = hits
        self.leaky = leaky
        self.error = error
        self.queries: list[tuple[UUID, MemoryQuery]] = []

    async def recall(
        self, workspace_id: UUID, query: MemoryQuery, *, timeout_s: float
    ) -> MemoryAnswer:
        self.queries.append((workspace_id, query))
        if self.error is not None:
            raise self.error
        kinds = query.filter.kinds
        found = [
            h
            for h in self.hits
            if (not kinds or h.item.kind in kinds)
            and (self.leaky or h.item.namespace in query.namespaces)
        ]
        return MemoryAnswer(hits=found[: query.k], packed="", tokens=0)

    async def remember(
        self, workspace_id: UUID, items: Sequence[NewMemory], *, timeout_s: float
    ) -> list[Any]:
        raise AssertionError("agents only read")

    async def forget(self, workspace_id: UUID, selector: Any, *, timeout_s: float) -> Any:
        raise AssertionError("agents only read")
