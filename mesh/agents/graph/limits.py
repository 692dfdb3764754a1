"""Time limits on the clock that is passed in, so that tests decide what time it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from mesh.agents.agent import TimeLeft
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded

T = TypeVar("T")


class Sooner:
    """The task's time, or the step's if that is less."""

    def __init__(self, whole: TimeLeft, seconds: float, clock: Clock) -> None:
        self._whole = whole
        self._clock = clock
        self._at = clock.monotonic() + seconds

    def remaining(self) -> float:
        return min(self._whole.remaining(), self._at - self._clock.monotonic())


async def within(work: Awaitable[T], seconds: float, clock: Clock, details: dict[str, Any]) -> T:
    """Cancel the work when so much of the clock's time has passed. Raises DeadlineExceeded."""
    running = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({running, timer}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise DeadlineExceeded(f"The step took longer than {seconds:g} s.", details)
    finally:
        timer.cancel()
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
