"""Live events fanned out to readers through bounded queues that nobody ever waits on.

A feed that overflows drops what it holds and says ``stale``: its reader goes back to the log,
which has everything, and joins the live feed again when it has caught up. So a slow reader loses
nothing and costs the writer nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from mesh.contracts.events import Event
from mesh.core.metrics import STREAM_OVERFLOWS


class Feed:
    """One reader's queue. Offered to by the hub, taken from by the reader, in one event loop."""

    __slots__ = ("_events", "_limit", "_waiter", "live", "stale", "stream")

    def __init__(self, stream: str, limit: int, live: bool) -> None:
        self.stream = stream
        self.live = live
        """Whether new events reach this feed now. Not while the log is away."""
        self.stale = True
        """Whether the log may hold events that this feed did not get."""
        self._limit = limit
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, events: Sequence[Event]) -> bool:
        """Queue events; False where they did not fit and the feed went stale."""
        if self.stale:  # the reader will find them in the log
            return True
        fits = len(self._events) + len(events) <= self._limit
        if fits:
            self._events.extend(events)
            self._wake()
        else:
            self.spoil()
        return fits

    def spoil(self) -> None:
        """Send the reader back to the log."""
        self._events.clear()
        self.stale = True
        self._wake()

    def set_live(self, live: bool) -> None:
        self.live = live
        self.spoil()

    def reset(self) -> None:
        """The reader is about to read the log: from now on events queue up again."""
        self._events.clear()
        self.stale = False

    def take(self) -> list[Event]:
        events = list(self._events)
        self._events.clear()
        return events

    async def wait(self, timeout_s: float) -> None:
        """Return when there is something to do, or after ``timeout_s`` seconds."""
        if self._events or (self.stale and self.live):
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(max(0.0, timeout_s), self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Feeds:
    """The feeds of a process, by stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_stream: dict[str, set[Feed]] = {}
        self.overflows = 0

    def add(self, stream: str, live: bool) -> Feed:
        feed = Feed(stream, self._limit, live)
        self._by_stream.setdefault(stream, set()).add(feed)
        return feed

    def remove(self, feed: Feed) -> bool:
        """True where it was the stream's last."""
        feeds = self._by_stream.get(feed.stream)
        if feeds is None:
            return False
        feeds.discard(feed)
        if feeds:
            return False
        del self._by_stream[feed.stream]
        return True

    def publish(self, stream: str, events: Sequence[Event]) -> None:
        for feed in self._by_stream.get(stream, ()):
            if not feed.offer(events):
                self.overflows += 1
                STREAM_OVERFLOWS.inc()

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

    def count(self) -> int:
        return sum(len(feeds) for feeds in self._by_stream.values())
