"""Breakers that processes share over a real Valkey, and what they do without it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from services import ValkeyServer

from mesh.core.errors import EngineError, Unavailable
from mesh.resilience.breaker import BreakerOptions, BreakerState, CircuitBreaker
from mesh.resilience.shared_breakers import SharedBreakers
from mesh.streams.connect import connect

OPTIONS = BreakerOptions(failures=3, open_s=0.4, open_max_s=60, jitter=0)
LONG = BreakerOptions(failures=3, open_s=50, open_max_s=60, jitter=0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for knows nothing of us
            await asyncio.sleep(0.01)


def fail(breaker: CircuitBreaker, times: int = 3) -> None:
    for _ in range(times):
        with pytest.raises(EngineError), breaker.guard():
            raise EngineError


@asynccontextmanager
async def process(
    url: str, prefix: str, options: BreakerOptions = LONG
) -> AsyncIterator[SharedBreakers]:
    redis = connect(url, timeout_s=1.0)
    shared = SharedBreakers(["engine", "other"], options, redis, prefix=prefix)
    shared.start()
    try:
        yield shared
    finally:
        await shared.aclose()
        await redis.aclose()


async def listening(url: str, prefix: str, count: int) -> None:
    redis = connect(url)
    async with asyncio.timeout(10):
        while (await redis.pubsub_numsub(f"{prefix}s"))[0][1] < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await redis.aclose()


async def test_what_one_learns_all_know(valkey_url: str) -> None:
    prefix = f"test:{uuid.uuid4().hex}"
    async with process(valkey_url, prefix) as one, process(valkey_url, prefix) as other:
        await listening(valkey_url, prefix, 2)
        fail(one["engine"])
        assert one["engine"].state is BreakerState.OPEN
        await until(lambda: other["engine"].state is BreakerState.OPEN)
        assert other["other"].state is BreakerState.CLOSED
        assert 45 < other["engine"].retry_after_s() <= 50
        with pytest.raises(Unavailable):
            other["engine"].acquire()
        async with process(valkey_url, prefix) as late:  # learns it from the mark
            await until(lambda: late["engine"].state is BreakerState.OPEN)
            assert late["engine"].retry_after_s() <= 50
            assert late.sharing()["sent"] == 0, "what was heard is not told again"


async def test_a_probe_that_goes_well_closes_all_and_they_take_turns(valkey_url: str) -> None:
    prefix = f"test:{uuid.uuid4().hex}"
    async with (
        process(valkey_url, prefix, OPTIONS) as one,
        process(valkey_url, prefix, OPTIONS) as other,
    ):
        await listening(valkey_url, prefix, 2)
        fail(one["engine"])
        await until(lambda: other["engine"].state is BreakerState.OPEN)
        await until(
            lambda: {one["engine"].state, other["engine"].state} == {BreakerState.HALF_OPEN}
        )
        asked = await asyncio.gather(one.may_probe("engine"), other.may_probe("engine"))
        assert sorted(asked) == [False, True]
        prober = one if asked[0] else other
        with prober["engine"].guard():
            pass
        await until(lambda: one["engine"].state is other["engine"].state is BreakerState.CLOSED)
        async with process(valkey_url, prefix, OPTIONS) as late:
            await listening(valkey_url, prefix, 3)
            assert late["engine"].state is BreakerState.CLOSED, "the mark is gone"


async def test_marks_expire(valkey_url: str) -> None:
    prefix = f"test:{uuid.uuid4().hex}"
    redis = connect(valkey_url)
    async with process(valkey_url, prefix, OPTIONS) as one:
        fail(one["engine"])
        await until(lambda: one.sharing()["sent"] == 1)
        assert 0 < await redis.pttl(f"{prefix}:engine") <= 400
    await redis.aclose()


async def test_nonsense_on_the_channel_is_nothing(valkey_url: str) -> None:
    prefix = f"test:{uuid.uuid4().hex}"
    redis = connect(valkey_url)
    async with process(valkey_url, prefix) as one:
        await listening(valkey_url, prefix, 1)
        for text in ("x", "[]", "{}", '{"name": "engine", "by": "me", "state": "open"}',
                     '{"name": "nobody", "by": "me", "state": "open", "for_s": 9}'):  # fmt: skip
            await redis.publish(f"{prefix}s", text)
        good = '{"name": "other", "by": "me", "state": "open", "for_s": 9}'
        await redis.publish(f"{prefix}s", good)
        await until(lambda: one["other"].state is BreakerState.OPEN)
        assert one["engine"].state is BreakerState.CLOSED
    await redis.aclose()


async def test_without_valkey_each_is_on_its_own_and_heals(tmp_path: object) -> None:
    prefix = "test:away"
    with ValkeyServer() as server:
        async with process(server.url, prefix) as one, process(server.url, prefix) as other:
            await listening(server.url, prefix, 2)
            server.kill()
            fail(one["engine"])
            assert one["engine"].state is BreakerState.OPEN, "its own view needs nobody"
            assert await one.may_probe("engine"), "nobody can be asked: allowed"
            await until(lambda: one.sharing()["lost"] >= 1)
            assert other["engine"].state is BreakerState.CLOSED, "no data means allowed"
            server.start()
            await listening(server.url, prefix, 2)
            fail(one["other"])
            await until(lambda: other["other"].state is BreakerState.OPEN)
