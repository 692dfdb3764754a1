"""Work for other processes: pure functions, so many at once, given again when a process dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Work(Protocol):
    async def run(self, function: Callable[..., T], *args: Any, timeout_s: float) -> T:
        """``function`` must be pure and importable. Waits for its turn. Raises what it raises,
        DeadlineExceeded and Unavailable."""
        ...

    def statistics(self) -> dict[str, int | float]: ...


class ThreadWork:
    """In threads of this process: for tests, and where there is no cluster."""

    def __init__(self, at_once: int = 2) -> None:
        self._gate = asyncio.Semaphore(at_once)
        self._done = 0

    async def run(self, function: Callable[..., T], *args: Any, timeout_s: float) -> T:
        async with self._gate:
            result = await asyncio.to_thread(function, *args)
        self._done += 1
        return result

    def statistics(self) -> dict[str, int | float]:
        return {"work_done": self._done}
