"""How the recovery from a kill is measured: strictly, and only by what was probed."""

from __future__ import annotations

from benchmarks.show.mesh_kills import VICTIMS, schedule
from benchmarks.show.probes import Probe, recovery_s, slowest


def test_a_function_that_never_failed_recovers_with_its_next_success() -> None:
    probes = [Probe(8, 9), Probe(10.1, 10.4), Probe(10.5, 10.8)]
    assert recovery_s(probes, 10, 15, 20) == 10.4 - 10


def test_luck_between_two_failures_does_not_count() -> None:
    probes = [
        Probe(10.1, 10.3),
        Probe(10.4, 11.0, "no"),
        Probe(11.1, 11.2),
        Probe(11.3, 13.0, "no"),
        Probe(13.1, 13.5),
        Probe(13.6, 13.7),
    ]
    assert recovery_s(probes, 10, 15, 20) == 13.5 - 10


def test_what_began_before_the_kill_or_after_the_next_says_nothing() -> None:
    assert recovery_s([Probe(9.9, 10.5), Probe(20.1, 20.2)], 10, 15, 20) is None
    assert recovery_s([Probe(10.1, 12, "no")], 10, 15, 20) is None
    assert recovery_s([], 10, 15, 20) is None


def test_a_success_that_overlaps_a_failure_does_not_count() -> None:
    probes = [Probe(10.1, 12.0, "no"), Probe(10.5, 10.9), Probe(12.1, 12.3)]
    assert recovery_s(probes, 10, 15, 20) == 12.3 - 10


def test_what_was_under_way_counts_and_what_the_next_kill_did_does_not() -> None:
    hit = [Probe(9.0, 12.0, "no"), Probe(10.5, 10.6), Probe(12.1, 12.2)]
    assert recovery_s(hit, 10, 15, 20) == 12.2 - 10
    before = [Probe(8.0, 9.9, "no"), Probe(10.5, 10.6)]
    assert recovery_s(before, 10, 15, 20) == 10.6 - 10
    next_one = [Probe(10.5, 10.6), Probe(19.0, 23.0, "no")]
    assert recovery_s(next_one, 10, 15, 20) == 10.6 - 10


def test_the_slowest_function_counts() -> None:
    assert slowest([1.0, 3.0, 2.0]) == 3.0
    assert slowest([1.0, None]) is None


def test_a_seed_gives_the_same_schedule_and_every_kind_its_turn() -> None:
    assert schedule(7, 40) == schedule(7, 40)
    assert schedule(7, 40) != schedule(8, 40)
    counts = {kind: [p.kind for p in schedule(7, 60)].count(kind) for kind in VICTIMS}
    assert set(counts.values()) == {60 // len(VICTIMS)}
