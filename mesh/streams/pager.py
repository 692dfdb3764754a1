"""Reading the log for many at once: what is asked for while a round trip is under way goes in the
next one, and the same page asked for by several is read and decoded once.

A page that somebody joins is always read after the joining: a reader that goes back to the log
finds everything that was appended until it asked.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from mesh.contracts.events import Cursor, Event
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.streams.codec import decode
from mesh.streams.connect import unavailable
from mesh.streams.options import StreamOptions

_log = get_logger(__name__)

Page = list[Event] | None
_Asked = tuple[str, Cursor, int]


class Pager:
    """The pages that a process reads. Belongs to one event loop."""

    def __init__(self, redis: Redis, options: StreamOptions) -> None:
        self._redis = redis
        self._options = options
        self._asked: dict[_Asked, asyncio.Future[Page]] = {}
        self._task: asyncio.Task[None] | None = None
        self.asked = 0
        self.read = 0
        self.round_trips = 0

    def page(self, stream: str, after: Cursor, limit: int) -> asyncio.Future[Page]:
        """See ``Source.page``. Others may hold the same future: don't cancel it."""
        self.asked += 1
        key = (stream, after, limit)
        future = self._asked.get(key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._asked[key] = future
            if self._task is None:
                self._task = asyncio.create_task(self._run())
        return future

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for future in self._asked.values():
            _fail(future, Unavailable("The stream log is closed."))
        self._asked.clear()

    async def _run(self) -> None:
        try:
            while self._asked:
                keys = list(self._asked)[: self._options.batch_pages]
                batch = {key: self._asked.pop(key) for key in keys}
                try:
                    await self._round(batch)
                except MailyError as error:
                    for future in batch.values():
                        _fail(future, error)
                except Exception as error:
                    # Without this its readers would wait for ever on a bug of ours.
                    _log.exception("stream pages failed")
                    for future in batch.values():
                        _fail(future, Unavailable(f"The stream log failed: {type(error).__name__}"))
                except BaseException:
                    for future in batch.values():
                        _fail(future, Unavailable("The stream log is closed."))
                    raise
        finally:
            self._task = None

    async def _round(self, batch: dict[_Asked, asyncio.Future[Page]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for stream, after, limit in batch:
            key = f"{self._options.prefix}{stream}"
            pipeline.xrange(key, f"({after}", "+", count=limit)
            pipeline.exists(key)
        with unavailable():
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        self.round_trips += 1
        for index, ((stream, _, _), future) in enumerate(batch.items()):
            entries, there = replies[2 * index : 2 * index + 2]
            if isinstance(entries, Exception) or isinstance(there, Exception):
                _fail(future, _ours(entries if isinstance(entries, Exception) else there))
                continue
            self.read += 1
            found = [event_of(stream, entry) for entry in entries or []]
            if not future.done():
                future.set_result(found if found or there else None)


def event_of(stream: str, entry: Any) -> Event:
    """An entry of a Valkey stream as the event that it holds."""
    cursor = Cursor.parse(entry[0].decode())
    return decode(stream, cursor.attempt, cursor.sequence, entry[1][b"e"])


def _ours(error: Exception) -> MailyError:
    try:
        with unavailable():
            raise error
    except MailyError as known:
        return known


def _fail(future: asyncio.Future[Page], error: MailyError) -> None:
    if not future.done():
        future.set_exception(error)
