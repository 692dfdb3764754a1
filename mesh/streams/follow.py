"""A reader's place in a stream as a state machine: catch up from the log, then follow the feed.

The log is the truth, the feed only a faster way to hear of it. Whatever the feed did not carry in
unbroken order (it overflowed, its connection was lost, an event was skipped) sends the follower
back to the log at its own cursor, so each event comes exactly once and in order.

Nothing here waits, so one task can serve any number of followers: ``step`` gives what is there,
``wake`` says that another step may be worth it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mesh.contracts.events import Cursor, Event
from mesh.core.errors import NotFound
from mesh.core.metrics import STREAM_GAPS, STREAM_READERS
from mesh.streams.feed import Feed
from mesh.streams.names import endless
from mesh.streams.options import StreamOptions


class Source(Protocol):
    """What a log offers to its followers."""

    def hears(self, stream: str) -> bool:
        """Whether a feed of this stream would be live at once, at no cost."""
        ...

    def attach(self, stream: str) -> Feed: ...

    def detach(self, feed: Feed) -> None: ...

    def page(self, stream: str, after: Cursor, limit: int) -> Awaitable[list[Event] | None]:
        """Up to ``limit`` events after the cursor, oldest first, as the log stands after this
        call; None: no such stream.

        Raises Unavailable while the log is away.
        """
        ...


class ReaderCounts:
    """What the readers of a log went through; shared by all of them."""

    def __init__(self) -> None:
        self.active = 0
        self.gaps = 0
        self.pages = 0


def follows(position: Cursor, event: Event) -> bool:
    """Whether nothing can lie between: the next of this attempt, or the first of a later one.

    The first of a later attempt may hide late events of the earlier one only if those were
    fenced off, and then they never were in the log.
    """
    if event.attempt == position.attempt:
        return event.sequence == position.sequence + 1
    return event.attempt > position.attempt and event.sequence == 1


class Follower:
    """One reader of one stream. Belongs to one event loop; ``close`` it."""

    __slots__ = (
        "_counts",
        "_endless",
        "_feed",
        "_options",
        "_page",
        "_source",
        "_wake",
        "behind_since",
        "ended",
        "gap",
        "pages",
        "position",
        "stream",
    )

    def __init__(
        self,
        source: Source,
        stream: str,
        after: Cursor,
        options: StreamOptions,
        counts: ReaderCounts,
        wake: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.position = after
        """Everything up to here was given out."""
        self.ended = False
        """The terminal event was given out: nothing follows."""
        self.gap: Cursor | None = None
        """Events after this place were trimmed before they could be read; the reader of the gap
        sets it back to None."""
        self.behind_since: float | None = None
        """Monotonic time since when the reader is too slow for the live feed; None: it keeps
        up."""
        self.pages = 0
        self._source = source
        self._options = options
        self._counts = counts
        self._wake = wake
        self._endless = endless(stream)
        self._feed: Feed | None = None
        self._page: asyncio.Future[list[Event] | None] | None = None
        counts.active += 1
        STREAM_READERS.inc()

    @property
    def live(self) -> bool:
        """False while the log is away, as far as this follower can tell."""
        return self._feed is None or self._feed.live

    def step(self) -> list[Event]:
        """What comes next, or nothing yet. ``wake`` is called when a step may give more, perhaps
        without need.

        Raises NotFound (no such stream: it expired, or has no event yet) and Unavailable; the
        next step then asks the log anew.
        """
        if self.ended:
            return []
        page = self._page
        if page is not None:
            if not page.done():
                return []
            self._page = None
            return self._turn(page)
        feed = self._feed
        # The log is read before the feed is joined too: a finished or unknown stream then costs
        # no subscription. Where others hear of it anyway, joining first saves the second look.
        if feed is None and self._source.hears(self.stream):
            feed = self._join()
        if feed is None or (feed.live and feed.stale):
            if feed is not None:
                if feed.overflowed:
                    feed.overflowed = False
                    self.behind_since = self.behind_since or time.monotonic()
                feed.reset()  # before reading: what comes meanwhile queues up
            limit = self._options.page_events
            page = asyncio.ensure_future(self._source.page(self.stream, self.position, limit))
            self._page = page
            page.add_done_callback(self._arrived)
            return []
        return self._follow(feed)

    def close(self) -> None:
        """Leave. A step afterwards gives nothing."""
        self.ended = True
        if self._counts is None:
            return
        if self._page is not None:
            self._page.remove_done_callback(self._arrived)
            self._page.add_done_callback(_read)
            self._page = None
        if self._feed is not None:
            self._feed.wake = _deaf
            self._source.detach(self._feed)
            self._feed = None
        self._counts.active -= 1
        STREAM_READERS.dec()
        self._counts = None  # type: ignore[assignment]  # closed

    def _arrived(self, _: Any) -> None:
        self._wake()

    def _turn(self, page: asyncio.Future[list[Event] | None]) -> list[Event]:
        """A page of the log has come."""
        feed = self._feed
        try:
            events = page.result()
        except BaseException:
            if feed is not None:
                feed.spoil(wake=False)
            raise
        self.pages += 1
        self._counts.pages += 1
        if events is None:
            if not self._endless:
                if feed is not None:
                    feed.spoil(wake=False)
                raise NotFound("The stream has expired or never was.", {"stream": self.stream})
            events = []
        for index, event in enumerate(events):
            if not follows(self.position, event):
                self._missed(event)
            self.position = event.cursor
            if self._ends(event):
                return events[: index + 1]
        more = len(events) >= self._options.page_events
        if feed is None and not more:
            feed = self._join()
        elif feed is not None and more:
            feed.spoil()
        elif feed is not None:
            self.behind_since = None
        if more or not feed or not feed.waits:
            self._wake()
        return events

    def _join(self) -> Feed:
        feed = self._feed = self._source.attach(self.stream)
        feed.wake = self._wake
        return feed

    def _follow(self, feed: Feed) -> list[Event]:
        given: list[Event] = []
        for event in feed.take():
            if event.cursor <= self.position:
                continue
            if not follows(self.position, event):
                feed.spoil()
                break
            self.position = event.cursor
            given.append(event)
            if self._ends(event):
                break
        return given

    def _ends(self, event: Event) -> bool:
        self.ended = event.type.terminal and not self._endless
        return self.ended

    def _missed(self, event: Event) -> None:
        self._counts.gaps += 1
        STREAM_GAPS.inc()
        if self.gap is None:
            self.gap = self.position


def _deaf() -> None:
    """Wakes nobody any more."""


def _read(page: asyncio.Future[Any]) -> None:
    """Look at a result that nobody waits for, so that the loop does not complain."""
    if not page.cancelled():
        page.exception()
