"""Hedging: late is later than usual, and the budget is hard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.hedging import HedgeOptions, Hedging


def test_nothing_is_late_before_the_usual_is_known() -> None:
    hedging = Hedging(HedgeOptions(budget=1, min_samples=10))
    for _ in range(9):
        hedging.called()
        hedging.observe(0.2)
        assert hedging.delay_s() is None
    hedging.observe(0.2)
    assert hedging.delay_s() == 0.2


def test_late_is_a_quantile_of_the_last_and_never_sooner_than_the_least() -> None:
    hedging = Hedging(HedgeOptions(budget=1, quantile=0.9, min_samples=10, window=20, min_s=0.05))
    hedging.called()
    for n in range(1, 21):
        hedging.observe(n / 10)
    delay = hedging.delay_s()
    assert delay is not None
    assert 1.7 <= delay <= 2.0
    for _ in range(24):
        hedging.observe(0.001)
    assert hedging.delay_s() == 0.05, "old waits are forgotten"


def test_off_means_off() -> None:
    hedging = Hedging(HedgeOptions(budget=0, min_samples=1))
    for _ in range(1_000):
        hedging.called()
        hedging.observe(1)
    assert hedging.delay_s() is None
    assert not hedging.spend()


@given(st.lists(st.booleans(), max_size=400), st.floats(0.01, 0.5))
def test_hedges_never_exceed_their_share(wishes: list[bool], budget: float) -> None:
    hedging = Hedging(HedgeOptions(budget=budget))
    for calls, wish in enumerate(wishes, 1):
        hedging.called()
        if wish:
            hedging.spend()
        assert hedging.statistics()["hedges"] <= budget * calls + 1e-9
