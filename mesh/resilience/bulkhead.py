"""A bulkhead: so many at once, so many waiting, the rest is refused at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.core.errors import DeadlineExceeded, Overloaded
from mesh.core.metrics import OVERLOADED, QUEUE_DEPTH, bounded
from mesh.resilience.deadline import Deadline


class Bulkhead:
    """Bounded concurrency with a bounded queue, first come, first served. One event loop."""

    def __init__(
        self, name: str, *, concurrency: int, queue: int, retry_after_s: float = 1.0
    ) -> None:
        """``queue``: callers that may wait, 0 for none. ``retry_after_s``: said to the refused."""
        if concurrency < 1 or queue < 0:
            raise ValueError("a bulkhead needs concurrency >= 1 and queue >= 0")
        self.name = name
        self._label = bounded("bulkhead", name)
        self._concurrency = concurrency
        self._queue = queue
        self._retry_after_s = retry_after_s
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._entered = 0
        self._refused = 0
        self._expired = 0

    @asynccontextmanager
    async def slot(self, deadline: Deadline | None = None) -> AsyncIterator[None]:
        """Hold one of the places for the block.

        Raises Overloaded when the queue is full, DeadlineExceeded when no place came in time.
        """
        await self._enter(deadline)
        try:
            yield
        finally:
            self._leave()

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": self._active,
            "waiting": len(self._waiting),
            "entered": self._entered,
            "refused": self._refused,
            "expired": self._expired,
        }

    async def _enter(self, deadline: Deadline | None) -> None:
        if deadline is not None:
            deadline.check(self.name)
        # Who gave up but has not run since still stands in the queue: not before us.
        if self._active < self._concurrency and all(turn.done() for turn in self._waiting):
            self._active += 1
            self._entered += 1
            return
        if len(self._waiting) >= self._queue:
            self._refused += 1
            OVERLOADED.labels(self._label).inc()
            raise Overloaded(
                f"The queue of {self.name} is full.",
                {"queue": self.name},
                retry_after_s=self._retry_after_s,
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        QUEUE_DEPTH.labels(self._label).inc()
        try:
            async with asyncio.timeout(None if deadline is None else deadline.remaining()):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._leave()  # the place was given to us just as we went
            else:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                self._expired += 1
                raise DeadlineExceeded(details={"what": self.name}) from error
            raise
        finally:
            QUEUE_DEPTH.labels(self._label).dec()
        self._entered += 1

    def _leave(self) -> None:
        """Hand the place to the longest waiting, or free it."""
        for turn in self._waiting:
            if not turn.done():
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._active -= 1
