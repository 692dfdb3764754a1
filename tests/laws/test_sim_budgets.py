"""Budgets hold in the simulation: see ``benchmarks.sim_budgets``, which runs 10,000 seeds."""

from __future__ import annotations

import pytest

from benchmarks.sim_budgets import simulate


@pytest.mark.parametrize("block", range(6))
def test_nobody_spends_more_than_there_is(block: int) -> None:
    served = sum(simulate(seed).served for seed in range(block * 25, block * 25 + 25))
    assert served > 100


def test_a_seed_tells_the_same_story_twice() -> None:
    stories: list[list[str]] = []
    for _ in range(2):
        told: list[str] = []
        simulate(4711, told.append)
        stories.append(told)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 20
