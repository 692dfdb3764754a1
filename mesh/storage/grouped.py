"""One statement for many callers: what comes while one is under way goes together in the next.

For writes that many make at the same time and that each cost a commit. Under no load a call is as
quick as alone; under load the callers share their commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K")


class Grouped(Generic[K]):
    """``write`` must be idempotent. Belongs to one event loop."""

    def __init__(self, write: Callable[[list[K]], Awaitable[object]]) -> None:
        self._write = write
        self._next: list[K] = []
        self._flush: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._calls = 0
        self._writes = 0

    async def add(self, keys: Iterable[K]) -> None:
        """Returns when they are written; raises what the write of their group raised.

        A caller that is cancelled takes nothing back: the group is written all the same.
        """
        self._calls += 1
        self._next.extend(keys)
        if self._flush is None:
            self._flush = asyncio.create_task(self._write_next(self._running))
            # An error that every caller was cancelled away from is nobody's.
            self._flush.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._flush)

    def statistics(self) -> dict[str, int]:
        return {"calls": self._calls, "writes": self._writes}

    async def _write_next(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})  # its errors are its own callers'
        self._running, self._flush = self._flush, None
        group, self._next = self._next, []
        self._writes += 1
        await self._write(group)
