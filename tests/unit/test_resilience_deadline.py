"""Deadlines: what is left, for parts and for other processes."""

from __future__ import annotations

import asyncio

import pytest

from mesh.core.clock import VirtualClock
from mesh.core.errors import DeadlineExceeded
from mesh.resilience.deadline import Deadline


async def test_time_runs_out() -> None:
    clock = VirtualClock()
    deadline = Deadline.after(10, clock)
    await clock.advance(4)
    assert deadline.remaining() == pytest.approx(6)
    assert deadline.child(3).remaining() == pytest.approx(3)
    assert deadline.child(30).remaining() == pytest.approx(6)
    deadline.check()
    await clock.advance(6)
    assert deadline.expired
    with pytest.raises(DeadlineExceeded) as passed:
        deadline.check("step")
    assert passed.value.details == {"what": "step"}


async def test_it_crosses_processes_as_unix_time() -> None:
    class Skewed(VirtualClock):
        def monotonic(self) -> float:
            return self.now() - 1_234.5

    here, there = VirtualClock(), Skewed()
    sent = Deadline.after(7, here).unix()
    assert Deadline.at_unix(sent, there).remaining() == pytest.approx(7)


async def test_the_block_is_cancelled_when_time_is_up() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.set()
            raise

    with pytest.raises(DeadlineExceeded):
        async with Deadline.after(0.01).limit("work"):
            await work()
    assert stopped.is_set()


async def test_a_passed_deadline_does_not_even_begin() -> None:
    with pytest.raises(DeadlineExceeded):
        async with Deadline.after(-1).limit():
            pytest.fail("it began")


async def test_the_work_s_own_timeout_stays_its_own() -> None:
    with pytest.raises(TimeoutError):
        async with Deadline.after(30).limit():
            raise TimeoutError
