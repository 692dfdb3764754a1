"""Slots: never more than there are, none lost, in order, whatever callers do."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.errors import DeadlineExceeded, Overloaded, Unavailable
from mesh.llm.admission import Admission


async def test_the_order_is_that_of_arrival() -> None:
    admission = Admission(1, 10)
    order: list[int] = []

    async def work(number: int) -> None:
        async with admission.slot(5):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(n) for n in range(8)))
    assert order == list(range(8))
    assert admission.active == 0


async def test_full_is_refused_at_once() -> None:
    admission = Admission(1, 0)
    async with admission.slot(5):
        with pytest.raises(Overloaded):
            await admission.slot(5).__aenter__()
    assert admission.refused == 1


async def test_waiting_ends_with_the_deadline() -> None:
    admission = Admission(1, 1)
    async with admission.slot(5):
        with pytest.raises(DeadlineExceeded):
            await admission.slot(0.01).__aenter__()
        assert admission.queued == 0


async def test_closing_sends_waiters_away() -> None:
    admission = Admission(1, 1)
    async with admission.slot(5):
        waiting = asyncio.create_task(admission.slot(5).__aenter__())
        await asyncio.sleep(0)
        admission.close()
        with pytest.raises(Unavailable):
            await waiting
    with pytest.raises(Unavailable):
        await admission.slot(5).__aenter__()
    assert admission.active == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(0, 4))
def test_no_slot_is_ever_lost(seed: int, slots: int, queue: int) -> None:
    """Callers come, work, give up and are cancelled at random moments."""

    async def scenario() -> None:
        chance = random.Random(seed)
        admission = Admission(slots, queue)
        inside = 0

        async def caller() -> None:
            nonlocal inside
            async with admission.slot(chance.choice([0.0, 0.001, 5])):
                inside += 1
                assert inside <= slots
                try:
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks: list[asyncio.Task[None]] = []
        for _ in range(25):
            tasks.append(asyncio.create_task(caller()))
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.active, admission.queued, inside) == (0, 0, 0)
        async with admission.slot(1):
            assert admission.active == 1

    asyncio.run(scenario())
