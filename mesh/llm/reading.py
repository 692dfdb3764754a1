"""Who may have a prompt read: long ones one after another, short and urgent ones before them.

llama.cpp fills each step of its batch from its slots in the order of their numbers. With six long
prompts in its slots a short question waits for all six: half a minute on one core, just when an
engine has to read again what another one had read before it died. Reading them side by side gains
nothing, since one prompt fills a step alone. So

- one long prompt is read at a time, the others wait outside, by urgency;
- a short one is read at once, and the long one **gives way** to it between two steps: its run is
  ended, and when it is asked for again, what was read of it is still in its slot or in the
  prompt cache. A more urgent long one is given way to likewise;
- it gives way for no longer than it has read, so that at least half of the time stays with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack

from mesh.core.clock import Clock, SystemClock
from mesh.resilience.bulkhead import Bulkhead

LEAST_S = 1.0
"""Of giving way: also who has only just begun does so."""
UNKNOWN = 1 << 30
"""Tokens left to read where nothing was said of it."""


class ReadingGate:
    """Of one engine. One event loop; not thread-safe."""

    def __init__(
        self,
        name: str,
        *,
        queue: int,
        short_bytes: int,
        step_tokens: int,
        clock: Clock | None = None,
    ) -> None:
        """``queue``: long prompts that may wait. ``short_bytes``: requests up to this size, as
        they go to the engine, are short. ``step_tokens``: the engine reads so many at once."""
        self.turns = Bulkhead(name, concurrency=1, queue=queue)
        self.step_tokens = step_tokens
        self.clock = clock or SystemClock()
        self.given_way = 0
        self._short_bytes = short_bytes
        self._short = 0
        self._no_short = asyncio.Event()
        self._no_short.set()
        self._reader: Reading | None = None

    @property
    def queued(self) -> int:
        return self.turns.queued

    @property
    def refused(self) -> int:
        return self.turns.refused

    def turn(self, size: int, timeout_s: float, *, priority: int = 0) -> Reading:
        """Of a request of ``size`` bytes. ``priority``: higher goes first."""
        return Reading(self, size > self._short_bytes, timeout_s, priority)

    def close(self) -> None:
        """Refuse whoever waits or comes."""
        self.turns.close()

    def short_began(self) -> None:
        self._short += 1
        self._no_short.clear()
        if self._reader is not None:
            self._reader.give_way()

    def short_ended(self) -> None:
        self._short -= 1
        if not self._short:
            self._no_short.set()

    def long_comes(self, priority: int) -> None:
        if self._reader is not None and self._reader.priority < priority:
            self._reader.outranked = True
            self._reader.give_way()

    def began(self, reader: Reading) -> None:
        self._reader = reader

    def left(self, reader: Reading) -> None:
        if self._reader is reader:
            self._reader = None

    async def without_short(self, limit_s: float) -> None:
        """Until no short prompt is being read, or the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._no_short.wait()


class Reading:
    """One prompt's turn, from the wait for it until it is read (``told``) or the block ends.

    Whoever runs it says ``running`` with a way to end the run between two steps, ``told`` what is
    left, and when a run was ended that way, awaits ``again`` and runs anew.
    """

    def __init__(self, gate: ReadingGate, long: bool, timeout_s: float, priority: int) -> None:
        self.priority = priority
        self.outranked = False
        """By a long prompt that came since."""
        self._gate = gate
        self._long = long
        self._timeout_s = timeout_s
        self._held = AsyncExitStack()
        self._done = False
        self._pause: Callable[[], None] | None = None
        self._unread = UNKNOWN
        self._began = self._waited_s = 0.0

    async def __aenter__(self) -> Reading:
        """Raises what ``Bulkhead.slot`` does."""
        if self._long:
            self._gate.long_comes(self.priority)
            await self._enter(self._timeout_s)
        else:
            self._gate.short_began()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.done()

    def running(self, pause: Callable[[], None] | None) -> None:
        """``pause``: ends the run between two steps; None: this one can't be asked for again."""
        self._pause = pause if self._long else None
        self._began = self._gate.clock.monotonic()

    async def told(self, unread: int) -> None:
        """Tokens that are left. One step before the end the turn is over, lest the next step be
        without a prompt."""
        self._unread = unread
        if unread <= self._gate.step_tokens:
            await self.done()

    async def again(self, timeout_s: float) -> None:
        """Wait for the next run. Raises what ``Bulkhead.slot`` does."""
        self._gate.given_way += 1
        if self._done:  # it was ended with a few tokens left: they need no turn
            return
        paused = self._gate.clock.monotonic()
        await self._gate.without_short(min(timeout_s, max(LEAST_S, paused - self._began)))
        if self.outranked:
            self.outranked = False
            await self._leave()
            await self._enter(timeout_s - (self._gate.clock.monotonic() - paused))
        self._waited_s = self._gate.clock.monotonic() - paused

    async def done(self) -> None:
        """The next one may begin. Does nothing the second time."""
        if self._done:
            return
        self._done = True
        if self._long:
            await self._leave()
        else:
            self._gate.short_ended()

    def give_way(self) -> None:
        """Called by the gate."""
        read_s = self._gate.clock.monotonic() - self._began
        worth_it = self._unread > 2 * self._gate.step_tokens and read_s >= self._waited_s
        if self._pause is not None and worth_it:
            pause, self._pause = self._pause, None
            pause()

    async def _enter(self, timeout_s: float) -> None:
        slot = self._gate.turns.slot(timeout_s, priority=self.priority)
        await self._held.enter_async_context(slot)
        self._gate.began(self)

    async def _leave(self) -> None:
        self._pause = None
        self._gate.left(self)
        await self._held.aclose()
