"""Tells what changed: networks' news become states, states become events on the stream log.

Run by the one host that has the anchoring's lease. An event is written down with the change that it
tells of, sent under its number, and struck off: a crash in between sends it again, and the log
knows it by its number.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Fenced, MailyError
from mesh.core.logging import get_logger
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.leases import Lease
from mesh.storage.trust_batches import TrustBatches
from mesh.storage.trust_telling import TrustTelling
from mesh.streams.log import StreamLog
from mesh.streams.names import trust_overview, trust_stream

log = get_logger("trust.teller")

PAGE = 100


@dataclass(frozen=True, slots=True)
class TellerOptions:
    """Seconds."""

    poll_s: float = 0.25
    alarm_s: float = 600.0
    """A root that is not confirmed after so long is reported."""
    look_s: float = 5.0
    """Between two looks for such roots."""
    repeat_s: float = 600.0
    """Between two reports of the same one."""


class Teller:
    def __init__(
        self,
        batches: TrustBatches,
        telling: TrustTelling,
        ledger: PostgresAnchorLedger,
        streams: StreamLog,
        clock: Clock,
        lease: Lease,
        options: TellerOptions,
    ) -> None:
        self._batches = batches
        self._telling = telling
        self._ledger = ledger
        self._streams = streams
        self._clock = clock
        self._lease = lease
        self._options = options
        self._wake = asyncio.Event()
        self._told = self._changes = self._pending = 0
        self._oldest_s = 0.0
        self._reported: dict[object, float] = {}

    async def run(self) -> None:
        """Until cancelled. Raises Fenced when another host has taken over."""
        try:
            await self._run()
        finally:
            metrics.TRUST_PENDING.set(0)  # the next teller says how it is
            metrics.TRUST_OLDEST.set(0)

    async def _run(self) -> None:
        looked = float("-inf")
        while True:
            try:
                moved = await self.take()
                moved = await self.tell() or moved
                if self._clock.monotonic() - looked >= self._options.look_s:
                    looked = self._clock.monotonic()
                    await self.look()
            except Fenced:
                raise
            except MailyError as error:
                log.info("teller.waits", error=type(error).__name__)
                moved = False
            if not moved:
                await self._rest()

    def nudge(self) -> None:
        """There is something new."""
        self._wake.set()

    def statistics(self) -> dict[str, int | float]:
        return {
            "events_told": self._told,
            "anchor_changes": self._changes,
            "pending": self._pending,
            "oldest_pending_s": round(self._oldest_s, 1),
        }

    async def take(self) -> bool:
        """Anchors' changes become states. False: there was none."""
        changes = await self._ledger.changes(limit=PAGE)
        if not changes:
            return False
        for state in await self._telling.take(self._lease, changes):
            metrics.TRUST_STATES.labels(state.value).inc()
        self._changes += len(changes)
        return True

    async def tell(self) -> bool:
        """What is written down goes onto the stream log, in order."""
        entries = await self._telling.to_tell(PAGE)
        for entry in entries:
            streams = [trust_stream(entry.batch), trust_overview(entry.workspace_id)]
            await self._streams.publish(streams, entry.type, entry.data, key=str(entry.id))
            await self._telling.told([entry.id])
            self._told += 1
        return bool(entries)

    async def look(self) -> None:
        """Counts what waits for a network, and reports what has waited too long."""
        self._pending, self._oldest_s = await self._batches.pending()
        metrics.TRUST_PENDING.set(self._pending)
        metrics.TRUST_OLDEST.set(self._oldest_s)
        now = self._clock.monotonic()
        overdue = await self._batches.overdue(self._options.alarm_s)
        known, self._reported = self._reported, {}
        for batch in overdue:
            last = known.get(batch.id)
            if last is None or now - last >= self._options.repeat_s:
                last = now
                log.warning(
                    "batch.overdue",
                    batch=str(batch.id),
                    state=batch.state.value,
                    seconds=self._options.alarm_s,
                )
            self._reported[batch.id] = last

    async def _rest(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(self._options.poll_s):
                await self._wake.wait()
        except TimeoutError:
            pass
