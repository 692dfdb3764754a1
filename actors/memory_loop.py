"""What a memory host does for its callers, with no Ray in it: remember, find, change, erase.

It owns shards (``shards``), holds their namespaces (``memory_keeper``) and writes for them
(``memory_writer``). Every answer is given under a lease that is surely ours at that moment; a
caller that asks the wrong host is told to look again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import faiss
import numpy as np

from actors.memory_erased import ErasedPart, probes_of, surfacing
from actors.memory_keeper import Keeper, KeeperOptions
from actors.memory_passes import Passes
from actors.memory_writer import GroupWriter
from actors.shards import ShardOptions, Shards
from mesh.contracts.memory import (
    Consolidation,
    MemoryItem,
    MemoryPatch,
    MemoryQuery,
    Namespace,
    NewMemory,
    SearchMode,
)
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Conflict, InvalidInput, NotFound
from mesh.core.ids import uuid7
from mesh.memory.gate import Admitted, admit
from mesh.memory.options import MemoryOptions
from mesh.memory.partition import Floats, Partition
from mesh.memory.placement import RING, shard_of
from mesh.memory.record import Record, item_of, open_payload, seal_record
from mesh.memory.shapes import Found
from mesh.memory.vault import Vault
from mesh.memory.words import configuration, query_text, vector_text
from mesh.storage.leases import Leases
from mesh.storage.memory import MemoryRepository
from mesh.storage.memory_forget import ForgetRepository
from mesh.storage.memory_rows import Draft
from mesh.storage.scrub import Scrubber

Vector = Sequence[float] | Floats
Vectors = Sequence[Vector]

FEW = 1_000
"""So few memories that a filter lets through are named to the full-text search."""
WORDS = 200
"""Hits of the full-text search that are looked at."""


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How a host works."""

    keeper: KeeperOptions
    shards: ShardOptions = field(default_factory=ShardOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    threads: int = 2
    queue_limit: int = 4_096
    pass_s: float = 30.0
    consolidate: bool = True


@dataclass(frozen=True, slots=True)
class HostParts:
    """What a host works with."""

    repository: MemoryRepository
    forgets: ForgetRepository
    leases: Leases
    scrubber: Scrubber
    vault: Vault
    clock: Clock


class MemoryLoop:
    """One incarnation of one host. ``await run()`` until cancelled."""

    def __init__(self, host: str, parts: HostParts, options: HostOptions) -> None:
        faiss.omp_set_num_threads(1)  # a search is one thread's; many searches are many threads'
        self.host = host
        self._parts = parts
        self._options = options
        self._memory = options.memory
        self.keeper = Keeper(
            parts.repository, parts.vault, parts.clock, options.keeper, options.memory
        )
        self.shards = Shards(
            RING, host, parts.leases, parts.clock, options.shards, self.keeper.drop_shards
        )
        self.writer = GroupWriter(
            parts.repository,
            self.keeper,
            self.shards.leases,
            self.shards.doubt,
            options.queue_limit,
        )
        self._threads = ThreadPoolExecutor(options.threads, thread_name_prefix="search")
        self._passes = Passes(self, parts, options.pass_s, consolidate=options.consolidate)
        self._searches = 0

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.shards.run())
                group.create_task(self._passes.run())
        finally:
            await self.writer.aclose()
            self._threads.shutdown(wait=False, cancel_futures=True)

    def unhealthy(self) -> str | None:
        return self.shards.unhealthy()

    def statistics(self) -> dict[str, int | float]:
        return {
            "searches": self._searches,
            **self.shards.statistics(),
            **self.keeper.statistics(),
            **self.writer.statistics(),
            **self._passes.statistics(),
            **self._parts.scrubber.statistics(),
        }

    async def remember(
        self, workspace: UUID, items: Sequence[NewMemory], vectors: Vectors
    ) -> list[MemoryItem]:
        """``vectors``: one per item. All of them must lie in shards of ours."""
        now = self._parts.clock.now()
        admitted = [admit(item, now, self._memory.policies, self._memory.gate) for item in items]
        partitions = await self._homes(workspace, items, vectors)
        drafts = await self._drafts(workspace, admitted, vectors, partitions)
        records = await self.writer.write(drafts)
        told = [d.record for d, r in zip(drafts, records, strict=True) if d.record.id == r.id]
        changed = await self._supersede(workspace, told)
        metrics.MEMORY_WRITES.labels("stored").inc(len(told))
        metrics.MEMORY_WRITES.labels("repeated").inc(len(records) - len(told))
        return await asyncio.to_thread(
            lambda: [
                item_of(changed.get(r.id, r), open_payload(self._parts.vault, r)) for r in records
            ]
        )

    async def find(
        self,
        workspace: UUID,
        query: MemoryQuery,
        namespaces: Sequence[Namespace],
        vector: Vector | None,
    ) -> list[list[Found]]:
        """Candidates of each namespace, unranked. ``vector``: None where there is none."""
        self._searches += 1
        found = await asyncio.gather(
            *(self._find(workspace, query, namespace, vector) for namespace in namespaces)
        )
        return list(found)

    async def item(self, workspace: UUID, namespace: UUID, identity: UUID) -> MemoryItem:
        """With its history. Raises NotFound."""
        partition = await self._owned(workspace, namespace)
        found = None if partition is None else partition.item(identity)
        if partition is None or found is None:
            raise NotFound("There is no such memory.", {"id": str(identity)})
        return found.model_copy(update={"history": partition.history(identity)})

    async def patch(
        self, workspace: UUID, namespace: UUID, identity: UUID, patch: MemoryPatch
    ) -> MemoryItem:
        """Raises NotFound."""
        partition = await self._owned(workspace, namespace)
        record = None if partition is None else partition.record(identity)
        if partition is None or record is None:
            raise NotFound("There is no such memory.", {"id": str(identity)})
        changes = patch.model_dump(exclude_none=True)
        await self.writer.change([replace(record, **changes, updated_at=self._now())])
        return await self.item(workspace, namespace, identity)

    async def consolidate(self, workspace: UUID, namespace: UUID) -> Consolidation:
        """One pass over a namespace, now. Raises NotFound."""
        partition = await self._owned(workspace, namespace)
        if partition is None:
            raise NotFound("Nothing was ever remembered there.")
        return await self._passes.consolidate(partition)

    async def erase(
        self, ids: Sequence[UUID], namespaces: Sequence[UUID], shards: Sequence[int]
    ) -> ErasedPart:
        """These memories, and these namespaces once they are empty, as far as they lie in
        ``shards``, which must be ours. A repeat erases what is left."""
        leases = self.shards.leases(shards)
        wanted, mine = set(ids), frozenset(shards)
        keeper = self.keeper
        async with keeper.commits:
            here = [p for p in keeper.all() if p.head.shard in mine]
            probes = await asyncio.to_thread(probes_of, here, wanted)
            done = await self._parts.forgets.erase(leases, shards, ids)
            index = snapshots = 0
            touched = {*namespaces}
            for partition in here:
                erased = await asyncio.to_thread(partition.erase, wanted)
                if erased:
                    keeper.erased(partition.head.id)
                    touched.add(partition.head.id)
                index += erased
            dropped = await self._parts.forgets.drop_namespaces(leases, shards, namespaces)
            for namespace in namespaces:
                keeper.drop(namespace)
        for namespace in {*touched, *done.namespaces}:
            if shard_of(namespace) in mine:
                snapshots += await keeper.sweep(namespace)
        surfaced = await asyncio.to_thread(surfacing, probes, self._parts.clock.now())
        return ErasedPart(done.items, done.keys, index, snapshots, dropped, surfaced)

    async def holds(self, workspace: UUID, ids: Sequence[UUID]) -> int:
        """How many of these are in an index here."""
        found = 0
        for partition in self.keeper.all():
            if partition.head.workspace_id == workspace:
                found += sum(identity in partition for identity in ids)
        return found

    async def _homes(
        self, workspace: UUID, items: Sequence[NewMemory], vectors: Vectors
    ) -> dict[Namespace, Partition]:
        homes: dict[Namespace, Partition] = {}
        limit = self._memory.gate.max_items_per_namespace
        for item, vector in zip(items, vectors, strict=True):
            space = item.namespace
            if space not in homes:
                shard = shard_of(self._parts.vault.namespace_id(workspace, space))
                lease = self.shards.lease(shard)
                homes[space] = await self.keeper.create(lease, workspace, space, len(vector))
                if len(homes[space]) >= limit:
                    raise Conflict("This namespace is full.", {"limit": limit})
            if len(vector) != homes[space].head.dimensions:
                raise InvalidInput(
                    f"The vectors here have {homes[space].head.dimensions} dimensions.",
                    {"field": "vector", "given": len(vector)},
                )
        return homes

    async def _drafts(
        self,
        workspace: UUID,
        admitted: Sequence[Admitted],
        vectors: Vectors,
        homes: dict[Namespace, Partition],
    ) -> list[Draft]:
        lexemes = await self._parts.repository.lexemes(
            [(configuration(a.new.language), a.text) for a in admitted]
        )
        vault = self._parts.vault

        def seal() -> list[Draft]:
            drafts = []
            for one, vector, words in zip(admitted, vectors, lexemes, strict=True):
                head = homes[one.new.namespace].head
                row = np.asarray(vector, dtype=np.float32)
                length = float(np.linalg.norm(row))
                if not np.isfinite(length) or length == 0:
                    raise InvalidInput(
                        "A vector needs finite numbers that are not all 0.", {"field": "vector"}
                    )
                record = seal_record(
                    vault,
                    one,
                    row / length,
                    identity=uuid7(),
                    workspace=workspace,
                    shard=head.shard,
                )
                drafts.append(Draft(record, vector_text(vault, head.salt, words)))
            return drafts

        return await asyncio.to_thread(seal)

    async def _supersede(self, workspace: UUID, records: Sequence[Record]) -> dict[UUID, Record]:
        """New statements end the old ones that they contradict, or are ended by newer ones."""
        by_namespace: dict[UUID, list[UUID]] = defaultdict(list)
        for record in records:
            by_namespace[record.namespace].append(record.id)
        changed: dict[UUID, Record] = {}
        for namespace, ids in by_namespace.items():
            partition = self.keeper.here(namespace)
            if partition is not None:
                done = await self._passes.supersede(partition, ids)
                changed |= {record.id: record for record in done}
        return changed

    async def _find(
        self,
        workspace: UUID,
        query: MemoryQuery,
        namespace: Namespace,
        vector: Vector | None,
    ) -> list[Found]:
        identity = self._parts.vault.namespace_id(workspace, namespace)
        partition = await self._owned(workspace, identity)
        if partition is None:
            return []
        now = self._parts.clock.now()
        plain = query.recency_weight == query.importance_weight == query.diversity == 0
        pool = query.k if plain else max(self._memory.pool, 2 * query.k)
        loop = asyncio.get_running_loop()

        async def dense() -> list[tuple[UUID, float]]:
            if vector is None or query.mode is SearchMode.TEXT:
                return []
            return await loop.run_in_executor(
                self._threads, partition.dense, vector, pool, query.filter, now
            )

        by_vector, by_words = await asyncio.gather(
            dense(), self._words(workspace, partition, query, now)
        )
        gather = partial(
            partition.gather,
            by_vector,
            by_words[: 2 * pool],
            query.filter,
            now,
            vectors=query.diversity > 0,
        )
        found = await loop.run_in_executor(self._threads, gather)
        self.shards.lease(partition.head.shard)  # it was ours all the while
        return found

    async def _words(
        self, workspace: UUID, partition: Partition, query: MemoryQuery, now: float
    ) -> list[tuple[UUID, float]]:
        if query.mode is SearchMode.DENSE:
            return []
        repository = self._parts.repository
        (lexemes,) = await repository.lexemes([(configuration(query.language), query.text)])
        few = partition.few(query.filter, now, FEW)
        past = query.filter.valid_at is not None
        return await repository.search_words(
            workspace,
            partition.head.id,
            query_text(self._parts.vault, partition.head.salt, lexemes, partition.common),
            WORDS,
            among=few,
            states=("active", "superseded") if past else ("active",),
        )

    async def _owned(self, workspace: UUID, namespace: UUID) -> Partition | None:
        self.shards.lease(shard_of(namespace))
        return await self.keeper.get(workspace, namespace)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._parts.clock.now(), UTC)
