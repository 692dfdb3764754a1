"""A watchdog over one stream: it ends the wait for an item that does not come.

``asyncio.timeout`` per item would cost a timer per item. Here one timer per stream looks, when it
fires, at how long the present wait has lasted, and is set anew; an item costs two assignments.
"""

from __future__ import annotations

import asyncio
import math


class Watch:
    """``begin`` before each await, ``end`` after it. When ``CancelledError`` comes out of the
    await, ``caught`` tells whether it was ours (and takes it back) or the caller's."""

    __slots__ = (
        "_before",
        "_deadline",
        "_fired",
        "_limit",
        "_loop",
        "_since",
        "_task",
        "_timer",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """``deadline``: of the loop's clock; no wait goes beyond it."""
        self._loop = loop
        self._deadline = deadline
        self._limit: float = -1.0
        self._since: float | None = None
        self._task: asyncio.Task[object] | None = None
        self._before = 0
        self._fired = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, limit_s: float | None) -> None:
        """The running task waits from now on, at most so long; None: until the deadline."""
        limit = math.inf if limit_s is None else limit_s
        self._task = asyncio.current_task()
        self._since = self._loop.time()
        if self._task is not None:
            self._before = self._task.cancelling()
        if limit != self._limit or self._timer is None:
            self._limit = limit
            due = min(self._since + limit, self._deadline)
            # One that fires too early looks again; only one that fires too late is replaced.
            if self._timer is None or due < self._timer.when():
                self._set(due)

    def end(self) -> None:
        self._since = None

    def fire(self) -> None:
        """End the present wait, where there is one."""
        if self._since is not None and self._task is not None and not self._fired:
            self._fired = True
            self._task.cancel()

    def caught(self) -> bool:
        if not self._fired or self._task is None:
            return False
        self._fired = False
        return self._task.uncancel() <= self._before

    def passed(self) -> bool:
        """Whether it is the deadline itself that has passed."""
        return self._loop.time() >= self._deadline

    def close(self) -> None:
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._since is None:  # nobody waits: whoever reads us takes their time
            self._set(min(now + self._limit, max(self._deadline, now + 1.0)))
            return
        due = min(self._since + self._limit, self._deadline)
        if now < due:
            self._set(due)
        else:
            self.fire()
