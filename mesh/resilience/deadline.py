"""Deadlines travel: each hop passes on what is left, and cancelled work stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import DeadlineExceeded


class Deadline:
    """A moment on a clock's monotonic scale. Immutable."""

    __slots__ = ("_at", "_clock")

    def __init__(self, at: float, clock: Clock) -> None:
        """``at``: seconds on ``clock.monotonic()``; mostly ``after`` or ``at_unix`` is handier."""
        self._at = at
        self._clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Clock | None = None) -> Deadline:
        """``seconds`` from now; zero or less has passed already."""
        clock = clock or SystemClock()
        return cls(clock.monotonic() + seconds, clock)

    @classmethod
    def at_unix(cls, unix_s: float, clock: Clock | None = None) -> Deadline:
        """The moment that a row or another host named, in Unix seconds."""
        clock = clock or SystemClock()
        return cls(clock.monotonic() + unix_s - clock.now(), clock)

    def remaining(self) -> float:
        """Seconds left; zero or less when it has passed."""
        return self._at - self._clock.monotonic()

    @property
    def expired(self) -> bool:
        return self.remaining() <= 0

    def unix(self) -> float:
        """Unix seconds of the moment, for another process."""
        return self._clock.now() + self.remaining()

    def check(self, what: str = "work") -> None:
        """Raises DeadlineExceeded when it has passed; ``what`` goes into details."""
        if self.expired:
            raise DeadlineExceeded(details={"what": what})

    def child(self, seconds: float) -> Deadline:
        """The sooner of this one and ``seconds`` from now: a part never outlives the whole."""
        return Deadline(min(self._at, self._clock.monotonic() + seconds), self._clock)

    @asynccontextmanager
    async def limit(self, what: str = "work") -> AsyncIterator[None]:
        """Cancel the block when the time is up. Raises DeadlineExceeded then, or at once when it
        has passed. Runs on the event loop's time, so give it a real clock's deadline."""
        self.check(what)
        timer = asyncio.timeout(self.remaining())
        try:
            async with timer:
                yield
        except TimeoutError as error:
            if timer.expired():
                raise DeadlineExceeded(details={"what": what}) from error
            raise

    def __repr__(self) -> str:
        return f"Deadline(remaining={self.remaining():.3f})"
