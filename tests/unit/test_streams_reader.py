"""The reading loop and the hub against every trick that a feed can play."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

from redis.asyncio import Redis

from mesh.contracts.events import Cursor, Event, EventType
from mesh.core.errors import Unavailable
from mesh.streams.feed import Feed
from mesh.streams.hub import Hub
from mesh.streams.log import START
from mesh.streams.options import StreamOptions
from mesh.streams.reader import ReaderCounts, follows, read

OPTIONS = StreamOptions(feed_events=10, page_events=10, backoff_max_s=0.01)
LIMIT_S = 10.0


def event(attempt: int, sequence: int, type: EventType = EventType.STEP_STARTED) -> Event:
    return Event(stream="s", attempt=attempt, sequence=sequence, type=type, at=0)


class Scripted:
    """A log that holds what the test put there and a feed that says what the test tells it."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.feed: Feed | None = None
        self.pages = 0
        self.away = 0

    def hears(self, stream: str) -> bool:
        return False

    def attach(self, stream: str) -> Feed:
        self.feed = Feed(stream, OPTIONS.feed_events, live=True)
        return self.feed

    def detach(self, feed: Feed) -> None:
        self.feed = None

    async def page(self, stream: str, after: Cursor, limit: int) -> list[Event] | None:
        await asyncio.sleep(0)
        self.pages += 1
        if self.away:
            self.away -= 1
            raise Unavailable
        return [e for e in self.events if e.cursor > after][:limit]

    def read(self, after: Cursor = START, heartbeat_s: float = 30.0) -> Any:
        return aclosing(read(self, "s", after, heartbeat_s, OPTIONS, ReaderCounts()))

    async def settled(self) -> Feed:
        """The feed, once its reader has caught up and waits."""
        async with asyncio.timeout(LIMIT_S):
            while self.feed is None or self.feed.stale:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
        return self.feed


async def rest(reader: Any) -> list[str]:
    async with asyncio.timeout(LIMIT_S):
        return [str(e.cursor) async for e in reader if e is not None]


async def test_an_event_that_the_feed_skipped_is_fetched_from_the_log() -> None:
    log = Scripted([event(1, 1)])
    async with log.read() as reader:
        seen = asyncio.create_task(rest(reader))
        feed = await log.settled()
        log.events += [event(1, 2), event(1, 3), event(2, 1, EventType.TASK_SUCCEEDED)]
        feed.offer([event(1, 3)])
        assert await seen == ["1-1", "1-2", "1-3", "2-1"]


async def test_a_takeover_that_the_feed_skipped_is_fetched_from_the_log() -> None:
    log = Scripted([event(1, 1)])
    async with log.read() as reader:
        seen = asyncio.create_task(rest(reader))
        feed = await log.settled()
        log.events += [event(2, 1), event(2, 2, EventType.TASK_SUCCEEDED)]
        feed.offer([event(2, 2, EventType.TASK_SUCCEEDED)])
        assert await seen == ["1-1", "2-1", "2-2"]


async def test_what_the_feed_says_twice_is_seen_once_and_costs_no_look() -> None:
    log = Scripted([event(1, 1)])
    async with log.read() as reader:
        seen = asyncio.create_task(rest(reader))
        feed = await log.settled()
        looks = log.pages
        feed.offer([event(1, 1), event(1, 2), event(1, 2)])
        feed.offer([event(1, 1), event(1, 3, EventType.TASK_SUCCEEDED)])
        assert await seen == ["1-1", "1-2", "1-3"]
        assert log.pages == looks


async def test_what_comes_while_the_log_is_read_is_not_lost() -> None:
    log = Scripted([event(1, 1)])
    async with log.read() as reader:
        seen = asyncio.create_task(rest(reader))
        feed = await log.settled()
        original = log.page

        async def page(stream: str, after: Cursor, limit: int) -> list[Event] | None:
            found = await original(stream, after, limit)
            if log.pages == 3:  # after the log was looked at, before its answer is seen
                feed.offer([event(1, 2, EventType.TASK_SUCCEEDED)])
            return found

        log.page = page  # type: ignore[method-assign]
        feed.spoil()
        assert await seen == ["1-1", "1-2"]


async def test_a_log_away_for_a_moment_is_waited_for_with_heartbeats() -> None:
    log = Scripted([event(1, 1, EventType.TASK_SUCCEEDED)])
    log.away = 3
    async with asyncio.timeout(LIMIT_S), log.read(heartbeat_s=0.001) as reader:
        seen = [e async for e in reader]
    assert seen[-1] is not None
    assert None in seen


def test_what_follows_what() -> None:
    assert follows(START, event(0, 1))
    assert follows(START, event(3, 1))
    assert follows(Cursor(1, 4), event(1, 5))
    assert follows(Cursor(1, 4), event(2, 1))
    assert not follows(Cursor(1, 4), event(1, 6))
    assert not follows(Cursor(1, 4), event(2, 2))
    assert not follows(Cursor(2, 1), event(1, 2))


class Line:
    """A connection whose answers the test gives."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        pass

    async def disconnect(self, nowait: bool = False) -> None:
        pass

    async def send_command(self, *words: str, check_health: bool = True) -> None:
        self.sent.append(words)

    async def read_response(self, timeout: float) -> Any:  # noqa: ASYNC109
        return await self.answers.get()

    async def until_sent(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(self.sent) < count:  # noqa: ASYNC110
                await asyncio.sleep(0)


class Pool:
    def __init__(self, line: Line) -> None:
        self.connection_pool = self
        self._line = line

    def make_connection(self) -> Line:
        return self._line


async def test_a_stream_joined_left_and_joined_again_is_live_only_after_the_last_answer() -> None:
    line = Line()
    hub = Hub(cast(Redis, Pool(line)), StreamOptions(prefix="p:"))
    try:
        first = hub.attach("s")
        await line.until_sent(1)
        hub.detach(first)
        await line.until_sent(2)
        feed = hub.attach("s")
        await line.until_sent(3)
        assert line.sent == [("SUBSCRIBE", "p:s"), ("UNSUBSCRIBE", "p:s"), ("SUBSCRIBE", "p:s")]
        line.answers.put_nowait([b"subscribe", b"p:s", 1])
        line.answers.put_nowait([b"unsubscribe", b"p:s", 0])
        await asyncio.sleep(0.01)
        assert not feed.live, "between the two nothing would have reached it"
        line.answers.put_nowait([b"subscribe", b"p:s", 1])
        await asyncio.sleep(0.01)
        assert feed.live
        feed.reset()
        line.answers.put_nowait([b"message", b"p:s", b'1 1\n{"t":"tokens","a":1.0,"d":{}}'])
        await asyncio.sleep(0.01)
        assert [str(e.cursor) for e in feed.take()] == ["1-1"]
    finally:
        await hub.aclose()
