"""Circuit breakers that processes share: what one has learnt, all know.

Each process decides by itself, from its own calls. When one opens, it says so on a channel and
leaves a mark that expires with the opening; others adopt it, and read the marks when they start
or reconnect. When a probe goes well, the mark goes and all close. Half open, the processes take
turns: a lease with an expiry lets one probe at a time. Without a mark, or without Valkey, a
process has only its own view: no data means *allowed*.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mesh.core.clock import Clock, SystemClock
from mesh.core.logging import get_logger
from mesh.resilience.breaker import (
    BreakerOptions,
    BreakerState,
    CircuitBreaker,
    counts_as_failure,
)

CHANNEL = "maily:breakers"
POLL_S = 5.0
PROBE_LEASE_S = 5.0
_ASK_S = 0.25
"""How long a probe waits for its lease; after that it goes without."""

_log = get_logger("breakers")


class SharedBreakers:
    """Breakers by name. ``start`` it where ``redis`` is given; belongs to one event loop."""

    def __init__(
        self,
        names: Iterable[str],
        options: BreakerOptions | None = None,
        redis: Redis | None = None,
        *,
        prefix: str = "maily:breaker",
        clock: Clock | None = None,
        rng: random.Random | None = None,
        is_failure: Callable[[BaseException], bool] = counts_as_failure,
    ) -> None:
        self._clock = clock or SystemClock()
        self._redis = redis
        self._prefix = prefix
        self._channel = CHANNEL if prefix == "maily:breaker" else f"{prefix}s"
        self._me = secrets.token_hex(6)
        rng = rng or random.Random()  # noqa: S311 - jitter
        self._breakers = {
            name: CircuitBreaker(
                name, options, self._clock, is_failure, rng=rng, changed=self._on_change
            )
            for name in names
        }
        self._on_open: list[Callable[[str], None]] = []
        self._news: dict[str, dict[str, Any]] = {}
        """What is still to be told: the newest of each breaker."""
        self._told = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._heard = 0
        self._sent = 0
        self._lost = 0

    def __getitem__(self, name: str) -> CircuitBreaker:
        return self._breakers[name]

    def start(self) -> None:
        """Share from now on; without Redis there is nobody to share with."""
        if self._redis is not None and not self._tasks:
            self._tasks = [
                asyncio.create_task(self._listen(self._redis)),
                asyncio.create_task(self._speak(self._redis)),
            ]

    def on_open(self, call: Callable[[str], None]) -> None:
        """``call`` with a breaker's name whenever it opens, by itself or by hearsay."""
        self._on_open.append(call)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def may_probe(self, name: str) -> bool:
        """Half open: whether this process may make the probe now. True where nobody can be
        asked."""
        if self._redis is None or not self._tasks:
            return True
        try:
            async with asyncio.timeout(_ASK_S):
                return bool(
                    await self._redis.set(
                        f"{self._prefix}:{name}:probe",
                        self._me,
                        nx=True,
                        px=int(PROBE_LEASE_S * 1000),
                    )
                )
        except (TimeoutError, RedisError, OSError):
            return True

    def statistics(self) -> dict[str, dict[str, int | float | str]]:
        """Of each breaker."""
        return {name: breaker.statistics() for name, breaker in self._breakers.items()}

    def sharing(self) -> dict[str, int]:
        """Messages sent, heard, and lost because Valkey was away."""
        return {"sent": self._sent, "heard": self._heard, "lost": self._lost}

    def _on_change(self, breaker: CircuitBreaker, to: BreakerState, own: bool) -> None:
        wait = breaker.retry_after_s()
        log = _log.warning if to is BreakerState.OPEN else _log.info
        log("breaker." + to.value, breaker=breaker.name, own=own, for_s=round(wait, 3))
        if to is BreakerState.OPEN:
            for call in self._on_open:
                call(breaker.name)
        if not own or to is BreakerState.HALF_OPEN:
            return
        self._news[breaker.name] = {"state": to.value, "for_s": wait, "by": self._me}
        self._told.set()

    async def _speak(self, redis: Redis) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            news, self._news = self._news, {}
            for name, said in news.items():
                text = json.dumps(said | {"name": name})
                key = f"{self._prefix}:{name}"
                try:
                    async with redis.pipeline(transaction=True) as pipe:
                        if said["state"] == BreakerState.OPEN.value:
                            pipe.set(key, text, px=max(1, int(said["for_s"] * 1000)))
                        else:
                            pipe.delete(key)
                        pipe.delete(f"{key}:probe")
                        pipe.publish(self._channel, text)
                        await pipe.execute()
                    self._sent += 1
                except (RedisError, OSError) as error:
                    self._lost += 1
                    _log.info("breakers.not_told", breaker=name, error=type(error).__name__)

    async def _listen(self, redis: Redis) -> None:
        while True:
            try:
                async with redis.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    await self._read_marks(redis)
                    while True:
                        message = await subscription.get_message(
                            ignore_subscribe_messages=True, timeout=POLL_S
                        )
                        if message is None:
                            async with asyncio.timeout(POLL_S):
                                await subscription.ping()
                        elif message["type"] == "message":
                            self._hear(message["data"])
            except (RedisError, OSError, TimeoutError) as error:
                _log.info("breakers.alone", error=type(error).__name__)
                await self._clock.sleep(1.0)

    async def _read_marks(self, redis: Redis) -> None:
        names = list(self._breakers)
        keys = [f"{self._prefix}:{name}" for name in names]
        async with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
                pipe.pttl(key)
            answers = await pipe.execute()
        for text, left_ms in zip(answers[::2], answers[1::2], strict=True):
            if text and left_ms > 0:
                self._hear(text, left_ms / 1000)

    def _hear(self, text: bytes, left_s: float | None = None) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(text)
            breaker = self._breakers.get(said["name"])
            if breaker is None or said["by"] == self._me:
                return
            self._heard += 1
            if said["state"] == BreakerState.OPEN.value:
                breaker.heard_open(float(said["for_s"]) if left_s is None else left_s)
            else:
                breaker.heard_closed()
