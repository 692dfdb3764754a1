"""Retries: spread in time, and a share of the calls at most."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.retry import RetryBudget, full_jitter


def test_waits_are_random_below_a_limit_that_doubles() -> None:
    rng = random.Random(1)
    for tried, limit in ((1, 0.1), (2, 0.2), (3, 0.4), (5, 1.0), (60, 1.0)):
        waits = [full_jitter(tried, 0.1, 1.0, rng) for _ in range(200)]
        assert all(0 <= wait <= limit for wait in waits)
        assert max(waits) > 0.9 * limit
        assert min(waits) < 0.1 * limit


@given(st.lists(st.booleans(), max_size=500), st.floats(0, 1), st.floats(0, 20))
def test_retries_never_exceed_their_share_and_the_reserve(
    wishes: list[bool], ratio: float, reserve: float
) -> None:
    budget = RetryBudget(ratio, reserve)
    for calls, wish in enumerate(wishes, 1):
        budget.called()
        if wish:
            budget.spend()
        figures = budget.statistics()
        assert figures["retries"] <= ratio * calls + reserve + 1e-6
        assert figures["left"] <= reserve


def test_a_quiet_callee_saves_up_no_more_than_the_reserve() -> None:
    budget = RetryBudget(ratio=0.5, reserve=2)
    for _ in range(100):
        budget.called()
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    assert budget.statistics() == {"calls": 100, "retries": 2, "refused": 1, "left": 0.0}
