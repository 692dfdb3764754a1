"""Many subscriptions and one consumer: a socket or a multiplexed event stream.

The consumer takes one delivery after the other, from whichever subscription has something, in
turn. While it sends, nothing is made ready for it in vain: live events wait in bounded feeds, and
a feed that overflows sends its subscription back to the log. No subscription has a task or a timer
of its own while all is well.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mesh.contracts.events import Cursor, Event
from mesh.core.errors import Conflict, NotFound, Unavailable
from mesh.streams.filters import Filter
from mesh.streams.follow import Follower
from mesh.streams.log import StreamLog
from mesh.streams.merge import merge
from mesh.streams.names import endless

AWAY_S = 0.5
"""Until a log that is away is asked again."""
MISSING_S, MISSING_MOST_S = 0.25, 5.0
"""Until a stream that has no event is looked for again: at first, and after many times."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One topic on one socket."""

    id: str
    topic: str
    filter: Filter
    follower: Follower
    queued: bool = False
    misses: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def cursor(self) -> Cursor:
        """Everything up to here was taken."""
        return self.follower.position


@dataclass(slots=True)
class Delivery:
    """What a subscription has."""

    subscription: Subscription
    events: list[Event] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    """Of how many events each was merged."""
    gap: Cursor | None = None
    """Events after this place had been trimmed."""
    ended: bool = False
    """The subscription is over: its stream has ended."""
    missing: bool = False
    """The log knows no such stream (yet, or no longer). It is looked for again by and by."""


class Mux:
    """``wake`` is called when ``take`` may have something. ``merging``: subscriptions that have
    fallen behind are caught up in merged pieces. Belongs to one event loop."""

    def __init__(self, log: StreamLog, wake: Callable[[], None], *, merging: bool = True) -> None:
        self._log = log
        self._merging = merging
        self._wake = wake
        self._subscriptions: dict[str, Subscription] = {}
        self._ready: deque[Subscription] = deque()

    def add(
        self, id: str, topic: str, stream: str, after: Cursor, filter: Filter | None = None
    ) -> Subscription:
        """Raises Conflict where ``id`` is in use."""
        if id in self._subscriptions:
            raise Conflict("This id is in use", {"id": id})

        def ready() -> None:
            self._queue(subscription)

        follower = self._log.follow(stream, after, ready)
        subscription = Subscription(id, topic, filter or Filter(), follower)
        self._subscriptions[id] = subscription
        self._queue(subscription)
        return subscription

    def remove(self, id: str) -> bool:
        """False where there is no such subscription."""
        subscription = self._subscriptions.pop(id, None)
        if subscription is None:
            return False
        if subscription.timer is not None:
            subscription.timer.cancel()
        subscription.follower.close()
        return True

    def get(self, id: str) -> Subscription | None:
        return self._subscriptions.get(id)

    def take(self) -> Delivery | None:
        """The next delivery; None: nothing is there, ``wake`` will be called."""
        while self._ready:
            subscription = self._ready.popleft()
            subscription.queued = False
            if self._subscriptions.get(subscription.id) is not subscription:
                continue
            delivery = self._step(subscription)
            if delivery is not None:
                return delivery
        return None

    def behind_s(self) -> float:
        """How long the slowest subscription has not kept up with its live feed. 0: all do."""
        now = time.monotonic()
        since = [s.follower.behind_since for s in self]
        return max((now - at for at in since if at is not None), default=0.0)

    def close(self) -> None:
        for id in list(self._subscriptions):
            self.remove(id)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._subscriptions.values())

    def __len__(self) -> int:
        return len(self._subscriptions)

    def _queue(self, subscription: Subscription) -> None:
        if not subscription.queued and subscription.timer is None:
            subscription.queued = True
            self._ready.append(subscription)
            self._wake()

    def _park(self, subscription: Subscription, wait_s: float) -> None:
        def again() -> None:
            subscription.timer = None
            self._queue(subscription)

        subscription.timer = asyncio.get_running_loop().call_later(wait_s, again)

    def _step(self, subscription: Subscription) -> Delivery | None:
        follower = subscription.follower
        slow = self._merging and follower.behind_since is not None
        try:
            events = follower.step()
        except NotFound:
            wait_s = min(MISSING_MOST_S, MISSING_S * 1.5**subscription.misses)
            subscription.misses += 1
            self._park(subscription, wait_s)
            return Delivery(subscription, missing=True)
        except Unavailable:
            self._park(subscription, AWAY_S)
            return None
        gap, follower.gap = follower.gap, None
        if not events:
            return None
        subscription.misses = 0
        ended = follower.ended
        last = events[-1]
        if subscription.filter.types or subscription.filter.steps:
            passes = subscription.filter.passes
            ends = last.type.terminal and not endless(follower.stream)
            events = [e for e in events if passes(e) or (ends and e is last)]
        runs = [1] * len(events)
        if slow:
            events, runs = merge(events)
        if ended:
            self.remove(subscription.id)
        else:
            self._queue(subscription)  # there may be more, and others come first
        if not events and gap is None and not ended:
            return None
        return Delivery(subscription, events, runs, gap, ended)
