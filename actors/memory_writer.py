"""Group commit: what many callers write at once goes to the database in one transaction.

One group at a time, so changes reach the partitions in the order of their numbers, and what is
there already is found without a race: nobody else may write to these shards. A caller's write is
acknowledged when its group is committed and can be found.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from actors.memory_keeper import Keeper
from mesh.core import metrics
from mesh.core.errors import Fenced, IdempotencyMismatch, Overloaded, own_copy
from mesh.memory.record import Record
from mesh.storage.leases import Lease
from mesh.storage.memory import MemoryRepository
from mesh.storage.memory_rows import Draft

GROUP = 512
"""Rows of one transaction, about."""


@dataclass(slots=True)
class _Write:
    drafts: Sequence[Draft]
    answer: asyncio.Future[list[Record]]
    records: list[Record] = field(default_factory=list)


class GroupWriter:
    """``leases``: what entitles to write to these shards now; raises where one is not ours."""

    def __init__(
        self,
        repository: MemoryRepository,
        keeper: Keeper,
        leases: Callable[[Sequence[int]], list[Lease]],
        lost: Callable[[], None],
        queue_limit: int = 4_096,
    ) -> None:
        self._repository = repository
        self._keeper = keeper
        self._leases = leases
        self._lost = lost
        self._limit = queue_limit
        self._waiting: list[_Write] = []
        self._rows = 0
        self._worker: asyncio.Task[None] | None = None
        self._groups = self._written = 0

    async def write(self, drafts: Sequence[Draft]) -> list[Record]:
        """Committed and indexed, in the order of the drafts; what was there already as it is.

        Raises Overloaded, Fenced, Unavailable, and IdempotencyMismatch: a client's id was used
        for another text.
        """
        if self._rows + len(drafts) > self._limit:
            metrics.OVERLOADED.labels("memory").inc()
            raise Overloaded("Too many memories wait to be written.", retry_after_s=1.0)
        loop = asyncio.get_running_loop()
        request = _Write(drafts, loop.create_future())
        self._waiting.append(request)
        self._rows += len(drafts)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        # A caller that goes away does not take its row out of a group that is being written.
        return await asyncio.shield(request.answer)

    async def change(self, records: Sequence[Record]) -> list[Record]:
        """Write changed rows; they are indexed when it returns. Raises Fenced, Unavailable."""
        if not records:
            return []
        async with self._keeper.commits:
            return await self._change(records)

    async def aclose(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for request in self._waiting:
            if not request.answer.done():
                request.answer.cancel()

    def statistics(self) -> dict[str, int | float]:
        return {"waiting": self._rows, "groups": self._groups, "written": self._written}

    async def _work(self) -> None:
        while self._waiting:
            group: list[_Write] = []
            rows = 0
            while self._waiting and rows < GROUP:
                request = self._waiting.pop(0)
                rows += len(request.drafts)
                group.append(request)
            self._rows -= rows
            async with self._keeper.commits:
                await self._commit(group)
            self._groups += 1

    async def _commit(self, group: list[_Write]) -> None:
        try:
            fresh = await self._sift(group)
            shards = sorted({draft.record.shard for draft in fresh})
            if fresh:
                changes = await self._repository.write(self._leases(shards), fresh, ())
                await self._index([replace(d.record, change=changes[d.record.id]) for d in fresh])
                self._written += len(fresh)
        except BaseException as error:
            if isinstance(error, Fenced):
                self._lost()
            for request in group:
                if not request.answer.done():
                    request.answer.set_exception(own_copy(error))
            if not isinstance(error, Exception):
                raise
        else:
            for request in group:
                if not request.answer.done():
                    request.answer.set_result(request.records)

    async def _sift(self, group: list[_Write]) -> list[Draft]:
        """Drafts that say something new; the others are answered with what is there."""
        drafts = [draft for request in group for draft in request.drafts]
        known = await self._repository.known(
            [(r.namespace, r.client_hash) for d in drafts if (r := d.record).client_hash],
            [(draft.record.namespace, draft.record.content_hash) for draft in drafts],
        )
        by_client = {r.client_hash: r for r in known if r.client_hash is not None}
        by_content = {(r.namespace, r.content_hash): r for r in known}
        fresh: list[Draft] = []
        for request in group:
            clients: dict[bytes, Record] = {}
            contents: dict[tuple[UUID, bytes], Record] = {}
            taken: list[Draft] = []
            for draft in request.drafts:
                record = draft.record
                there = None
                if record.client_hash is not None:
                    there = clients.get(record.client_hash) or by_client.get(record.client_hash)
                    if there is not None and there.content_hash != record.content_hash:
                        _refuse(request, there)
                        break
                content = (record.namespace, record.content_hash)
                there = there or contents.get(content) or by_content.get(content)
                if there is None:
                    there = contents[content] = record
                    taken.append(draft)
                if record.client_hash is not None:
                    clients.setdefault(record.client_hash, there)
                request.records.append(there)
            else:
                # What a refused request would have written is not there for the others.
                by_client |= clients
                by_content |= contents
                fresh.extend(taken)
        return fresh

    async def _change(self, records: Sequence[Record]) -> list[Record]:
        try:
            shards = sorted({record.shard for record in records})
            changes = await self._repository.write(self._leases(shards), (), records)
        except Fenced:
            self._lost()
            raise
        there = [r for r in records if r.id in changes]
        written = [replace(record, change=changes[record.id]) for record in there]
        await self._index(written)
        return written

    async def _index(self, records: Sequence[Record]) -> None:
        by_namespace: dict[UUID, list[Record]] = defaultdict(list)
        for record in sorted(records, key=lambda record: record.change):
            by_namespace[record.namespace].append(record)
        for namespace, rows in by_namespace.items():
            partition = self._keeper.here(namespace)
            if partition is not None:
                await asyncio.to_thread(partition.put, rows)
                self._keeper.wrote(namespace, len(rows))


def _refuse(request: _Write, there: Record) -> None:
    if not request.answer.done():
        request.answer.set_exception(
            IdempotencyMismatch(
                "This client_id was used for another memory.",
                {"field": "client_id", "id": str(there.id)},
            )
        )
