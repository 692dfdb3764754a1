"""The bulkhead: bounded, the urgent first and nobody for ever last, nothing lost to those who
give up."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.clock import VirtualClock
from mesh.core.errors import DeadlineExceeded, Overloaded, Unavailable
from mesh.resilience.bulkhead import Bulkhead


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
            async with bulkhead.slot(0.01):
                pytest.fail("there was no place")
    async with bulkhead.slot(10):
        pass
    assert bulkhead.statistics()["expired"] == 1


async def line_up(
    bulkhead: Bulkhead, clock: VirtualClock, *comers: tuple[float, int, str]
) -> list[str]:
    """Callers come (seconds after the one before, priority, name) while the place is taken;
    gives the order in which they are let in."""
    order: list[str] = []

    async def work(name: str, priority: int) -> None:
        async with bulkhead.slot(priority=priority):
            order.append(name)

    async with asyncio.TaskGroup() as group, bulkhead.slot():
        for after, priority, name in comers:
            await clock.advance(after)
            group.create_task(work(name, priority))
            await asyncio.sleep(0)
    return order


async def test_the_urgent_go_first_and_equals_in_order_of_arrival() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead("engine", concurrency=1, queue=9, aging_s=5, clock=clock)
    order = await line_up(
        bulkhead, clock, (0, 0, "a"), (0, -1, "low"), (0, 5, "urgent"), (0, 0, "b"), (0, 5, "too")
    )
    assert order == ["urgent", "too", "a", "b", "low"]


async def test_waiting_makes_urgent() -> None:
    """Each ``aging_s`` counts as one step of priority: 11 s beat two steps, 9 s don't."""
    for waited, first in ((11, "early"), (9, "urgent")):
        clock = VirtualClock()
        bulkhead = Bulkhead("engine", concurrency=1, queue=9, aging_s=5, clock=clock)
        order = await line_up(bulkhead, clock, (0, 0, "early"), (waited, 2, "urgent"))
        assert order[0] == first


async def test_a_full_queue_sends_the_least_urgent_away() -> None:
    bulkhead = Bulkhead("engine", concurrency=1, queue=1)
    inside: list[int] = []

    async def work(priority: int) -> None:
        async with bulkhead.slot(priority=priority):
            inside.append(priority)

    async with bulkhead.slot():
        waiting = asyncio.create_task(work(0))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await work(0)  # no more urgent than who waits
        urgent = asyncio.create_task(work(1))
        with pytest.raises(Overloaded):
            await waiting
    await urgent
    assert inside == [1]
    assert bulkhead.statistics()["refused"] == 2


async def test_closing_sends_waiters_away() -> None:
    bulkhead = Bulkhead("engine", concurrency=1, queue=1)
    async with bulkhead.slot():
        waiting = asyncio.create_task(bulkhead.slot(5).__aenter__())
        await asyncio.sleep(0)
        bulkhead.close()
        with pytest.raises(Unavailable):
            await waiting
    with pytest.raises(Unavailable):
        await bulkhead.slot(5).__aenter__()
    assert (bulkhead.active, bulkhead.queued) == (0, 0)


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
        wait, priority = rng.choice([0.0, 0.001, 5]), rng.randrange(3)
        async with bulkhead.slot(wait, priority=priority):
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
        assert all(
            r is None or isinstance(r, Overloaded | DeadlineExceeded | asyncio.CancelledError)
            for r in done
        )
        assert bulkhead.statistics()["active"] == bulkhead.statistics()["waiting"] == 0
        async with asyncio.timeout(5), bulkhead.slot():
            pass

    asyncio.run(run())
