"""What a memory host does by itself: expire, consolidate, count, sketch, snapshot, free.

Each pass does a bounded amount and goes on where it stopped. Nothing here may hold up a caller
for long, and nothing that fails here fails a caller: the next pass tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from mesh.contracts.memory import Consolidation, MemoryState
from mesh.core import metrics
from mesh.core.errors import Fenced, MailyError
from mesh.core.logging import get_logger
from mesh.memory.consolidation import Merge, Supersede, plan_merges, plan_supersedes
from mesh.memory.partition import Partition
from mesh.memory.placement import bucket_of, shard_of
from mesh.memory.record import Record
from mesh.memory.words import COMMON

if TYPE_CHECKING:
    from actors.memory_loop import HostParts, MemoryLoop

log = get_logger("memory.passes")

EXPIRED_AT_ONCE = 500
COUNTED_FROM = 2_000
"""Memories of a namespace from which its common words are counted."""
PASSES_PER_ROUND = 4
"""Namespaces that one round consolidates."""


class Passes:
    """One per host."""

    def __init__(
        self, host: MemoryLoop, parts: HostParts, every_s: float, *, consolidate: bool
    ) -> None:
        self._host = host
        self._parts = parts
        self._every_s = every_s
        self._consolidates = consolidate
        self._looked_at: dict[UUID, int] = {}
        """By namespace: changes up to here were consolidated."""
        self._expired = self._merged = self._superseded = self._snapshots = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._parts.clock.sleep(self._every_s)
            try:
                await self.round()
            except MailyError as error:
                log.info("passes.later", error=error.code)

    async def round(self) -> None:
        """Everything once."""
        await self._expire()
        await self._tend()
        metrics.MEMORY_ITEMS.set(self._host.keeper.statistics()["items"])

    async def consolidate(self, partition: Partition) -> Consolidation:
        """One bounded pass over a namespace. Raises Unavailable (not ours any more)."""
        head = partition.head
        lease = self._host.shards.lease(head.shard)
        after = self._looked_at.get(head.id)
        if after is None:
            row = await self._parts.repository.namespace(head.id, head.workspace_id)
            after = 0 if row is None else row.consolidated
        now = self._parts.clock.now()
        options = partition.options.consolidation
        newest = partition.position
        plan = await asyncio.to_thread(plan_merges, partition, after, now, options)
        merged = await self._merge(partition, plan.merges)
        superseded = await self.supersede(partition, partition.changed_since(after, 10_000))
        looked_at = newest if plan.complete else plan.position
        await self._parts.repository.consolidated(lease, head.id, looked_at)
        self._looked_at[head.id] = looked_at
        return Consolidation(
            examined=plan.examined,
            merged=merged,
            superseded=len(superseded),
            complete=plan.complete,
        )

    async def supersede(self, partition: Partition, ids: Sequence[UUID]) -> list[Record]:
        """End what these statements contradict, or these where newer ones contradict them."""
        about: set[UUID] = set()
        for identity in ids:
            item = partition.item(identity)
            if item is not None and item.statement is not None:
                about.update(partition.speaking_of(item.statement))
        if len(about) < 2:
            return []
        items = [item for identity in about if (item := partition.item(identity)) is not None]
        changes = [_superseded(partition, one) for one in plan_supersedes(items)]
        done = await self._host.writer.change([c for c in changes if c is not None])
        self._superseded += len(done)
        metrics.MEMORY_CONSOLIDATED.labels("superseded").inc(len(done))
        return done

    def statistics(self) -> dict[str, int | float]:
        return {
            "expired": self._expired,
            "merged": self._merged,
            "superseded": self._superseded,
            "snapshots_written": self._snapshots,
        }

    async def _merge(self, partition: Partition, merges: Sequence[Merge]) -> int:
        now = datetime.fromtimestamp(self._parts.clock.now(), UTC)
        changes: list[Record] = []
        for merge in merges:
            survivor = partition.record(merge.survivor)
            if survivor is None:
                continue
            if survivor.importance < merge.importance:
                changes.append(replace(survivor, importance=merge.importance, updated_at=now))
            for identity in merge.merged:
                record = partition.record(identity)
                if record is not None:
                    changes.append(
                        replace(
                            record,
                            state=MemoryState.MERGED,
                            merged_into=merge.survivor,
                            updated_at=now,
                        )
                    )
        done = await self._host.writer.change(changes)
        merged = sum(record.state is MemoryState.MERGED for record in done)
        self._merged += merged
        metrics.MEMORY_CONSOLIDATED.labels("merged").inc(merged)
        return merged

    async def _expire(self) -> None:
        held = self._host.shards.held
        overdue = await self._parts.repository.overdue(sorted(held), EXPIRED_AT_ONCE)
        for shard in sorted(set(overdue.values()) & held):
            ids = [identity for identity, where in overdue.items() if where == shard]
            part = await self._host.erase(ids, [], [shard])
            self._expired += part.items
            metrics.MEMORY_FORGOTTEN.labels("expired").inc(part.items)
        if overdue:
            await self._parts.scrubber.scrub({bucket_of(shard) for shard in overdue.values()})

    async def _tend(self) -> None:
        keeper = self._host.keeper
        rounds = 0
        for partition in keeper.all():
            namespace = partition.head.id
            try:
                changed = partition.position > self._looked_at.get(namespace, -1)
                if self._consolidates and changed and rounds < PASSES_PER_ROUND:
                    rounds += 1
                    await self.consolidate(partition)
                if len(partition) > max(COUNTED_FROM, 1.5 * partition.counted_at):
                    partition.common = await self._parts.repository.common_words(namespace, COMMON)
                    partition.counted_at = len(partition)
                if partition.index.wants_sketch():
                    await asyncio.to_thread(partition.index.build_sketch)
                leaving = namespace in keeper.idle()
                if keeper.wants_snapshot(namespace, leaving=leaving):
                    lease = self._host.shards.lease(shard_of(namespace))
                    await keeper.snapshot(lease, namespace)
                    self._snapshots += 1
                if leaving:
                    keeper.drop(namespace)
                    self._looked_at.pop(namespace, None)
            except Fenced:
                self._host.shards.doubt()


def _superseded(partition: Partition, plan: Supersede) -> Record | None:
    record = partition.record(plan.old)
    if record is None:
        return None
    ends = plan.at if record.valid_to is None else min(record.valid_to, plan.at)
    return replace(
        record,
        state=MemoryState.SUPERSEDED,
        superseded_by=plan.new,
        valid_to=ends,
        updated_at=max(record.updated_at, plan.at),
    )
