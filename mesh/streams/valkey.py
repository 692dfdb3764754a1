"""The stream log in Valkey: what every process appends to and reads from.

One Valkey stream per log (``maily:stream:<stream>``), its entry ids are our cursors. Writing is
``commit.GroupCommit``, hearing of new events ``hub.Hub``, the reading loop ``reader.read``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from mesh.contracts.events import Cursor, Event, EventType
from mesh.core.clock import Clock, SystemClock
from mesh.streams.commit import GroupCommit
from mesh.streams.connect import unavailable
from mesh.streams.feed import Feed
from mesh.streams.follow import Follower, ReaderCounts
from mesh.streams.hub import Hub
from mesh.streams.log import START
from mesh.streams.options import StreamOptions
from mesh.streams.pace import Pace
from mesh.streams.pager import Page, Pager, event_of
from mesh.streams.reader import read
from mesh.streams.seal import seal
from mesh.streams.shared import publish
from mesh.streams.writer import Batch, BufferedWriter


class ValkeyStreamLog:
    """See ``StreamLog``. One per process; belongs to one event loop.

    ``redis`` (from ``connect``) stays the caller's: close the log first, then the client.
    """

    def __init__(
        self, redis: Redis, options: StreamOptions | None = None, clock: Clock | None = None
    ) -> None:
        self._redis = redis
        self._options = options or StreamOptions()
        self._clock = clock or SystemClock()
        self._commit = GroupCommit(redis, self._options)
        self._pager = Pager(redis, self._options)
        self._hub = Hub(redis, self._options)
        self._pace = Pace(self._options.coalesce_s, self._options.coalesce_most_s)
        self._counts = ReaderCounts()

    def writer(self, stream: str, attempt: int, *, workspace: UUID | None = None) -> BufferedWriter:
        return BufferedWriter(
            self,
            stream,
            attempt,
            self._options,
            self._clock,
            workspace=workspace,
            pace=self._pace,
        )

    async def publish(
        self, streams: Sequence[str], type: EventType, data: dict[str, Any], *, key: str
    ) -> Event:
        at = self._clock.now()
        return await publish(self._redis, self._options, streams, type, at, data, key)

    def read(
        self, stream: str, after: Cursor = START, *, heartbeat_s: float = 15.0
    ) -> AsyncGenerator[Event | None, None]:
        """See ``StreamLog.read``. Raises Unavailable where Valkey stays away for longer than
        ``first_timeout_s`` at the start or ``away_timeout_s`` later."""
        return read(self, stream, after, heartbeat_s, self._options, self._counts)

    def follow(self, stream: str, after: Cursor, wake: Callable[[], None]) -> Follower:
        return Follower(self, stream, after, self._options, self._counts, wake)

    async def last(self, stream: str) -> Event | None:
        """The newest event, or None. Raises Unavailable."""
        with unavailable():
            entries = await self._redis.xrevrange(self._key(stream), count=1)
        return event_of(stream, entries[0]) if entries else None

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
            "events": self._commit.events,
            "commits": self._commit.commits,
            "retries": self._commit.retries,
            "fenced": self._commit.fenced,
            "streams": len(self._hub.feeds),
            "readers": self._counts.active,
            "pages": self._counts.pages,
            "gaps": self._counts.gaps,
            "overflows": self._hub.feeds.overflows,
            "held": self._hub.feeds.held,
            "messages": self._hub.messages,
            "reconnects": self._hub.reconnects,
            "lag_s": self._hub.pace.lag_s,
            "pages_read": self._pager.read,
            "page_round_trips": self._pager.round_trips,
        }

    async def aclose(self) -> None:
        await self._hub.aclose()
        await self._pager.aclose()
        await self._commit.aclose()

    # What a follower needs (follow.Source).

    def hears(self, stream: str) -> bool:
        return self._hub.hears(stream)

    def attach(self, stream: str) -> Feed:
        return self._hub.attach(stream)

    def detach(self, feed: Feed) -> None:
        self._hub.detach(feed)

    def page(self, stream: str, after: Cursor, limit: int) -> Awaitable[Page]:
        return self._pager.page(stream, after, limit)

    # What a writer needs (writer.Sink).

    async def end(self, stream: str) -> Cursor:
        newest = await self.last(stream)
        return newest.cursor if newest else START

    async def commit(self, batch: Batch) -> None:
        await self._commit.commit(batch)

    def _key(self, stream: str) -> str:
        return f"{self._options.prefix}{stream}"
