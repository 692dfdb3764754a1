"""The stream log in a process's memory: for tests and for running agents without a server.

It keeps the same promises as the one in Valkey (one conformance suite runs on both), except that
it lives as long as its process. Time comes from the clock, so a test lets streams expire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from mesh.contracts.events import Cursor, Event, EventType
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import Fenced
from mesh.streams.codec import decode, encode
from mesh.streams.feed import Feed, Feeds
from mesh.streams.follow import Follower, ReaderCounts
from mesh.streams.log import START
from mesh.streams.options import StreamOptions
from mesh.streams.reader import read
from mesh.streams.seal import seal
from mesh.streams.shared import check_shared
from mesh.streams.writer import Batch, BufferedWriter, ended


@dataclass(slots=True)
class _Stream:
    events: deque[Event]
    expires_at: float = 0.0
    writers: dict[int, str] = field(default_factory=dict)
    """The last writer of each attempt."""


class MemoryStreamLog:
    """See ``StreamLog``."""

    def __init__(self, options: StreamOptions | None = None, clock: Clock | None = None) -> None:
        self._options = options or StreamOptions()
        self._clock = clock or SystemClock()
        self._streams: dict[str, _Stream] = {}
        self._feeds = Feeds(self._options.feed_events)
        self._counts = ReaderCounts()
        self._places: dict[tuple[str, str], tuple[Event, float]] = {}
        """Messages by stream and key, and until when a repeat is recognised."""
        self._events = 0
        self._commits = 0
        self._fenced = 0

    def writer(self, stream: str, attempt: int, *, workspace: UUID | None = None) -> BufferedWriter:
        return BufferedWriter(
            self, stream, attempt, self._options, self._clock, workspace=workspace
        )

    async def publish(
        self, streams: Sequence[str], type: EventType, data: dict[str, Any], *, key: str
    ) -> Event:
        check_shared(streams)
        now = self._clock.now()
        payload = encode(type, now, data, self._options.max_event_bytes)
        self._places = {k: v for k, v in self._places.items() if v[1] > now}
        known = self._places.get((streams[0], key))
        if known is not None:
            return known[0]
        first, *_ = [self._share(stream, payload) for stream in streams]
        self._places[streams[0], key] = (first, now + self._options.repeat_s)
        return first

    def read(
        self, stream: str, after: Cursor = START, *, heartbeat_s: float = 15.0
    ) -> AsyncGenerator[Event | None, None]:
        return read(self, stream, after, heartbeat_s, self._options, self._counts)

    def follow(self, stream: str, after: Cursor, wake: Callable[[], None]) -> Follower:
        return Follower(self, stream, after, self._options, self._counts, wake)

    async def last(self, stream: str) -> Event | None:
        found = self._find(stream)
        return found.events[-1] if found else None

    async def seal(
        self,
        stream: str,
        attempt: int,
        type: EventType,
        data: dict[str, Any],
        *,
        workspace: UUID | None = None,
    ) -> Event | None:
        return await seal(self, stream, attempt, type, data, workspace)

    def statistics(self) -> dict[str, int | float]:
        return {
            "events": self._events,
            "commits": self._commits,
            "fenced": self._fenced,
            "streams": len(self._streams),
            "readers": self._counts.active,
            "pages": self._counts.pages,
            "gaps": self._counts.gaps,
            "overflows": self._feeds.overflows,
        }

    async def aclose(self) -> None:
        self._streams.clear()

    # What a follower needs (follow.Source).

    def hears(self, stream: str) -> bool:
        return stream in self._feeds

    def attach(self, stream: str) -> Feed:
        return self._feeds.add(stream, live=True)

    def detach(self, feed: Feed) -> None:
        self._feeds.remove(feed)

    async def page(self, stream: str, after: Cursor, limit: int) -> list[Event] | None:
        found = self._find(stream)
        if found is None:
            return None
        page: list[Event] = []
        for event in found.events:
            if event.cursor > after:
                page.append(event)
                if len(page) == limit:
                    break
        return page

    # What a writer needs (writer.Sink).

    async def end(self, stream: str) -> Cursor:
        newest = await self.last(stream)
        return newest.cursor if newest else Cursor()

    async def commit(self, batch: Batch) -> None:
        found = self._find(batch.stream)
        if found is not None:
            newest = found.events[-1]
            taken = newest.attempt > batch.attempt or (
                newest.attempt == batch.attempt
                and newest.sequence >= batch.first
                and found.writers[newest.attempt] != batch.writer
            )
            if taken:
                self._fenced += 1
                raise Fenced("A later writer holds this stream.", {"stream": batch.stream})
            if newest.type.terminal:
                self._fenced += 1
                raise ended(batch.stream)
        else:
            found = self._streams[batch.stream] = _Stream(deque(maxlen=self._options.max_events))
            self._sweep()
        events = [
            decode(batch.stream, batch.attempt, entry.sequence, entry.payload)
            for entry in batch.entries
        ]
        found.events.extend(events)
        found.writers[batch.attempt] = batch.writer
        found.expires_at = self._clock.now() + self._options.ttl_s
        self._events += len(events)
        self._commits += 1
        self._feeds.publish(batch.stream, events)
        for entry in batch.entries:
            if entry.copy is not None and batch.shared is not None:
                self._share(batch.shared, entry.copy)

    def _share(self, stream: str, payload: bytes) -> Event:
        """Append to a shared stream, numbered as ``shared.SHARE`` does."""
        now = self._clock.now()
        found = self._find(stream)
        if found is None:
            found = self._streams[stream] = _Stream(deque(maxlen=self._options.max_events))
            attempt, sequence = int(now), 1
        else:
            attempt, sequence = found.events[-1].attempt, found.events[-1].sequence + 1
        event = decode(stream, attempt, sequence, payload)
        found.events.append(event)
        found.expires_at = now + self._options.ttl_s
        self._feeds.publish(stream, [event])
        return event

    def _find(self, stream: str) -> _Stream | None:
        found = self._streams.get(stream)
        if found is not None and found.events and found.expires_at <= self._clock.now():
            del self._streams[stream]
            return None
        return found

    def _sweep(self) -> None:
        """Forget what has expired, so that streams nobody asks for again do not pile up."""
        now = self._clock.now()
        gone = [name for name, s in self._streams.items() if s.events and s.expires_at <= now]
        for name in gone:
            del self._streams[name]
