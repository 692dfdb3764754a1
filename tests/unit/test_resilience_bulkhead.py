"""The bulkhead: bounded, first come first served, nothing lost to those who give up."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.errors import DeadlineExceeded, Overloaded
from mesh.resilience.bulkhead import Bulkhead
from mesh.resilience.deadline import Deadline


async def test_so_many_at_once_so_many_waiting_the_rest_refused() -> None:
    bulkhead = Bulkhead("engine", concurrency=2, queue=3, retry_after_s=7)
    gate, order = asyncio.Event(), []

    async def work(n: int) -> None:
        async with bulkhead.slot():
            order.append(n)
            await gate.wait()

    tasks = [asyncio.create_task(work(n)) for n in range(6)]
    await asyncio.sleep(0)
    assert order == [0, 1]
    with pytest.raises(Overloaded) as refused:
        await tasks[5]
    assert refused.value.retry_after_s == 7
    assert bulkhead.statistics()["waiting"] == 3
    gate.set()
    await asyncio.gather(*tasks[:5])
    assert order == [0, 1, 2, 3, 4]
    assert bulkhead.statistics() == {
        "active": 0,
        "waiting": 0,
        "entered": 5,
        "refused": 1,
        "expired": 0,
    }


async def test_waiting_ends_with_the_deadline() -> None:
    bulkhead = Bulkhead("engine", concurrency=1, queue=1)
    async with bulkhead.slot():
        with pytest.raises(DeadlineExceeded):
            async with bulkhead.slot(Deadline.after(0.01)):
                pytest.fail("there was no place")
    async with bulkhead.slot(Deadline.after(10)):
        pass
    assert bulkhead.statistics()["expired"] == 1


@pytest.mark.parametrize(("concurrency", "queue"), [(0, 1), (1, -1)])
def test_senseless_sizes_are_refused(concurrency: int, queue: int) -> None:
    with pytest.raises(ValueError, match="bulkhead"):
        Bulkhead("x", concurrency=concurrency, queue=queue)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), concurrency=st.integers(1, 3), queue=st.integers(0, 5))
def test_places_are_never_lost_nor_made_up(seed: int, concurrency: int, queue: int) -> None:
    rng = random.Random(seed)
    bulkhead = Bulkhead("law", concurrency=concurrency, queue=queue)
    inside = 0

    async def work() -> None:
        nonlocal inside
        async with bulkhead.slot():
            inside += 1
            assert inside <= concurrency
            try:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1

    async def run() -> None:
        tasks = []
        for _ in range(40):
            tasks.append(asyncio.create_task(work()))
            if rng.random() < 0.4:
                rng.choice(tasks).cancel()
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(r is None or isinstance(r, Overloaded | asyncio.CancelledError) for r in done)
        assert bulkhead.statistics()["active"] == bulkhead.statistics()["waiting"] == 0
        async with asyncio.timeout(5), bulkhead.slot():
            pass

    asyncio.run(run())
