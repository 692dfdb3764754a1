"""The balancing policy: eligible, two at random, the cheaper."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.agents.balancing import BalancingOptions, choose, cost
from mesh.agents.catalogue import AGENTS, agent_info
from mesh.contracts.mesh import Snapshot, WorkerInfo, mesh_view
from mesh.contracts.tasks import TaskKind

KIND = TaskKind.WRITE_EMAIL


def worker(name: str, **fields: object) -> WorkerInfo:
    base: dict[str, object] = {
        "name": name,
        "actor_id": f"id-{name}",
        "node": "n",
        "slots": 4,
        "heartbeat_at": 100.0,
    }
    return WorkerInfo.model_validate(base | fields)


def snapshot(*workers: WorkerInfo, at: float = 100.0) -> Snapshot:
    return Snapshot(version=1, at=at, workers=workers)


@pytest.mark.parametrize(
    "fields",
    [
        {"draining": True},
        {"active": 4},
        {"active": 5},
        {"heartbeat_at": 90.0},
        {"specialisations": ()},
    ],
)
def test_who_is_not_eligible_is_never_chosen(fields: dict[str, object]) -> None:
    choice = choose(snapshot(worker("a", **fields)), KIND, random.Random(1))
    assert choice.worker is None
    assert "none of 1" in choice.reason
    both = snapshot(worker("a", **fields), worker("b"))
    assert {choose(both, KIND, random.Random(s)).worker for s in range(20)} == {"b"}


def test_heartbeats_age_with_the_callers_clock() -> None:
    one = snapshot(worker("a"))
    assert choose(one, KIND, random.Random(1)).worker == "a"
    assert choose(one, KIND, random.Random(1), now=102.9).worker == "a"
    assert choose(one, KIND, random.Random(1), now=103.1).worker is None


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"active": 0}, {"active": 3}),
        ({"ewma_latency_s": 1.0}, {"ewma_latency_s": 4.0}),
        ({"success": 1.0}, {"success": 0.2}),
        ({"slots": 8, "active": 1}, {"slots": 2, "active": 1}),
    ],
)
def test_the_cheaper_of_two_wins(better: dict[str, object], worse: dict[str, object]) -> None:
    pair = snapshot(worker("w", **worse), worker("b", **better))
    for seed in range(10):
        choice = choose(pair, KIND, random.Random(seed))
        assert choice.worker == "b"
        costs = {c.worker: c.cost for c in choice.candidates}
        assert costs["b"] < costs["w"]


def test_one_stale_snapshot_does_not_send_everybody_to_one_worker() -> None:
    """The point of two choices: 1,000 callers with the same snapshot spread out."""
    workers = [worker(f"w{i}", active=i % 3) for i in range(10)]
    rng = random.Random(3)
    taken = Counter(choose(snapshot(*workers), KIND, rng).worker for _ in range(1_000))
    assert max(taken.values()) < 400
    assert taken["w0"] > taken["w2"]


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            worker,
            name=st.uuids().map(str),
            slots=st.integers(1, 16),
            active=st.integers(0, 16),
            ewma_latency_s=st.floats(0, 100),
            success=st.floats(0, 1),
            heartbeat_at=st.floats(90, 101),
            draining=st.booleans(),
        ),
        max_size=12,
    ),
    st.integers(),
)
def test_a_choice_is_eligible_and_explained(workers: list[WorkerInfo], seed: int) -> None:
    snap = snapshot(*workers)
    choice = choose(snap, KIND, random.Random(seed))
    eligible = {w.name for w in workers if w.free and not w.draining and w.heartbeat_at >= 97.0}
    assert (choice.worker in eligible) if eligible else choice.worker is None
    assert {c.worker for c in choice.candidates} <= eligible
    assert len(choice.candidates) == min(2, len(eligible))
    if choice.candidates:
        assert choice.worker == min(choice.candidates, key=lambda c: (c.cost, -c.free)).worker
    assert choice == choose(snap, KIND, random.Random(seed))


def test_cost_counts_failures() -> None:
    options = BalancingOptions()
    assert cost(worker("a", success=0.0), options) == pytest.approx(
        options.failure_penalty * cost(worker("a", success=1.0), options)
    )


def test_the_view_of_the_mesh() -> None:
    view = mesh_view(
        list(AGENTS),
        snapshot(worker("a"), worker("b", active=4), worker("c", draining=True)),
        101.5,
    )
    assert [(w.name, w.state) for w in view.workers] == [
        ("a", "ready"),
        ("b", "busy"),
        ("c", "draining"),
    ]
    assert view.snapshot_age_s == 1.5
    assert view.workers[0].heartbeat_age_s == 1.5
    empty = mesh_view(list(AGENTS), None, 0.0)
    assert empty.workers == []
    assert empty.snapshot_version is None


def test_the_catalogue() -> None:
    assert agent_info(KIND, "review").name == "reviewer"
    with pytest.raises(KeyError):
        agent_info(KIND, "nothing")
    for kind in {a.kind for a in AGENTS}:
        positions = [a.position for a in AGENTS if a.kind is kind]
        assert positions == list(range(len(positions)))
