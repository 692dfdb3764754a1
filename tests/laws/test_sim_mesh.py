"""The simulated mesh keeps its laws, each seed the same, and breaks them where a rule is gone."""

from __future__ import annotations

import pytest

from benchmarks.sim import store
from benchmarks.sim.scenario import Verdict, simulate
from mesh.agents.balancing.roster import Roster
from mesh.agents.balancing.turns import Queued, TurnQueue

SEEDS = range(120)


def broken(verdicts: list[Verdict]) -> list[str]:
    return [f"seed {v.seed}: {v.violations[0]}" for v in verdicts if v.violations]


def test_every_task_ends_once_whatever_fails() -> None:
    verdicts = [simulate(seed) for seed in SEEDS]
    assert broken(verdicts) == []
    assert sum(v.takeovers for v in verdicts) > 20
    assert sum(v.handovers for v in verdicts) > 5
    assert sum(v.fenced for v in verdicts) > 5
    assert sum(len(v.recoveries) for v in verdicts) > 0
    kinds = {fault.split("@")[0] for v in verdicts for fault in v.faults}
    assert kinds == {"kill", "pause", "drain", "coordinator", "sleepy", "cut", "valkey"}


def test_a_seed_is_replayed_event_by_event() -> None:
    for seed in (3, 5, 8):
        assert simulate(seed) == simulate(seed)
    assert simulate(3).events != simulate(5).events


def test_without_fences_the_audit_finds_owners_that_came_back() -> None:
    found = broken([simulate(seed, fenced=False) for seed in range(150)])
    assert any("fenced owner" in line for line in found)


class FirstComeFirstServed(TurnQueue[int]):
    """No shares: whoever queues most gets most."""

    def add(self, number: int, space: int, *, cost: float = 1.0, priority: int = 0) -> float:
        self._next[space] = turn = sum(self._next.values()) + 1.0
        self._queued[number] = Queued(number, space, turn, cost, priority)
        return turn


def test_without_shares_the_audit_finds_the_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TurnQueue", FirstComeFirstServed)
    found = broken([simulate(seed) for seed in range(40)])
    assert any("differ by" in line or "overtaken" in line for line in found)


def test_without_heartbeats_the_audit_finds_the_slow_recovery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Roster, "bury", lambda _roster, _now: [])
    monkeypatch.setattr(Roster, "owners_to_free", ())
    found = broken([simulate(seed) for seed in range(150)])
    assert any("taken over after" in line for line in found)
