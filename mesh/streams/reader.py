"""One reader as an asynchronous iterator: a follower, and patience with a log that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from mesh.contracts.events import Cursor, Event
from mesh.core.errors import Unavailable
from mesh.streams.follow import Follower, ReaderCounts, Source, follows
from mesh.streams.options import StreamOptions

__all__ = ["Bell", "ReaderCounts", "Source", "follows", "read"]


class Bell:
    """Wakes the one task that waits. Rung while nobody waits, it rings at the next wait."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when it rings, or after ``timeout_s`` seconds."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._waiter = waiter = loop.create_future()
            timer = (
                None if timeout_s is None else loop.call_later(max(0.0, timeout_s), _end, waiter)
            )
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
                self._waiter = None
        self._rung = False


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


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
    bell = Bell()
    patience = _Patience(heartbeat_s, options)
    follower = Follower(source, stream, after, options, counts, bell.ring)
    pages = 0
    try:
        while True:
            try:
                events = follower.step()
            except Unavailable as error:
                patience.away(error)
                await asyncio.sleep(min(options.backoff_max_s, patience.wait_s()))
                if patience.overdue():
                    yield None
                    patience.spoke()
                continue
            if follower.pages != pages:
                pages = follower.pages
                patience.present()
            for event in events:
                yield event
                patience.spoke()
            if follower.ended:
                return
            if events:
                continue
            await bell.wait(patience.wait_s())
            if not follower.live:
                patience.away()
            if patience.overdue():
                yield None
                patience.spoke()
    finally:
        follower.close()
