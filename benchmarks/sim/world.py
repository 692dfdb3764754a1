"""Virtual time: events in order of their moment, processes that sleep through theirs."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable


class World:
    """Nothing in it depends on anything but the seed and the order of calls."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.ran = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= until and not done():
            self.now, _, action = heapq.heappop(self._events)
            self.ran += 1
            action()


class Process:
    """What can be killed and paused. Its callbacks wait while it sleeps and never run once it is
    dead; what it has sent before is on its way either way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alive = True
        self.sleeps_until = 0.0

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.world.after(seconds, lambda: self._wake(action))

    def _wake(self, action: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.sleeps_until > self.world.now:
            self.world.at(self.sleeps_until, lambda: self._wake(action))
            return
        action()

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """First after a part of it, so that many don't tick together."""

        def tick() -> None:
            action()
            self.later(seconds, tick)

        self.later(seconds * self.world.rng.random(), tick)

    def pause(self, seconds: float) -> None:
        self.sleeps_until = max(self.sleeps_until, self.world.now + seconds)

    def kill(self) -> None:
        self.alive = False
