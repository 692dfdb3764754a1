"""What a trust host does for its callers, with no Ray in it: take in, close, revoke.

It owns shards (``shards``), writes to their batches (``trust_writer``) and seals them
(``trust_sealer``). Every write is made under a lease whose epoch is checked in its transaction; a
caller that asks the wrong host is told to look again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from actors.patience import PatienceOptions, pause
from actors.shards import ShardOptions, Shards
from actors.trust_lane import Answer
from actors.trust_sealer import Sealer, Want
from actors.trust_writer import BatchWriter
from mesh.core.clock import Clock
from mesh.core.errors import Conflict, Fenced, MailyError
from mesh.core.ids import uuid7
from mesh.core.logging import get_logger
from mesh.storage.leases import Leases
from mesh.storage.scrub import Scrubber
from mesh.storage.trust_batches import BatchRow, TrustBatches
from mesh.storage.trust_erasures import TrustErasures
from mesh.storage.trust_keys import TrustKeys
from mesh.storage.trust_leaves import TrustLeaves
from mesh.storage.trust_revocations import RevocationRow, TrustRevocations
from mesh.trust.intake import Claims
from mesh.trust.pages import Prepared
from mesh.trust.placement import RING, shard_of
from mesh.trust.work import Work

log = get_logger("trust.host")

SEALS = 2
"""Batches that are sealed at once."""
TRIES = 3
STUCK = 3
"""So many failures to close a batch make the host unhealthy."""
_PAUSES = PatienceOptions(first_pause_s=0.5, longest_pause_s=30.0)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Rhythms in seconds, sizes in leaves and bytes."""

    shards: ShardOptions = field(default_factory=ShardOptions)
    rolling_s: float = 300.0
    rolling_leaves: int = 100_000
    revocations_s: float = 3.0
    max_leaves: int = 5_000_000
    queue_bytes: int = 67_108_864
    pass_s: float = 0.5
    """Between two looks for batches that are to be closed."""
    erasures_s: float = 30.0
    """Erasures that nobody finished are finished after so long."""
    empty_s: float = 86_400.0
    """A campaign into which nothing came for so long is gone."""


@dataclass(frozen=True, slots=True)
class HostParts:
    """What a host works with."""

    batches: TrustBatches
    leaves: TrustLeaves
    revocations: TrustRevocations
    erasures: TrustErasures
    keys: TrustKeys
    leases: Leases
    scrubber: Scrubber
    work: Work
    want: Want
    clock: Clock


class TrustLoop:
    """One incarnation of one host. ``await run()`` until cancelled. ``nudge``: told when a root is
    there for the networks."""

    def __init__(
        self,
        host: str,
        parts: HostParts,
        options: HostOptions,
        nudge: Callable[[], object] = lambda: None,
    ) -> None:
        self.host = host
        self._parts = parts
        self._options = options
        self.shards = Shards(RING, host, parts.leases, parts.clock, options.shards, self._left)
        self.writer = BatchWriter(
            parts.batches,
            parts.leaves,
            self.shards.lease,
            self.shards.doubt,
            self._full,
            queue_bytes=options.queue_bytes,
            rolling_leaves=options.rolling_leaves,
            max_leaves=options.max_leaves,
        )
        self.sealer = Sealer(
            parts.batches,
            parts.leaves,
            parts.keys,
            parts.work,
            parts.want,
            parts.clock,
            self.shards.lease,
            lambda _: nudge(),
        )
        self._gate = asyncio.Semaphore(SEALS)
        self._closings: dict[UUID, asyncio.Task[BatchRow]] = {}
        self._failures: dict[UUID, tuple[int, float, str]] = {}
        """Batches that could not be closed: how often, when to try again, and why."""
        self._failing: str | None = None
        self._revoked = 0

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.shards.run())
                group.create_task(self._passes())
                group.create_task(self._sweep())
        finally:
            for task in self._closings.values():
                task.cancel()
            await asyncio.gather(*self._closings.values(), return_exceptions=True)
            await self.writer.aclose()

    def unhealthy(self) -> str | None:
        stuck = next((why for count, _, why in self._failures.values() if count >= STUCK), None)
        return self.shards.unhealthy() or self._failing or stuck

    def statistics(self) -> dict[str, int | float]:
        return {
            "revoked": self._revoked,
            **self.shards.statistics(),
            **self.writer.statistics(),
            **self.sealer.statistics(),
            **self._parts.work.statistics(),
            **self._parts.scrubber.statistics(),
        }

    async def add(
        self, workspace: UUID, batch: UUID | None, rows: Prepared, first_line: int, claims: Claims
    ) -> Answer:
        """``batch`` None: the workspace's rolling one."""
        return await self.writer.add(workspace, batch, rows, first_line, claims)

    async def close(self, workspace: UUID, batch: UUID) -> BatchRow:
        """Close and seal; a repeat gives what is there. Raises Conflict when it is empty."""
        row = await self._parts.batches.get(batch, workspace)
        return row if row.root is not None else await asyncio.shield(self._closing(row))

    async def revoke(
        self,
        workspace: UUID,
        row: RevocationRow,
        certificate: str,
        of: BatchRow,
        document: bytes | None,
    ) -> bool:
        """False: it was revoked before."""
        shard = shard_of(workspace)
        for _ in range(TRIES):
            lease = self.shards.lease(shard)
            await self._parts.batches.create(uuid7(), workspace, shard, "revocations")
            try:
                done = await self._parts.revocations.add(
                    lease, workspace, row, certificate, of, document
                )
            except Fenced:
                self.shards.doubt()
                raise
            if done:
                self._revoked += 1
                return True
            if await self._parts.revocations.of(row.leaf) is not None:
                return False
        raise Conflict("Revocations are being closed: try again.", {}, retry_after_s=1.0)

    def _left(self, shards: frozenset[int]) -> None:
        self.writer.drop(shards)
        self._failures.clear()

    def _full(self, batch: BatchRow) -> None:
        self._closing(batch)

    def _closing(self, batch: BatchRow) -> asyncio.Task[BatchRow]:
        task = self._closings.get(batch.id)
        if task is None or task.done():
            task = asyncio.create_task(self._close(batch))
            self._closings[batch.id] = task
            task.add_done_callback(lambda done: self._closed(batch.id, done))
        return task

    async def _close(self, batch: BatchRow) -> BatchRow:
        # Always asked for: what was read of it may be old.
        row = await self.writer.close(batch)
        async with self._gate:
            return row if row.root is not None else await self.sealer.seal(row)

    def _closed(self, batch: UUID, task: asyncio.Task[BatchRow]) -> None:
        self._closings.pop(batch, None)
        if task.cancelled():
            return
        error = task.exception()
        count, _, _ = self._failures.pop(batch, (0, 0.0, ""))
        if isinstance(error, Fenced):
            self.shards.doubt()
        if error is None or isinstance(error, Conflict):  # (closed by a newer owner, or empty)
            return
        again = self._parts.clock.monotonic() + pause(count + 1, _PAUSES)
        self._failures[batch] = count + 1, again, f"batch {batch} can't be closed: {error}"
        log.warning("close.failed", batch=str(batch), error=type(error).__name__, tries=count + 1)

    async def _passes(self) -> None:
        options = self._options
        while True:
            await self._parts.clock.sleep(options.pass_s)
            try:
                due = await self._parts.batches.due(
                    sorted(self.shards.held), options.rolling_s, options.revocations_s
                )
                self._failing = None
            except MailyError as error:
                self._failing = error.message
                continue
            now = self._parts.clock.monotonic()
            for batch in due:
                if self._failures.get(batch.id, (0, 0.0, ""))[1] <= now:
                    self._closing(batch)

    async def finish_erasures(self, older_than_s: float) -> None:
        """What a process that died had begun to erase leaves the disk."""
        begun = await self._parts.erasures.unscrubbed(older_than_s)
        if begun and (await self._parts.scrubber.scrub(set(begun.values()))).keys:
            await self._parts.erasures.scrubbed([*begun])

    async def _sweep(self) -> None:
        while True:
            await self._parts.clock.sleep(self._options.erasures_s)
            try:
                await self.finish_erasures(self._options.erasures_s)
                await self._parts.batches.drop_empty(
                    sorted(self.shards.held), self._options.empty_s
                )
            except MailyError as error:
                log.info("sweep.waits", error=type(error).__name__)
