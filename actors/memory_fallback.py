"""Reading memories while their owner is away: from the database, exactly, and within bounds.

Nobody's lease is needed to read what is committed. The newest rows of the namespace become a
partition of this one question; what does not fit is found by its words alone, or not at all, and
the answer says that it is degraded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from mesh.contracts.memory import MemoryQuery, Namespace, SearchMode
from mesh.core.clock import Clock
from mesh.memory.options import MemoryOptions
from mesh.memory.partition import Partition
from mesh.memory.record import Record
from mesh.memory.shapes import Found, Head
from mesh.memory.vault import Vault
from mesh.memory.words import configuration, query_text
from mesh.storage.memory import MemoryRepository

WORDS = 50
"""Hits of the full-text search that are looked at."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """One per process."""

    repository: MemoryRepository
    vault: Vault
    clock: Clock
    options: MemoryOptions
    max_items: int = 5_000
    """Of a namespace, the newest."""

    async def find(
        self,
        workspace: UUID,
        query: MemoryQuery,
        namespace: Namespace,
        vector: Sequence[float] | None,
    ) -> list[Found]:
        """Candidates as the owner would give them. Raises Unavailable."""
        identity = self.vault.namespace_id(workspace, namespace)
        row = await self.repository.namespace(identity, workspace)
        if row is None:
            return []
        head = Head(workspace, identity, row.shard, row.salt, namespace, row.dimensions)
        newest = await self.repository.latest(workspace, identity, self.max_items)
        by_words: list[tuple[UUID, float]] = []
        if query.mode is not SearchMode.DENSE:
            (lexemes,) = await self.repository.lexemes(
                [(configuration(query.language), query.text)]
            )
            by_words = await self.repository.search_words(
                workspace, identity, query_text(self.vault, row.salt, lexemes), WORDS
            )
            have = {record.id for record in newest}
            missing = [found for found, _ in by_words if found not in have]
            newest += await self.repository.get(workspace, missing)
        return await asyncio.to_thread(self._search, head, newest, query, vector, by_words)

    def _search(
        self,
        head: Head,
        records: Sequence[Record],
        query: MemoryQuery,
        vector: Sequence[float] | None,
        by_words: Sequence[tuple[UUID, float]],
    ) -> list[Found]:
        partition = Partition(head, self.vault, self.options)
        partition.put(records)
        now = self.clock.now()
        dense: list[tuple[UUID, float]] = []
        if vector is not None and query.mode is not SearchMode.TEXT:
            pool = max(self.options.pool, 2 * query.k)
            dense = partition.dense(np.asarray(vector), pool, query.filter, now)
        return partition.gather(dense, by_words, query.filter, now)
