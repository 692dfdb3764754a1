"""The pure policies of the coordination: score, digest, roster, shards, slots, estimates."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from math import prod
from typing import Any

import pytest

from actors.places import STALE_S, read_places
from mesh.agents.balancing import BalancingOptions, Digest, choose, cost
from mesh.agents.balancing.estimates import Rates, least_wait_s, relative_cost, retry_after_s
from mesh.agents.balancing.history import Learning
from mesh.agents.balancing.roster import Roster
from mesh.agents.balancing.shards import buckets_of, shard_of
from mesh.agents.balancing.slots import SlotOptions, SlotShares
from mesh.contracts.mesh import KindHistory, QueueInfo, Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind
from mesh.storage.task_rows import BUCKETS, bucket_of

KIND = TaskKind.WRITE_EMAIL


def worker(name: str, incarnation: int = 1, **fields: Any) -> WorkerInfo:
    base: dict[str, Any] = {
        "name": name,
        "actor_id": f"{name}/{incarnation}",
        "node": "n",
        "slots": 4,
        "heartbeat_at": 100.0,
    }
    return WorkerInfo(**(base | fields))


def seen(**fields: Any) -> dict[TaskKind, KindHistory]:
    return {KIND: KindHistory(**({"count": 10, "latency_s": 2.0, "fastest_s": 1.0} | fields))}


def snapshot(*workers: WorkerInfo, **fields: Any) -> Snapshot:
    return Snapshot(**({"version": 1, "at": 100.0, "workers": workers} | fields))


# --- the score ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"history": seen(latency_s=1.0)}, {"history": seen(latency_s=3.0)}),
        ({"history": seen(success=1.0)}, {"history": seen(success=0.5)}),
        ({"history": seen(quality=1.0)}, {"history": seen(quality=0.2)}),
        ({"history": seen(cost_micros=10.0)}, {"history": seen(cost_micros=40.0)}),
        ({"history": seen(), "specialisations": (KIND,)}, {"history": seen()}),
        ({"history": seen(), "node": "near"}, {"history": seen(), "node": "far"}),
    ],
)
def test_each_part_of_the_score_counts_and_is_told(
    better: dict[str, Any], worse: dict[str, Any]
) -> None:
    pair = snapshot(worker("b", **better), worker("w", **worse), places={"memory:0": ("near",)})
    for seed in range(8):
        choice = choose(pair, KIND, random.Random(seed), wants=("memory:0",))
        assert choice.worker == "b"
        for one in choice.candidates:
            assert prod(one.parts.values()) == pytest.approx(one.cost)
    first, second = (c.parts for c in choice.candidates)
    assert sum(first[name] != second[name] for name in first) == 1, "one part made the difference"


def test_a_worker_that_nobody_knows_is_taken_for_the_mean() -> None:
    known = [worker(f"k{i}", history=seen(latency_s=1.0 + i)) for i in range(3)]
    new = worker("new")
    digest = Digest(snapshot(*known, new))
    found: dict[str, float] = {}
    rng = random.Random(1)
    for _ in range(50):
        for one in digest.choose(KIND, rng).candidates:
            found[one.worker] = one.parts["latency_s"]
    assert found == {"k0": 1.0, "k1": 2.0, "k2": 3.0, "new": 2.0}
    assert cost(new) == BalancingOptions().unknown_latency_s / new.slots


def test_what_was_offered_since_the_snapshot_counts() -> None:
    """A burst from one caller fills the workers evenly, and stops when all are full."""
    digest = Digest(snapshot(*(worker(f"w{i}") for i in range(4))))
    rng = random.Random(2)
    taken: Counter[str | None] = Counter()
    for _ in range(20):
        choice = digest.choose(KIND, rng)
        taken[choice.worker] += 1
        if choice.worker is not None:
            digest.note(choice.worker)
    assert taken == {"w0": 4, "w1": 4, "w2": 4, "w3": 4, None: 4}


def test_a_record_says_everything_in_json() -> None:
    choice = choose(snapshot(worker("a"), worker("b")), KIND, random.Random(1))
    record = choice.record()
    assert record["worker"] == choice.worker
    assert record["snapshot"] == 1
    assert "2 eligible" in record["reason"]
    assert {c["worker"] for c in record["candidates"]} == {"a", "b"}
    assert set(record["candidates"][0]["parts"]) >= {"latency_s", "load", "success", "locality"}


# --- what workers learn ---------------------------------------------------------------------


def test_latency_peaks_at_once_and_falls_slowly() -> None:
    learning = Learning()
    for seconds in (1.0, 1.0, 9.0):
        learning.observe(KIND, seconds, succeeded=True, cost_micros=100.0)
    assert learning.history[KIND].latency_s == 9.0
    learning.observe(KIND, 1.0, succeeded=True)
    now = learning.history[KIND]
    assert 6.0 < now.latency_s < 9.0
    assert now.fastest_s == pytest.approx(1.0)
    assert (now.count, now.cost_micros, now.success, now.quality) == (4, 100.0, 1.0, 1.0)


def test_failures_and_degraded_results_are_remembered_by_kind() -> None:
    learning = Learning()
    learning.observe(KIND, 1.0, succeeded=False)
    learning.observe(KIND, 1.0, succeeded=True, degraded=True)
    learning.observe(TaskKind.CLASSIFY, 0.1, succeeded=True)
    history = learning.history
    assert history[KIND].success < 1.0
    assert history[KIND].quality < 1.0
    assert (history[TaskKind.CLASSIFY].success, history[TaskKind.CLASSIFY].quality) == (1.0, 1.0)
    assert history[KIND].success < learning.success < 1.0
    assert Learning().latency_s == 0.0


# --- the roster -----------------------------------------------------------------------------


def heard(roster: Roster, *names: str, now: float, incarnation: int = 1) -> None:
    for name in names:
        roster.hear(worker(name, incarnation, heartbeat_at=now), now)


def turn(roster: Roster, until: float, since: float, *names: str) -> list[str]:
    """Time passes in small steps while these report; who was buried."""
    buried = []
    steps = round((until - since) / 0.1)
    for step in range(1, steps + 1):
        now = since + step * 0.1
        heard(roster, *names, now=now)
        buried += [info.name for info in roster.bury(now)]
    return buried


def test_who_falls_silent_is_buried_and_freed_once() -> None:
    roster = Roster(1.5, 0.0)
    heard(roster, "a", "b", now=0.0)
    assert turn(roster, 1.4, 0.0, "a") == []
    assert turn(roster, 1.8, 1.4, "a") == ["b"]
    assert list(roster.owners_to_free) == ["b/1"]
    roster.freed("b/1")
    assert turn(roster, 3.0, 1.8, "a") == []
    assert list(roster.owners_to_free) == []


def test_a_new_incarnation_buries_the_old_one() -> None:
    roster = Roster(1.5, 0.0)
    assert roster.hear(worker("a"), 0.0).registered
    assert not roster.hear(worker("a"), 0.1).registered
    assert roster.hear(worker("a", 2), 0.2).registered
    assert roster.owners_to_free == ("a/1",)


def test_our_own_sleep_is_held_against_nobody() -> None:
    roster = Roster(1.5, 0.0)
    heard(roster, "a", "b", now=0.0)
    assert roster.bury(100.0) == []
    assert turn(roster, 101.0, 100.0) == []
    assert [info.name for info in roster.bury(101.1)] == []


def test_when_all_fall_silent_it_may_be_us() -> None:
    roster = Roster(1.5, 0.0)
    heard(roster, "a", "b", now=0.0)
    assert turn(roster, 2.5, 0.0) == []
    assert sorted(turn(roster, 3.5, 2.5)) == ["a", "b"], "in the end they are gone all the same"
    alone = Roster(1.5, 0.0)
    heard(alone, "a", now=0.0)
    assert turn(alone, 2.0, 0.0) == ["a"]


def test_gossip_counts_only_when_it_is_news() -> None:
    roster = Roster(1.5, 0.0)
    heard(roster, "a", now=0.0)
    old = worker("a", heartbeat_at=0.0)
    now = 0.0
    for _ in range(14):
        now += 0.1
        roster.hear_of([old], now)
        assert roster.bury(now) == []
    roster.hear_of([worker("a", heartbeat_at=1.0)], now)
    assert turn(roster, 2.8, now) == []
    assert turn(roster, 3.2, 2.8) == ["a"]
    roster.hear_of([worker("a", heartbeat_at=1.0)], 3.2)
    assert roster.workers == (), "a shard that is behind doesn't raise the dead"
    assert roster.hear_of([worker("b")], 3.3)


# --- shards ---------------------------------------------------------------------------------


def test_buckets_are_shared_out_once_and_move_little() -> None:
    living = (0, 1, 2, 3)
    parts = [buckets_of(shard, living) for shard in living]
    assert sum(map(len, parts)) == BUCKETS
    assert frozenset().union(*parts) == frozenset(range(BUCKETS))
    assert all(len(part) >= 8 for part in parts)
    without = [buckets_of(shard, (0, 1, 2)) for shard in (0, 1, 2)]
    for before, after in zip(parts, without, strict=False):
        assert before < after, "nobody loses a bucket by another's death"
    assert buckets_of(7, ()) == frozenset(range(BUCKETS))
    space = uuid.uuid4()
    assert bucket_of(space) in parts[shard_of(space, living)]


# --- slots ----------------------------------------------------------------------------------


def test_alone_a_workspace_may_have_everything() -> None:
    shares = SlotShares(SlotOptions(slots=8, batch=4))
    a, b = uuid.uuid4(), uuid.uuid4()
    shares.saw(a, 0.0)
    assert shares.room([a] * 6, 0.0) == shares.room([a] * 6, 1.0)
    assert (shares.room([a] * 6, 1.0).n, shares.room([a] * 8, 1.0).n) == (2, 0)
    assert shares.room([a] * 7, 1.0).full == frozenset()
    shares.saw(b, 2.0)
    assert shares.room([a] * 6, 3.0).full == {a}
    assert shares.room([a] * 6, 200.0).full == frozenset(), "b has long been gone"


def test_no_batch_takes_a_workspace_past_its_share() -> None:
    options = SlotOptions(slots=8, max_share=0.75, batch=8)
    shares = SlotShares(options)
    shares.told(True, 0.0)
    spaces = [uuid.uuid4() for _ in range(3)]
    rng = random.Random(5)
    held: list[uuid.UUID] = []
    for _ in range(300):
        room = shares.room(held, 1.0)
        takers = [space for space in spaces if space not in room.full]
        if room.n and takers:
            held += [rng.choice(takers)] * room.n
        assert len(held) <= options.slots
        assert max(Counter(held).values(), default=0) <= options.most == 6
        rng.shuffle(held)
        held = held[: rng.randint(0, len(held))]


# --- estimates ------------------------------------------------------------------------------


def test_only_the_surely_hopeless_are_refused() -> None:
    space = uuid.uuid4()
    queues = {space: QueueInfo(queued=80, running=4)}
    fast = snapshot(worker("a", history=seen(fastest_s=1.0)), worker("b"), queues=queues)
    assert least_wait_s(fast, space, KIND) == 1.0 + 80 // 8 * 1.0
    assert least_wait_s(fast, space, KIND, ahead=False) == 1.0
    assert least_wait_s(fast, uuid.uuid4(), KIND) == 1.0
    assert least_wait_s(fast, space, TaskKind.CLASSIFY) is None
    few = snapshot(worker("a", history=seen(count=2)))
    assert least_wait_s(few, space, KIND) is None
    assert least_wait_s(snapshot(), space, KIND) is None


def test_retry_after_follows_the_measured_drain() -> None:
    assert retry_after_s(None, 1_000, 5.0) == 5.0
    assert retry_after_s(snapshot(), 1_000, 5.0) == 5.0
    assert retry_after_s(snapshot(rates={KIND: 5.0}), 1_000, 5.0) == 10.0
    shared = snapshot(rates={KIND: 5.0}, tenants=4)
    assert retry_after_s(shared, 1_000, 5.0) == 40.0
    assert retry_after_s(snapshot(rates={KIND: 5e5}), 1_000, 5.0) == 1.0
    assert retry_after_s(snapshot(rates={KIND: 1e-3}), 1_000, 5.0) == 120.0


def test_rates_count_each_end_once_and_fade() -> None:
    rates = Rates()
    for second in range(100):
        rates.hear(worker("a", history=seen(count=2 * second)), float(second))
        rates.hear(worker("a", history=seen(count=2 * second)), float(second))
    assert rates.per_s(100.0)[KIND] == pytest.approx(2.0, rel=0.1)
    assert rates.per_s(1_000.0) == {}
    rates.forget("a/1")
    rates.hear(worker("a", history=seen(count=3)), 1_000.0)
    assert rates.per_s(1_000.0)[KIND] == pytest.approx(3 / 30, rel=0.01)


def test_costs_are_relative_to_all_kinds() -> None:
    both = {KIND: KindHistory(count=1, latency_s=9.0), TaskKind.CLASSIFY: KindHistory(count=1)}
    assert relative_cost(None, KIND) == 1.0
    assert relative_cost(snapshot(worker("a")), KIND) == 1.0
    assert relative_cost(snapshot(worker("a", history=both)), KIND) == 2.0
    assert relative_cost(snapshot(worker("a", history=both)), TaskKind.CLASSIFY) == 0.1


def test_places_that_are_old_or_no_sense_go() -> None:
    raw = {
        b"memory:0|x": b'{"place": "memory:0", "node": "n1", "at": 100}',
        b"memory:0|y": b'{"place": "memory:0", "node": "n0", "at": 99}',
        b"model:m|z": b'{"place": "model:m", "node": "n1", "at": 1}',
        b"junk": b"[1",
    }
    places, stale = read_places(raw, 1 + STALE_S + 0.5)
    assert places == {"memory:0": ("n0", "n1")}
    assert sorted(stale) == [b"junk", b"model:m|z"]
