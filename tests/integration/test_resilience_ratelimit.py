"""The shared limit on a real Valkey: exact when quiet, within a block when busy, open when away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from services import ValkeyServer

from mesh.core.clock import SystemClock
from mesh.resilience.ratelimit import RateLimiter


@pytest_asyncio.fixture
async def limiters(valkey_url: str) -> AsyncIterator[Callable[..., RateLimiter]]:
    made: list[RateLimiter] = []

    def make(per_minute: int, block: int = 200, **more: Any) -> RateLimiter:
        made.append(RateLimiter(valkey_url, per_minute, block, **more))
        return made[-1]

    yield make
    for limiter in made:
        await limiter.aclose()


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


async def until(limiter: RateLimiter, key: str, *, allowed: bool) -> None:
    async with asyncio.timeout(20):
        while (await limiter.hit(key)).allowed is not allowed:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_small_limit_is_exact_across_replicas(
    limiters: Callable[..., RateLimiter], key: str
) -> None:
    replicas = [limiters(12, block=1) for _ in range(3)]
    decisions = [await replicas[n % 3].hit(key) for n in range(30)]
    assert [d.allowed for d in decisions] == [True] * 12 + [False] * 18
    assert decisions[0].limit == 12
    assert decisions[-1].remaining == 0
    assert 0 < decisions[-1].reset_s <= 60
    assert (await replicas[0].hit(key + "another")).allowed


async def test_a_busy_key_costs_few_round_trips_and_stays_within_the_limit(
    limiters: Callable[..., RateLimiter], key: str
) -> None:
    replicas = [limiters(3_000, block=100) for _ in range(3)]

    async def load(replica: RateLimiter) -> int:
        return sum([(await replica.hit(key)).allowed for _ in range(3_000)])

    allowed = sum(await asyncio.gather(*(load(replica) for replica in replicas)))
    assert allowed <= 3_000
    assert allowed >= 3_000 - 3 * 100
    assert sum(int(r.statistics()["takes"]) for r in replicas) < 150
    assert sum(int(r.statistics()["denied"]) for r in replicas) == 9_000 - allowed


async def test_a_quiet_key_takes_no_more_than_it_uses(
    limiters: Callable[..., RateLimiter], key: str
) -> None:
    class Slow(SystemClock):
        at = 0.0

        def monotonic(self) -> float:
            return self.at

    clock = Slow()
    limiter = limiters(100, clock=clock)
    for _ in range(100):
        assert (await limiter.hit(key)).allowed
        clock.at += 0.8
    assert not (await limiter.hit(key)).allowed


async def test_the_window_slides(limiters: Callable[..., RateLimiter], key: str) -> None:
    limiter = limiters(5, window_s=1)
    assert [(await limiter.hit(key)).allowed for _ in range(6)] == [True] * 5 + [False]
    await until(limiter, key, allowed=True)


async def test_many_at_once_share_one_look(limiters: Callable[..., RateLimiter], key: str) -> None:
    limiter = limiters(1_000, block=100)
    decisions = await asyncio.gather(*(limiter.hit(key) for _ in range(400)))
    assert all(decision.allowed for decision in decisions)
    assert limiter.statistics()["takes"] < 20


async def test_while_valkey_is_away_everybody_passes_and_it_is_counted(key: str) -> None:
    server = ValkeyServer()
    try:
        server.start()
        limiter = RateLimiter(server.url, 3, block=1)
        assert (await limiter.hit(key)).allowed
        await asyncio.to_thread(server.kill)
        async with asyncio.timeout(10):
            for _ in range(500):
                assert (await limiter.hit(key)).allowed
        assert limiter.statistics()["errors"] >= 1
        await asyncio.to_thread(server.start)
        await until(limiter, key, allowed=False)
        await limiter.aclose()
    finally:
        server.close()
