"""The breaker's three states, and what counts against a callee."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.clock import VirtualClock
from mesh.core.errors import EngineError, InvalidInput, NotFound, Unavailable
from mesh.resilience.breaker import BreakerOptions, BreakerState, CircuitBreaker

OPTIONS = BreakerOptions(
    failures=99, window=10, min_calls=4, failure_ratio=0.5, open_s=1, open_max_s=4, jitter=0
)


def call(breaker: CircuitBreaker, error: BaseException | None = None) -> None:
    with breaker.guard():
        if error is not None:
            raise error


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(EngineError):
            call(breaker, EngineError())


def refused(breaker: CircuitBreaker) -> Unavailable:
    with pytest.raises(Unavailable) as caught, breaker.guard():
        pytest.fail("it was called")
    assert caught.value.details == {"breaker": breaker.name}
    return caught.value


async def test_it_opens_probes_and_closes() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", OPTIONS, clock)
    call(breaker)
    call(breaker)
    fail(breaker, 1)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert refused(breaker).retry_after_s == pytest.approx(1)
    await clock.advance(1)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.allows()
    call(breaker)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 3)
    assert breaker.state is BreakerState.CLOSED, "old failures are forgotten"
    assert breaker.statistics()["opened"] == 1
    assert breaker.statistics()["refused"] == 1


async def test_each_failed_probe_doubles_the_wait_up_to_a_limit() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", OPTIONS, clock)
    fail(breaker, 4)
    for wait in (1, 2, 4, 4):
        assert breaker.retry_after_s() == pytest.approx(wait)
        await clock.advance(wait)
        fail(breaker)
    await clock.advance(4)
    call(breaker)
    fail(breaker, 4)
    assert breaker.retry_after_s() == pytest.approx(1), "a recovery resets the wait"


async def test_half_open_lets_only_the_probe_through() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", OPTIONS, clock)
    fail(breaker, 4)
    await clock.advance(1)
    with breaker.guard():
        assert not breaker.allows()
        refused(breaker)
    assert breaker.state is BreakerState.CLOSED


async def test_a_cancelled_probe_lets_another_look() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", OPTIONS, clock)
    fail(breaker, 4)
    await clock.advance(1)
    with pytest.raises(asyncio.CancelledError):
        call(breaker, asyncio.CancelledError())
    assert breaker.state is BreakerState.HALF_OPEN
    call(breaker)
    assert breaker.state is BreakerState.CLOSED


async def test_a_late_answer_from_before_says_nothing_about_now() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", OPTIONS, clock)
    with breaker.guard():
        fail(breaker, 4)
        await clock.advance(1)
        with pytest.raises(EngineError), breaker.guard():
            raise EngineError
    assert breaker.state is BreakerState.OPEN


def test_so_many_failures_in_a_row_open_it() -> None:
    breaker = CircuitBreaker("engine", BreakerOptions(failures=3), VirtualClock())
    for _ in range(3):
        call(breaker)
        fail(breaker, 2)
        assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


async def test_waits_are_jittered_upwards() -> None:
    waits = set()
    for seed in range(20):
        breaker = CircuitBreaker(
            "engine",
            BreakerOptions(failures=1, open_s=1, jitter=0.2),
            VirtualClock(),
            rng=random.Random(seed),
        )
        fail(breaker)
        waits.add(breaker.retry_after_s())
    assert all(1 <= wait <= 1.2 for wait in waits)
    assert len(waits) > 10


async def test_a_probe_of_which_nothing_is_heard_makes_room() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", BreakerOptions(failures=1, jitter=0, probe_s=5), clock)
    fail(breaker)
    await clock.advance(1)
    lost = breaker.acquire()
    await clock.advance(4)
    refused(breaker)
    await clock.advance(2)
    call(breaker)
    assert breaker.state is BreakerState.CLOSED
    lost.badly()  # too late: it says nothing about now
    assert breaker.state is BreakerState.CLOSED


def test_an_answer_that_breaks_off_counts_once_though_it_began_well() -> None:
    breaker = CircuitBreaker("engine", BreakerOptions(failures=3), VirtualClock())
    for _ in range(3):
        assert breaker.state is BreakerState.CLOSED
        permit = breaker.acquire()
        permit.well()
        permit.badly()
        permit.release()
    assert breaker.state is BreakerState.OPEN
    assert breaker.statistics()["failures"] == 3


async def test_a_probe_that_dies_under_its_answer_has_failed() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", BreakerOptions(failures=1, jitter=0, settle_s=3), clock)
    fail(breaker)
    await clock.advance(1)
    permit = breaker.acquire()
    permit.well()
    await clock.advance(2)
    assert breaker.state is BreakerState.HALF_OPEN
    permit.badly()
    permit.release()
    assert breaker.state is BreakerState.OPEN
    assert breaker.retry_after_s() == pytest.approx(2), "twice as long"


async def test_a_long_answer_is_a_good_probe_before_its_end() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker("engine", BreakerOptions(failures=1, jitter=0, settle_s=3), clock)
    fail(breaker)
    await clock.advance(1)
    permit = breaker.acquire()
    permit.well()
    assert not breaker.allows()
    await clock.advance(3)
    assert breaker.allows()
    assert breaker.state is BreakerState.CLOSED
    permit.badly()
    permit.release()
    assert breaker.state is BreakerState.CLOSED, "that is of an earlier era"


async def test_what_others_have_seen() -> None:
    clock = VirtualClock()
    moves: list[tuple[BreakerState, bool]] = []
    breaker = CircuitBreaker(
        "engine", OPTIONS, clock, changed=lambda _, to, own: moves.append((to, own))
    )
    breaker.heard_closed()
    assert moves == []
    breaker.heard_open(3)
    assert breaker.state is BreakerState.OPEN
    breaker.heard_open(2)  # sooner than what is known
    assert breaker.retry_after_s() == pytest.approx(3)
    breaker.heard_open(60)  # the other's probe failed
    assert breaker.retry_after_s() == pytest.approx(OPTIONS.open_max_s), "no mark is for ever"
    breaker.heard_closed()
    assert breaker.state is BreakerState.CLOSED
    breaker.heard_open(1)
    assert moves == [
        (BreakerState.OPEN, False),
        (BreakerState.CLOSED, False),
        (BreakerState.OPEN, False),
    ]
    await clock.advance(1)
    probe = breaker.acquire()
    breaker.heard_open(3)
    assert breaker.state is BreakerState.HALF_OPEN, "our own probe will tell"
    probe.well()
    probe.release()
    assert breaker.state is BreakerState.CLOSED


def test_the_caller_s_own_mistakes_do_not_count() -> None:
    breaker = CircuitBreaker("engine", OPTIONS, VirtualClock())
    for error in (InvalidInput(), NotFound()) * 20:
        with pytest.raises(type(error)):
            call(breaker, error)
    assert breaker.state is BreakerState.CLOSED


@given(st.lists(st.sampled_from(["well", "badly", "cancelled", "time"]), max_size=80))
def test_it_never_stays_shut_for_good(script: list[str]) -> None:
    """Whatever happened: within the longest wait a call is let through, and going well closes."""
    now = [0.0]
    clock = VirtualClock()
    clock.monotonic = lambda: now[0]  # type: ignore[method-assign]
    breaker = CircuitBreaker("law", OPTIONS, clock)
    errors = {"well": None, "badly": EngineError(), "cancelled": asyncio.CancelledError()}
    for word in script:
        if word == "time":
            now[0] += 0.7
            continue
        allowed = breaker.allows()
        try:
            call(breaker, errors[word])
        except Unavailable:
            assert not allowed
        except (EngineError, asyncio.CancelledError):
            assert allowed
        else:
            assert allowed
    now[0] += OPTIONS.open_max_s
    call(breaker)
    assert breaker.state is BreakerState.CLOSED
