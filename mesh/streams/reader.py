"""The reading loop, the same for every log: catch up from the log, then follow the live feed.

The log is the truth, the feed only a faster way to hear of it. Whatever the feed did not carry in
unbroken order (it overflowed, its connection was lost, an event was skipped) sends the loop back
to the log at its own cursor, so each event comes exactly once and in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Protocol

from mesh.contracts.events import Cursor, Event
from mesh.core.errors import NotFound, Unavailable
from mesh.core.metrics import STREAM_GAPS, STREAM_READERS
from mesh.streams.feed import Feed
from mesh.streams.options import StreamOptions


class Source(Protocol):
    """What a log offers to the reading loop."""

    def attach(self, stream: str) -> Feed: ...

    def detach(self, feed: Feed) -> None: ...

    async def page(self, stream: str, after: Cursor, limit: int) -> list[Event] | None:
        """Up to ``limit`` events after the cursor, oldest first; None: no such stream.

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


class _Patience:
    """How long a reader bears an absent log, and when its next heartbeat is due."""

    def __init__(self, heartbeat_s: float, options: StreamOptions) -> None:
        self._heartbeat_s = heartbeat_s
        self._limit_s = options.first_timeout_s
        self._later_limit_s = options.away_timeout_s
        self._away_since: float | None = None
        self._due = time.monotonic() + heartbeat_s

    def spoke(self) -> None:
        self._due = time.monotonic() + self._heartbeat_s

    def overdue(self) -> bool:
        return time.monotonic() >= self._due

    def wait_s(self) -> float:
        """Until the next heartbeat, or until patience ends."""
        until = self._due
        if self._away_since is not None:
            until = min(until, self._away_since + self._limit_s)
        return max(0.0, until - time.monotonic())

    def present(self) -> None:
        self._away_since = None
        self._limit_s = self._later_limit_s

    def away(self, error: Unavailable | None = None) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        elif now - self._away_since >= self._limit_s:
            raise error or Unavailable("The stream log is away.", retry_after_s=1)


async def read(
    source: Source,
    stream: str,
    after: Cursor,
    heartbeat_s: float,
    options: StreamOptions,
    counts: ReaderCounts,
) -> AsyncGenerator[Event | None, None]:
    """See ``StreamLog.read``. Close the generator to leave early."""
    position = after
    patience = _Patience(heartbeat_s, options)
    feed: Feed | None = None
    counts.active += 1
    STREAM_READERS.inc()
    try:
        while True:
            # The log is read before the feed is joined too: a finished or unknown stream then
            # costs no subscription.
            if feed is None or (feed.live and feed.stale):
                if feed is not None:
                    feed.reset()  # before reading: what comes meanwhile queues up
                try:
                    page = await source.page(stream, position, options.page_events)
                except Unavailable as error:
                    patience.away(error)
                    if feed is not None:
                        feed.spoil()
                    await asyncio.sleep(min(options.backoff_max_s, patience.wait_s()))
                    if patience.overdue():
                        yield None
                        patience.spoke()
                    continue
                if page is None:
                    raise NotFound("The stream has expired or never was.", {"stream": stream})
                patience.present()
                counts.pages += 1
                more = len(page) >= options.page_events
                for event in page:
                    if not follows(position, event):
                        counts.gaps += 1
                        STREAM_GAPS.inc()
                    position = event.cursor
                    yield event
                    if event.type.terminal:
                        return
                    patience.spoke()
                if feed is None and not more:
                    feed = source.attach(stream)
                elif feed is not None and more:
                    feed.spoil()
                continue
            events = feed.take()
            if not events:
                await feed.wait(patience.wait_s())
                if not feed.live:
                    patience.away()
                if patience.overdue():
                    yield None
                    patience.spoke()
                continue
            for event in events:
                if event.cursor <= position:
                    continue
                if not follows(position, event):
                    feed.spoil()
                    break
                position = event.cursor
                yield event
                if event.type.terminal:
                    return
                patience.spoke()
    finally:
        counts.active -= 1
        STREAM_READERS.dec()
        if feed is not None:
            source.detach(feed)
