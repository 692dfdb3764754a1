"""Takes leaves into open batches and closes these: group commit, one lane for each batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal
from uuid import UUID

from actors.trust_lane import Answer, Held, Lane, Request, hold, sift
from mesh.core import metrics
from mesh.core.errors import Conflict, Fenced, Overloaded
from mesh.core.ids import uuid7
from mesh.storage.leases import Lease
from mesh.storage.trust_batches import BatchRow, TrustBatches
from mesh.storage.trust_leaves import TrustLeaves
from mesh.trust.intake import Claims
from mesh.trust.marks import keys_of
from mesh.trust.pages import Prepared, pages_of
from mesh.trust.placement import shard_of

GROUP = 4_096
"""Leaves of one transaction, about."""
LANES = 1_024
"""Batches that stay in memory though nobody writes to them at the moment …"""
MARKS_BYTES = 268_435_456
"""… and what their marks may take: those that were not used for longest go first."""

LaneKind = Literal["campaign", "rolling"]


class BatchWriter:
    """``lease``: what entitles to write to a shard now; raises where it is not ours. ``full``:
    told of a batch that has as many leaves as it may."""

    def __init__(
        self,
        batches: TrustBatches,
        leaves: TrustLeaves,
        lease: Callable[[int], Lease],
        lost: Callable[[], None],
        full: Callable[[BatchRow], None],
        *,
        queue_bytes: int,
        rolling_leaves: int,
        max_leaves: int,
    ) -> None:
        self._batches = batches
        self._leaves = leaves
        self._lease = lease
        self._lost = lost
        self._full = full
        self._queue_bytes = queue_bytes
        self._rolling_leaves = rolling_leaves
        self._max_leaves = max_leaves
        self._lanes: dict[UUID, Lane] = {}
        self._bytes = 0
        self._groups = self._written = self._repeated = 0

    async def add(
        self,
        workspace: UUID,
        batch: UUID | None,
        rows: Prepared,
        first_line: int,
        claims: Claims | None = None,
    ) -> Answer:
        """When all of them are committed. ``batch`` None: the workspace's rolling one.

        Raises Overloaded, Fenced, Unavailable, NotFound and Conflict (closed, full, another
        message with the same Message-ID, or a message shows another place than it gets)."""
        weight = rows.weight
        if self._bytes and self._bytes + weight > self._queue_bytes:
            metrics.OVERLOADED.labels("trust").inc()
            raise Overloaded("Too many messages wait to be certified.", retry_after_s=1.0)
        lane = self._lane(batch or workspace, "campaign" if batch else "rolling")
        loop = asyncio.get_running_loop()
        request = Request(workspace, rows, first_line, loop.create_future(), claims or {})
        request.answer.add_done_callback(lambda _: self._leave(weight))
        self._bytes += weight
        lane.waiting.append(request)
        if lane.worker is None or lane.worker.done():
            lane.worker = loop.create_task(self._work(lane))
        # A caller that goes away does not take its leaves out of a group that is being written.
        return await asyncio.shield(request.answer)

    async def close(self, batch: BatchRow) -> BatchRow:
        """From now on it takes no more. Raises Conflict when it is empty."""
        lane = self._lane(*_lane_of(batch))
        async with lane.lock:
            row = await self._batches.closing(self._lease(batch.shard), batch.id)
            if lane.held is not None and lane.held.row.id == batch.id:
                lane.former = lane.held if lane.kind == "rolling" else None
                lane.held = None
        return row

    def drop(self, shards: frozenset[int]) -> None:
        """These are another's now."""
        for key, lane in list(self._lanes.items()):
            if shard_of(key) in shards:
                lane.forget()
                if not lane.waiting:
                    del self._lanes[key]

    async def aclose(self) -> None:
        workers = [lane.worker for lane in self._lanes.values() if lane.worker is not None]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for lane in self._lanes.values():
            for request in lane.waiting:
                request.fail(asyncio.CancelledError())
        self._lanes.clear()

    def statistics(self) -> dict[str, int | float]:
        return {
            "batches_held": sum(lane.held is not None for lane in self._lanes.values()),
            "marks_bytes": sum(lane.bytes for lane in self._lanes.values()),
            "waiting_bytes": self._bytes,
            "groups": self._groups,
            "written": self._written,
            "repeated": self._repeated,
        }

    def _lane(self, key: UUID, kind: LaneKind) -> Lane:
        lane = self._lanes.pop(key, None) or Lane(key, kind)
        self._lanes[key] = lane  # the one that was used last is the last
        self._make_room(lane)
        return lane

    def _make_room(self, wanted: Lane) -> None:
        held = sum(lane.bytes for lane in self._lanes.values())
        for key, lane in list(self._lanes.items()):
            if len(self._lanes) <= LANES and held <= MARKS_BYTES:
                return
            if lane is not wanted and not lane.waiting and not lane.lock.locked():
                held -= lane.bytes
                del self._lanes[key]

    def _leave(self, weight: int) -> None:
        self._bytes -= weight

    async def _work(self, lane: Lane) -> None:
        while lane.waiting:
            group: list[Request] = []
            count = 0
            while lane.waiting and count < GROUP:
                request = lane.waiting.pop(0)
                count += len(request.rows)
                group.append(request)
            try:
                async with lane.lock:
                    await self._commit(lane, group)
            except BaseException as error:
                lane.forget()
                if isinstance(error, Fenced):
                    self._lost()
                for request in group:
                    request.fail(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for request in group:
                    request.finish()
            self._groups += 1

    async def _commit(self, lane: Lane, group: list[Request]) -> None:
        shard = shard_of(lane.key)
        lease = self._lease(shard)
        held = await hold(lane, self._batches, self._leaves, shard, uuid7())
        fresh, good = await sift(group, held, lane.former, self._leaves)
        count = sum(map(len, fresh))
        if held.size + count > self._max_leaves:
            raise Conflict("This batch is full.", {"limit": self._max_leaves})
        if fresh:
            await self._write(lease, held, Prepared.join(fresh))
        repeated = sum(len(request.rows) for request in good) - count
        self._written += count
        self._repeated += repeated
        metrics.TRUST_LEAVES.labels("stored").inc(count)
        metrics.TRUST_LEAVES.labels("repeated").inc(repeated)
        if lane.kind == "rolling" and held.size >= self._rolling_leaves:
            self._full(held.row)

    async def _write(self, lease: Lease, held: Held, rows: Prepared) -> None:
        pages = list(pages_of(held.size, rows))
        await self._batches.append(lease, held.row, held.size, pages, rows.by_document())
        held.marks.add(keys_of(rows.marks), held.size)
        held.size += len(rows)


def _lane_of(batch: BatchRow) -> tuple[UUID, LaneKind]:
    if batch.kind == "rolling":
        return batch.workspace_id, "rolling"
    return batch.id, "campaign"
