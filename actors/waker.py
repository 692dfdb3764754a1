"""Wakes waiting tasks whose time is up, and says which tasks no release here can run.

Every worker does it, so it needs no coordinator: the statement takes rows that nobody else holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mesh.core.clock import Clock
from mesh.core.errors import MailyError
from mesh.core.logging import get_logger
from mesh.storage.waits import WaitRepository

log = get_logger("waker")


@dataclass(frozen=True, slots=True)
class WakerOptions:
    """How often it looks; seconds."""

    every_s: float = 1.0
    strange_every_s: float = 30.0
    """For queued tasks of graphs that this release does not know."""


class Waker:
    """``await run()`` until cancelled."""

    def __init__(
        self,
        waits: WaitRepository,
        clock: Clock,
        *,
        on_woken: Callable[[], None],
        graphs: Iterable[str],
        options: WakerOptions = WakerOptions(),
    ) -> None:
        self._waits = waits
        self._clock = clock
        self._on_woken = on_woken
        self._graphs = sorted(graphs)
        self._options = options
        self._woken = 0
        self._strange: dict[str, int] = {}

    async def run(self) -> None:
        looked = -self._options.strange_every_s
        while True:
            try:
                await self.wake()
                if self._clock.monotonic() - looked >= self._options.strange_every_s:
                    looked = self._clock.monotonic()
                    await self.look_for_strangers()
            except MailyError as error:
                log.debug("waker.failed", code=error.code)
            await self._clock.sleep(self._options.every_s)

    async def wake(self) -> int:
        """Queue what is due; how many there were."""
        woken = await self._waits.wake_due()
        if woken:
            self._woken += woken
            self._on_woken()
        return woken

    async def look_for_strangers(self) -> None:
        """Log what only another release can run, once for each change."""
        strange = await self._waits.strange_graphs(self._graphs)
        if strange and strange.keys() != self._strange.keys():
            log.warning("worker.unknown_graphs", graphs=strange)
        self._strange = strange

    def statistics(self) -> dict[str, int | float]:
        return {"woken": self._woken, "unknown_graph_tasks": sum(self._strange.values())}
