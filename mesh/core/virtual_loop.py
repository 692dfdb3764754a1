"""An event loop whose time jumps to the next timer when nothing else is to do.

Code that waits by asyncio alone (``sleep``, ``timeout``, futures) runs in it unchanged, hours in
milliseconds, and the same way each time: a simulation is replayable by its seed. There is no
input or output; a program in which nobody waits for time any more is stuck, and that is said.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_700_000_000.0
"""Unix seconds at which virtual time begins."""


class Stuck(RuntimeError):
    """Every task waits for something that nobody will do."""


class _Jump(selectors.SelectSelector):
    """Instead of waiting for files, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing will ever happen: every task waits for another")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Run a coroutine in it with ``run_virtual``."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


class LoopClock:
    """The running loop's time as a Clock: virtual in a VirtualLoop."""

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` in virtual time. Raises Stuck."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
