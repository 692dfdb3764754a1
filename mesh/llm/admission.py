"""Slots of an engine: so many requests run, so many wait in order, the rest are refused at once.

The wait ends with the caller's deadline, and a caller that goes away while waiting leaves no
trace. One event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.core.errors import DeadlineExceeded, Overloaded, Unavailable


class Admission:
    """``slots`` run at once, ``queue_limit`` more wait."""

    def __init__(self, slots: int, queue_limit: int) -> None:
        self.slots = slots
        self.queue_limit = queue_limit
        self.active = 0
        self.refused = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def slot(self, timeout_s: float) -> AsyncIterator[None]:
        """Hold one slot. Raises Overloaded (queue full), DeadlineExceeded (waited too long) or
        Unavailable (closed)."""
        await self._acquire(timeout_s)
        try:
            yield
        finally:
            self._release()

    def close(self) -> None:
        """Refuse whoever waits or comes."""
        self._closed = True
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Unavailable("the engine is shutting down", retry_after_s=1.0))

    async def _acquire(self, timeout_s: float) -> None:
        if self._closed:
            raise Unavailable("the engine is shutting down", retry_after_s=1.0)
        if self.active < self.slots and not self._waiting:
            self.active += 1
            return
        if len(self._waiting) >= self.queue_limit:
            self.refused += 1
            raise Overloaded(
                f"all {self.slots} slots are busy and {self.queue_limit} requests wait already",
                retry_after_s=1.0,
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except BaseException as exc:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release()  # the slot came in the same moment as the end of the wait
            elif future in self._waiting:
                self._waiting.remove(future)
            if isinstance(exc, TimeoutError):
                raise DeadlineExceeded("the deadline passed while waiting for a slot") from exc
            raise

    def _release(self) -> None:
        """Hand the slot to the one who waited longest, else give it back."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self.active -= 1
