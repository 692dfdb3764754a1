"""Clocks are passed in, so that tests decide what time it is."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds: for what is stored or shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: for durations and deadlines."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class VirtualClock:
    """Time stands still until ``advance``; sleepers wake in order of their time."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        event = asyncio.Event()
        self._count += 1
        self._sleepers.append((self._now + seconds, self._count, event))
        await event.wait()

    async def advance(self, seconds: float) -> None:
        """Move time on, waking each sleeper at its own moment."""
        target = self._now + seconds
        while self._sleepers:
            self._sleepers.sort(key=lambda s: s[:2])
            at, _, event = self._sleepers[0]
            if at > target:
                break
            self._sleepers.pop(0)
            self._now = max(self._now, at)
            event.set()
            for _ in range(5):  # let the sleeper run on to its next wait
                await asyncio.sleep(0)
        self._now = target
