"""One host's duty for all: to speak to the networks, and to tell what changed.

Whoever gets the lease has it until it dies or is fenced; what the duty writes is checked against
the lease's epoch, so a host that was paused too long can't do harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from actors.patience import PatienceOptions, pause
from actors.shards import ShardOptions
from mesh.contracts.trust import NetworkView
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Fenced, MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.storage.leases import Lease, Leases
from mesh.trust.placement import ANCHORING

log = get_logger("trust.duty")

_PAUSES = PatienceOptions(first_pause_s=0.5, longest_pause_s=15.0)


class Chains(Protocol):
    """``mesh.trust.anchoring.run.Anchoring``, as far as it is needed here."""

    async def run(self) -> None: ...

    async def aclose(self) -> None: ...

    def networks(self) -> list[NetworkView]: ...

    def nudge(self) -> None: ...

    def statistics(self) -> Any: ...


class Telling(Protocol):
    async def run(self) -> None: ...

    def nudge(self) -> None: ...

    def statistics(self) -> dict[str, int | float]: ...


class Duty:
    """``owner``: names this incarnation; the part before ``/`` is the host's name. ``begin``:
    makes what is run, under a lease that was just got."""

    def __init__(
        self,
        owner: str,
        leases: Leases,
        clock: Clock,
        options: ShardOptions,
        begin: Callable[[Lease], Awaitable[tuple[Chains, Telling]]],
    ) -> None:
        self._owner = owner
        self._leases = leases
        self._clock = clock
        self._options = options
        self._begin = begin
        self._running: tuple[Chains, Telling] | None = None
        self._turns = 0
        self._failed: str | None = None

    @property
    def on(self) -> bool:
        return self._running is not None

    async def run(self) -> None:
        """Until cancelled; then the lease is given back."""
        failures = 0
        while True:
            try:
                lease = await self._leases.acquire(ANCHORING, self._owner, self._options.lease_s)
            except MailyError:
                lease = None
            if lease is None:
                await self._clock.sleep(self._options.heartbeat_s)
            elif await self._serve(lease):
                failures, self._failed = 0, None
            else:
                failures += 1
                await self._clock.sleep(pause(failures, _PAUSES))

    def networks(self) -> list[NetworkView]:
        """Raises Unavailable: another host has the duty."""
        if self._running is None:
            raise Unavailable("Another host speaks to the networks.", retry_after_s=0.5)
        return self._running[0].networks()

    def unhealthy(self) -> str | None:
        """Why this host, whose turn it would be, can't do it."""
        return None if self.on else self._failed

    def nudge(self) -> None:
        """There is a root that wants to be anchored, and something to tell."""
        if self._running is not None:
            for part in self._running:
                part.nudge()

    def statistics(self) -> dict[str, int | float]:
        found: dict[str, int | float] = {"duty": int(self.on), "duty_turns": self._turns}
        if self._running is not None:
            found |= self._running[1].statistics()
        return found

    async def _serve(self, lease: Lease) -> bool:
        """False: it ended by an error of its own. True: somebody else has it now."""
        self._turns += 1
        well = True
        log.info("duty.taken", owner=self._owner, epoch=lease.epoch)
        try:
            self._running = await self._begin(lease)
            chains, telling = self._running
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew(lease))
                group.create_task(chains.run())
                group.create_task(telling.run())
        except* Fenced:
            metrics.FENCED.labels("trust").inc()
            log.warning("duty.lost", owner=self._owner)
        except* Exception as errors:
            names = sorted({type(error).__name__ for error in errors.exceptions})
            log.exception("duty.failed", errors=names)
            self._failed = f"the part that speaks to the networks failed: {', '.join(names)}"
            well = False
        finally:
            running, self._running = self._running, None
            if running is not None:
                await asyncio.shield(running[0].aclose())
            await asyncio.shield(self._release(lease))
        return well

    async def _renew(self, lease: Lease) -> None:
        """Raises Fenced, also when it could not be renewed in time: then it may be another's."""
        until = self._clock.monotonic() + self._options.lease_s
        while True:
            await self._clock.sleep(self._options.heartbeat_s)
            began = self._clock.monotonic()
            try:
                async with asyncio.timeout(max(0.05, until - began)):
                    await self._leases.renew(lease, self._options.lease_s)
                until = began + self._options.lease_s
            except Fenced:
                raise
            except (MailyError, TimeoutError) as error:
                if self._clock.monotonic() >= until:
                    raise Fenced("The lease could not be renewed in time.") from error

    async def _release(self, lease: Lease) -> None:
        with suppress(MailyError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._leases.release(lease)
