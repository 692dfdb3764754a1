"""One connection to Valkey per process that hears of new events for all of its readers.

The commit script publishes each batch on a channel named like the stream's key; the hub holds one
subscribed connection and fans what arrives out to the feeds. Joining or leaving a stream costs a
few bytes, an idle stream nothing, however many there are (one blocking XREAD over all of them
would resend every key on every wake-up). Publishing may lose messages, the log does not: on
every doubt (connection lost, feed too slow, an event skipped, the newest event of the log is
another) the feeds are spoiled and their readers go back to the log.

While it has readers the hub also watches how late the loop's timers fire: the busier the loop,
the longer live tokens wait for company (``pace``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from mesh.contracts.events import Cursor
from mesh.core.logging import get_logger
from mesh.core.metrics import STREAM_RECONNECTS
from mesh.streams.codec import decode
from mesh.streams.feed import Feed, Feeds
from mesh.streams.log import START
from mesh.streams.names import endless
from mesh.streams.options import StreamOptions
from mesh.streams.pace import Pace

_log = get_logger(__name__)

_CHUNK = 500
"""Channels per command, streams per look at the log."""
_PROBE_S = 0.05
"""Between two looks at how late a timer fires."""


class Hub:
    """The feeds of a process and the connection that fills them. Starts with its first reader."""

    def __init__(self, redis: Redis, options: StreamOptions) -> None:
        self._redis = redis
        self._options = options
        self.pace = Pace(0.0, options.hold_most_s)
        self.feeds = Feeds(options.feed_events, options.feed_bytes, self.pace)
        self._newest: dict[str, Cursor] = {}
        """Per subscribed stream: the newest event that its feeds were told of."""
        self._confirmed: set[str] = set()
        self._outstanding: dict[str, int] = {}
        """Subscriptions asked for and not yet confirmed, per stream."""
        self._sent: set[str] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._verifier: asyncio.Task[None] | None = None
        self._probe: asyncio.TimerHandle | None = None
        self.reconnects = 0
        self.messages = 0

    def hears(self, stream: str) -> bool:
        """Whether its subscription is confirmed."""
        return stream in self._confirmed

    def attach(self, stream: str) -> Feed:
        """A feed that goes live once the subscription is confirmed."""
        feed = self.feeds.add(stream, live=stream in self._confirmed)
        if stream not in self._sent:
            self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._verifier = asyncio.create_task(self._verify())
        if self._probe is None:
            self._probe_soon()
        return feed

    def detach(self, feed: Feed) -> None:
        if self.feeds.remove(feed):
            self._changed.set()

    def _probe_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._probe = loop.call_later(_PROBE_S, self._probed, loop.time() + _PROBE_S)

    def _probed(self, due: float) -> None:
        self.pace.observe(asyncio.get_running_loop().time() - due)
        self._probe = None
        if len(self.feeds):
            self._probe_soon()

    async def aclose(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        tasks = [task for task in (self._task, self._verifier) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        wait_s = self._options.backoff_s
        while True:
            # Beside the pool: it is held for as long as the process lives.
            connection: AbstractConnection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                wait_s = self._options.backoff_s
                await self._follow(connection)
            except (RedisError, OSError) as error:
                _log.info("stream feed lost", error=str(error))
            except ExceptionGroup as group:
                expected, bugs = group.split((RedisError, OSError))
                _log.info("stream feed lost", error=str((expected or group).exceptions[0]))
                if bugs is not None:
                    _log.error("stream feed failed", exc_info=bugs)
            finally:
                self._forget()
                with contextlib.suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)
            self.reconnects += 1
            STREAM_RECONNECTS.labels("feed").inc()
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
            wait_s = min(wait_s * 2, self._options.backoff_max_s)

    async def _follow(self, connection: AbstractConnection) -> None:
        self._changed.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._subscribe(connection))
            group.create_task(self._receive(connection))

    async def _subscribe(self, connection: AbstractConnection) -> None:
        """Keep the subscriptions equal to the streams that have readers; ping when idle."""
        while True:
            wanted = set(self.feeds.streams())
            new, gone = wanted - self._sent, self._sent - wanted
            for stream in gone:
                self._confirmed.discard(stream)
                self._newest.pop(stream, None)
            for stream in new:
                self._outstanding[stream] = self._outstanding.get(stream, 0) + 1
            self._sent = wanted
            for command, streams in (("UNSUBSCRIBE", gone), ("SUBSCRIBE", new)):
                for chunk in _chunks(streams):
                    keys = [f"{self._options.prefix}{stream}" for stream in chunk]
                    await connection.send_command(command, *keys, check_health=False)
            self._changed.clear()
            if set(self.feeds.streams()) != self._sent:
                continue
            try:
                async with asyncio.timeout(self._options.verify_s):
                    await self._changed.wait()
            except TimeoutError:
                await connection.send_command("PING", check_health=False)

    async def _receive(self, connection: AbstractConnection) -> None:
        silence_s = self._options.verify_s * 3
        while True:
            message = await connection.read_response(timeout=silence_s)
            if message is None:
                raise TimeoutError("not even an answer to a ping")
            self._handle(message)

    def _handle(self, message: Any) -> None:
        if not isinstance(message, list) or len(message) != 3:
            return  # the answer to a ping
        kind, channel, body = message
        stream = channel.decode().removeprefix(self._options.prefix)
        if kind == b"message":
            self.messages += 1
            self._publish(stream, body)
        elif kind == b"subscribe":
            left = self._outstanding[stream] - 1
            if left:
                self._outstanding[stream] = left
                return  # it was left and joined again: only the last one counts
            del self._outstanding[stream]
            if stream in self._sent:
                self._confirmed.add(stream)
                self.feeds.set_live(True, stream)

    def _publish(self, stream: str, body: bytes) -> None:
        head, *payloads = body.split(b"\n")
        attempt, first = (int(part) for part in head.split())
        if stream not in self.feeds:
            return
        events = [
            decode(stream, attempt, first + index, payload)
            for index, payload in enumerate(payloads)
        ]
        self._newest[stream] = events[-1].cursor
        self.feeds.publish(stream, events, len(body))

    def _forget(self) -> None:
        self._sent.clear()
        self._confirmed.clear()
        self._outstanding.clear()
        self._newest.clear()
        self.feeds.set_live(False)

    async def _verify(self) -> None:
        """Compare the live streams with the log now and then: one may have expired, or a message
        may have been lost in a way that nobody foresaw."""
        while True:
            await asyncio.sleep(self._options.verify_s)
            for chunk in _chunks(sorted(self._confirmed)):
                pipeline = self._redis.pipeline(transaction=False)
                for stream in chunk:
                    pipeline.xrevrange(f"{self._options.prefix}{stream}", count=1)
                try:
                    replies = await pipeline.execute(raise_on_error=False)
                except (RedisError, OSError):
                    break  # the connection's own loop sees to it
                for stream, reply in zip(chunk, replies, strict=True):
                    if isinstance(reply, Exception) or stream not in self._confirmed:
                        continue
                    newest = Cursor.parse(reply[0][0].decode()) if reply else None
                    if newest is None:
                        # A shared stream is allowed to be empty, and its readers go on waiting.
                        if not endless(stream):
                            self.feeds.spoil(stream)
                    elif newest > self._newest.get(stream, START):
                        self._newest[stream] = newest
                        self.feeds.spoil(stream)


def _chunks(streams: Iterable[str]) -> Iterable[list[str]]:
    items = list(streams)
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
