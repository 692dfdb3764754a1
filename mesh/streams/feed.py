"""Live events fanned out to readers through bounded queues that nobody ever waits on.

A feed that overflows drops what it holds and says ``stale``: its reader goes back to the log,
which has everything, and joins the live feed again when it has caught up. So a slow reader loses
nothing and costs the writer nothing.

Under load tokens gather: a reader that was woken a moment ago is woken for more tokens only when
the pace allows it (all such readers by one timer), for anything else, and for the first token
after anything else, at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from mesh.contracts.events import Event, EventType
from mesh.core.metrics import STREAM_OVERFLOWS
from mesh.streams.pace import Pace

_ENTRY_BYTES = 64
"""Counted for an event whose size nobody told."""


def _nobody() -> None:
    """Stands in until a reader says how it is woken."""


class Feed:
    """One reader's queue. Offered to by the hub, taken from by the reader, in one event loop."""

    __slots__ = (
        "_bytes",
        "_events",
        "_limit",
        "_limit_bytes",
        "live",
        "overflowed",
        "stale",
        "stream",
        "wake",
        "woken_at",
    )

    def __init__(self, stream: str, limit: int, live: bool, limit_bytes: int = 2**62) -> None:
        self.stream = stream
        self.live = live
        """Whether new events reach this feed now. Not while the log is away."""
        self.stale = True
        """Whether the log may hold events that this feed did not get."""
        self.overflowed = False
        """Whether it went stale because its reader is slow."""
        self.wake: Callable[[], None] = _nobody
        """Called when there is something to do; must not block."""
        self.woken_at = 0.0
        """When it was last woken for tokens, by the loop's clock. 0: for something else."""
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._events: deque[Event] = deque()
        self._bytes = 0

    def offer(self, events: Sequence[Event], size: int = 0, *, wake: bool = True) -> bool:
        """Queue events of ``size`` bytes in all; False where they did not fit and the feed went
        stale. ``wake`` False: somebody else wakes the reader."""
        if self.stale:  # the reader will find them in the log
            return True
        size = size or _ENTRY_BYTES * len(events)
        fits = (
            len(self._events) + len(events) <= self._limit
            and self._bytes + size <= self._limit_bytes
        )
        if fits:
            self._events.extend(events)
            self._bytes += size
            if wake:
                self.wake()
        else:
            self.overflowed = True
            self.spoil()
        return fits

    def spoil(self, *, wake: bool = True) -> None:
        """Send the reader back to the log. ``wake`` False: it knows, and looks when it likes."""
        self._clear()
        self.stale = True
        if wake:
            self.wake()

    def set_live(self, live: bool) -> None:
        self.live = live
        self.spoil()

    def reset(self) -> None:
        """The reader is about to read the log: from now on events queue up again."""
        self._clear()
        self.stale = False

    def take(self) -> list[Event]:
        events = list(self._events)
        self._clear()
        return events

    @property
    def waits(self) -> bool:
        """Whether there is nothing to do for its reader."""
        return not self._events and not (self.stale and self.live)

    def _clear(self) -> None:
        self._events.clear()
        self._bytes = 0


class Feeds:
    """The feeds of a process, by stream. ``pace`` None: tokens never wait."""

    def __init__(self, limit: int, limit_bytes: int = 2**62, pace: Pace | None = None) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._pace = pace
        self._by_stream: dict[str, set[Feed]] = {}
        self._held: set[Feed] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.overflows = 0
        self.held = 0

    def add(self, stream: str, live: bool) -> Feed:
        feed = Feed(stream, self._limit, live, self._limit_bytes)
        self._by_stream.setdefault(stream, set()).add(feed)
        return feed

    def remove(self, feed: Feed) -> bool:
        """True where it was the stream's last."""
        self._held.discard(feed)
        feeds = self._by_stream.get(feed.stream)
        if feeds is None:
            return False
        feeds.discard(feed)
        if feeds:
            return False
        del self._by_stream[feed.stream]
        return True

    def publish(self, stream: str, events: Sequence[Event], size: int = 0) -> None:
        feeds = self._by_stream.get(stream)
        if not feeds:
            return
        hold_s = 0.0
        if self._pace is not None and all(event.type is EventType.TOKENS for event in events):
            hold_s = self._pace.hold_s
        now = asyncio.get_running_loop().time() if hold_s > 0 else 0.0
        for feed in feeds:
            later = hold_s > 0 and now - feed.woken_at < hold_s
            if not feed.offer(events, size, wake=not later):
                self.overflows += 1
                STREAM_OVERFLOWS.inc()
            elif later:
                self._hold(feed, hold_s)
            else:
                feed.woken_at = now

    def _hold(self, feed: Feed, hold_s: float) -> None:
        self.held += 1
        self._held.add(feed)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(hold_s, self._release)

    def _release(self) -> None:
        self._timer = None
        held, self._held = self._held, set()
        now = asyncio.get_running_loop().time()
        for feed in held:
            feed.woken_at = now
            feed.wake()

    def spoil(self, stream: str) -> None:
        for feed in self._by_stream.get(stream, ()):
            feed.spoil()

    def set_live(self, live: bool, stream: str | None = None) -> None:
        """Of one stream's feeds, or all."""
        chosen = self._by_stream.values() if stream is None else [self._by_stream.get(stream, ())]
        for feeds in chosen:
            for feed in feeds:
                feed.set_live(live)

    def streams(self) -> list[str]:
        return list(self._by_stream)

    def __contains__(self, stream: str) -> bool:
        return stream in self._by_stream

    def __len__(self) -> int:
        return len(self._by_stream)

    def count(self) -> int:
        return sum(len(feeds) for feeds in self._by_stream.values())
