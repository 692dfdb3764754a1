"""How many subscribe to a room, over all processes: counts that expire with those who tell them.

Each process writes what it has of a room every few seconds and reads what all have. A process that
dies is forgotten after ``PRESENCE_S``; nobody has to notice its death.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from redis.asyncio import Redis

from mesh.core.clock import Clock, SystemClock
from mesh.streams.connect import unavailable
from mesh.streams.options import StreamOptions

PRESENCE_S = 10.0


class Presence(Protocol):
    async def tell(self, counts: Mapping[str, int]) -> dict[str, int]:
        """What this process has of each stream (0: no longer any), and how many all have of them.

        Raises Unavailable.
        """
        ...


class LocalPresence:
    """One process alone."""

    async def tell(self, counts: Mapping[str, int]) -> dict[str, int]:
        return dict(counts)


class ValkeyPresence:
    """Counts in a hash per room: process → ``count:until`` (Unix seconds)."""

    def __init__(
        self, redis: Redis, options: StreamOptions | None = None, clock: Clock | None = None
    ) -> None:
        self._redis = redis
        self._prefix = f"{(options or StreamOptions()).prefix}presence:"
        self._clock = clock or SystemClock()
        self._process = uuid.uuid4().hex

    async def tell(self, counts: Mapping[str, int]) -> dict[str, int]:
        if not counts:
            return {}
        now = self._clock.now()
        pipeline: Any = self._redis.pipeline(transaction=False)
        for stream, count in counts.items():
            key = f"{self._prefix}{stream}"
            if count:
                pipeline.hset(key, self._process, f"{count}:{now + PRESENCE_S:.3f}")
                pipeline.pexpire(key, round(PRESENCE_S * 2_000))
            else:
                pipeline.hdel(key, self._process)
            pipeline.hvals(key)
        with unavailable():
            replies = await pipeline.execute()
        sums = [_sum(reply, now) for reply in replies if isinstance(reply, list)]
        return dict(zip(counts, sums, strict=True))


def _sum(values: Iterable[bytes], now: float) -> int:
    total = 0
    for value in values:
        count, _, until = value.partition(b":")
        if float(until) > now:
            total += int(count)
    return total
