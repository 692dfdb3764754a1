"""A bulkhead: so many at once, so many waiting by urgency, the rest is refused at once.

Who waits goes in order of priority, and each ``aging_s`` of waiting counts as one step of it, so
nobody waits for ever behind a stream of more urgent ones. That order never changes while people
wait (all of them age alike), so the queue is a sorted list. Where it is full, a more urgent
newcomer takes the place of the least urgent who waits.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import DeadlineExceeded, MailyError, Overloaded, Unavailable
from mesh.core.metrics import OVERLOADED, QUEUE_DEPTH, bounded

AGING_S = 5.0


class _Turn:
    """One who waits; sorts before the less urgent and the later."""

    __slots__ = ("future", "key", "priority")

    def __init__(self, key: tuple[float, int], priority: int, future: asyncio.Future[None]) -> None:
        self.key = key
        self.priority = priority
        self.future = future

    def __lt__(self, other: _Turn) -> bool:
        return self.key < other.key


class Bulkhead:
    """Bounded concurrency with a bounded queue. One event loop; not thread-safe."""

    def __init__(
        self,
        name: str,
        *,
        concurrency: int,
        queue: int,
        retry_after_s: float = 1.0,
        aging_s: float = AGING_S,
        clock: Clock | None = None,
    ) -> None:
        """``queue``: callers that may wait, 0 for none. ``retry_after_s``: said to the refused.
        ``aging_s``: seconds of waiting that are worth one step of priority."""
        if concurrency < 1 or queue < 0 or aging_s <= 0:
            raise ValueError("a bulkhead needs concurrency >= 1, queue >= 0 and aging_s > 0")
        self.name = name
        self.active = 0
        """Who holds a place now."""
        self._label = bounded("bulkhead", name)
        self._concurrency = concurrency
        self._queue = queue
        self._retry_after_s = retry_after_s
        self._aging_s = aging_s
        self._clock = clock or SystemClock()
        self._waiting: list[_Turn] = []
        self._closed = False
        self._count = 0
        self._entered = 0
        self._refused = 0
        self._expired = 0

    @property
    def queued(self) -> int:
        """Who waits for a place now."""
        return len(self._waiting)

    @property
    def refused(self) -> int:
        return self._refused

    @asynccontextmanager
    async def slot(
        self, timeout_s: float | None = None, *, priority: int = 0
    ) -> AsyncIterator[None]:
        """Hold one of the places for the block. ``priority``: higher goes first.

        Raises Overloaded when the queue is full, DeadlineExceeded when no place came within
        ``timeout_s``, Unavailable once closed.
        """
        await self._enter(timeout_s, priority)
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Refuse whoever waits or comes; who is inside may finish."""
        self._closed = True
        while self._waiting:
            self._send_away(self._waiting.pop(), _closing())

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": self.active,
            "waiting": len(self._waiting),
            "entered": self._entered,
            "refused": self._refused,
            "expired": self._expired,
        }

    async def _enter(self, timeout_s: float | None, priority: int) -> None:
        if self._closed:
            raise _closing()
        if timeout_s is not None and timeout_s <= 0:
            self._expired += 1
            raise DeadlineExceeded(details={"what": self.name})
        # Who gave up but has not run since still stands in the queue: not before us.
        if self.active < self._concurrency and all(turn.future.done() for turn in self._waiting):
            self.active += 1
            self._entered += 1
            return
        if len(self._waiting) >= self._queue and not self._make_room(priority):
            raise self._full()
        turn = self._line_up(priority)
        QUEUE_DEPTH.labels(self._label).inc()
        try:
            async with asyncio.timeout(timeout_s):
                await turn.future
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.future.cancelled() and turn.future.exception() is None:
                self._leave()  # the place was given to us just as we went
            if isinstance(error, TimeoutError):
                self._expired += 1
                raise DeadlineExceeded(
                    "The deadline passed while waiting for a place.", {"what": self.name}
                ) from error
            raise
        finally:
            QUEUE_DEPTH.labels(self._label).dec()
        self._entered += 1

    def _line_up(self, priority: int) -> _Turn:
        self._count += 1
        key = (self._clock.monotonic() - priority * self._aging_s, self._count)
        turn = _Turn(key, priority, asyncio.get_running_loop().create_future())
        insort(self._waiting, turn)
        return turn

    def _make_room(self, priority: int) -> bool:
        """Send the last in line away where the newcomer is more urgent."""
        if not self._waiting or self._waiting[-1].priority >= priority:
            return False
        self._send_away(self._waiting.pop(), self._full())
        return True

    def _full(self) -> Overloaded:
        self._refused += 1
        OVERLOADED.labels(self._label).inc()
        return Overloaded(
            f"The queue of {self.name} is full.",
            {"queue": self.name},
            retry_after_s=self._retry_after_s,
        )

    @staticmethod
    def _send_away(turn: _Turn, error: MailyError) -> None:
        if not turn.future.done():
            turn.future.set_exception(error)

    def _leave(self) -> None:
        """Hand the place to the most urgent, or free it."""
        while self._waiting:
            turn = self._waiting.pop(0)
            if not turn.future.done():
                turn.future.set_result(None)
                return
        self.active -= 1


def _closing() -> Unavailable:
    return Unavailable("the engine is shutting down", retry_after_s=1.0)
