"""Retries: only what may be called again, only while there is time and budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from mesh.core.clock import VirtualClock
from mesh.core.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from mesh.resilience.deadline import Deadline
from mesh.resilience.retry import RetryBudget, RetryOptions, retry


class Waits(VirtualClock):
    """Sleeps take no time of ours; how long they were is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.advance(seconds)


def failing(times: int, error: Exception) -> tuple[list[int], Callable[[], Awaitable[str]]]:
    calls: list[int] = []

    async def call() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return calls, call


async def test_it_calls_again_until_it_works() -> None:
    clock = Waits()
    calls, call = failing(2, Unavailable())
    options = RetryOptions(tries=3, base_s=1, max_s=1.5)
    assert await retry(call, options=options, clock=clock, rng=random.Random(1)) == "done"
    assert len(calls) == 3
    assert len(clock.slept) == 2
    assert 0 <= clock.slept[0] <= 1
    assert 0 <= clock.slept[1] <= 1.5
    assert len(set(clock.slept)) == 2, "jitter"


async def test_the_last_error_is_the_one_raised() -> None:
    calls, call = failing(9, Unavailable("still away"))
    with pytest.raises(Unavailable, match="still away"):
        await retry(call, clock=Waits())
    assert len(calls) == 3


@pytest.mark.parametrize("error", [InvalidInput(), DeadlineExceeded(), ValueError()])
async def test_what_will_not_get_better_is_not_repeated(error: Exception) -> None:
    calls, call = failing(1, error)
    with pytest.raises(type(error)):
        await retry(call, clock=Waits())
    assert len(calls) == 1


async def test_a_callee_that_says_when_is_obeyed() -> None:
    clock = Waits()
    _, call = failing(1, Overloaded(retry_after_s=5))
    assert await retry(call, clock=clock) == "done"
    assert clock.slept == [5]


async def test_no_wait_reaches_the_deadline() -> None:
    clock = Waits()
    calls, call = failing(9, Overloaded(retry_after_s=5))
    deadline = Deadline.after(8, clock)
    with pytest.raises(Overloaded):
        await retry(call, options=RetryOptions(tries=9), deadline=deadline, clock=clock)
    assert len(calls) == 2
    with pytest.raises(DeadlineExceeded):
        await retry(call, deadline=Deadline.after(0, clock), clock=clock)
    assert len(calls) == 2


async def test_a_budget_keeps_retries_a_share() -> None:
    clock = Waits()
    budget = RetryBudget(ratio=0.1, reserve=5)
    total = 0
    for _ in range(200):
        calls, call = failing(9, Unavailable())
        with pytest.raises(Unavailable):
            await retry(call, budget=budget, clock=clock)
        total += len(calls)
    assert total <= 200 + 5 + 0.1 * 200 + 1
    assert budget.statistics()["calls"] == 200
    assert budget.statistics()["refused"] > 100


async def test_cancelling_ends_it() -> None:
    started = asyncio.Event()

    async def call() -> None:
        started.set()
        await asyncio.sleep(30)

    task = asyncio.create_task(retry(call))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
