"""What every way to search vectors must give: the exact answer, whatever was added and erased.

The index has three (all in place, copied out, through the sketch); each is made to be the one that
answers, and is compared with a plain scan in full precision.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest

from mesh.core.errors import InvalidInput
from mesh.memory.index import VectorIndex
from mesh.memory.options import IndexOptions

DIMENSIONS = 32
WAYS = {
    "copied": IndexOptions(gather_max=10**9),
    "in place": IndexOptions(gather_max=0),
    "sketched": IndexOptions(exact_up_to=300, gather_max=50, target_recall=0.97),
}
Floats = npt.NDArray[np.float32]


def vectors(count: int, seed: int = 1) -> Floats:
    """Some alike, some not, as texts are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, DIMENSIONS))
    rows = centres[rng.integers(0, 40, count)] + rng.standard_normal((count, DIMENSIONS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def truth(
    kept: dict[int, Floats], query: Floats, k: int, allowed: npt.NDArray[np.bool_]
) -> set[int]:
    among = np.array([p for p in kept if p < len(allowed) and allowed[p]], dtype=np.int64)
    if not len(among):
        return set()
    scores = np.stack([kept[p] for p in among.tolist()]) @ query
    return set(among[np.argsort(-scores, kind="stable")[:k]].tolist())


@pytest.fixture(params=list(WAYS))
def index(request: pytest.FixtureRequest) -> VectorIndex:
    return VectorIndex(DIMENSIONS, WAYS[request.param])


def filled(index: VectorIndex, rows: Floats) -> dict[int, Floats]:
    positions = index.add(rows)
    if index.wants_sketch():
        index.build_sketch()
        assert index.statistics()["depth"], "the sketch must be possible here"
    return dict(zip(positions.tolist(), rows, strict=True))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01])
def test_recall_is_held_at_every_selectivity(index: VectorIndex, share: float) -> None:
    kept = filled(index, vectors(2_000))
    allowed = np.random.default_rng(2).random(2_000) < share
    hits = wanted = 0
    for query in vectors(50, seed=3):
        positions, scores = index.search(query, 10, None if share == 1.0 else allowed)
        true = truth(kept, query, 10, np.ones(2_000, bool) if share == 1.0 else allowed)
        assert len(positions) == len(true)
        assert list(scores) == sorted(scores, reverse=True)
        hits += len(true & set(positions.tolist()))
        wanted += len(true)
    assert hits / wanted >= 0.98


def test_a_filter_whose_matches_are_far_away_still_finds_the_nearest(index: VectorIndex) -> None:
    rows = vectors(2_000)
    kept = filled(index, rows)
    query = rows[0]
    allowed = rows @ query < np.median(rows @ query)  # the farther half
    positions, _ = index.search(query, 10, allowed)
    assert len(truth(kept, query, 10, allowed) & set(positions.tolist())) >= 9


def test_what_was_erased_is_not_found_and_its_place_is_used_again(index: VectorIndex) -> None:
    rows = vectors(1_000)
    kept = filled(index, rows)
    index.remove(list(range(0, 1_000, 2)))
    index.remove([0, 2, 5_000, -1])
    assert len(index) == 500
    for query in rows[:40:2]:
        positions, _ = index.search(query, 10)
        assert all(position % 2 for position in positions.tolist())
    assert not index.dump([0, 2, 4]).any(), "its bytes are overwritten"
    fresh = vectors(300, seed=9)
    again = index.add(fresh)
    assert set(again.tolist()) <= set(range(0, 1_000, 2))
    assert index.size == 1_000
    kept = {p: row for p, row in kept.items() if p % 2} | dict(
        zip(again.tolist(), fresh, strict=True)
    )
    everything = np.ones(1_000, bool)
    hits = 0
    for query in fresh[:50]:
        positions, scores = index.search(query, 10)
        assert scores[0] == pytest.approx(1.0, abs=2e-3)
        hits += len(truth(kept, query, 10, everything) & set(positions.tolist()))
    assert hits >= 490


def test_what_comes_after_the_sketch_is_found(index: VectorIndex) -> None:
    filled(index, vectors(1_000))
    late = vectors(200, seed=5)
    positions = index.add(late)
    for position, query in zip(positions.tolist(), late, strict=True):
        assert index.search(query, 1)[0].tolist() == [position]


def test_an_empty_index_and_an_empty_filter_find_nothing(index: VectorIndex) -> None:
    query = vectors(1)[0]
    assert index.search(query, 5)[0].tolist() == []
    filled(index, vectors(400))
    assert index.search(query, 5, np.zeros(400, bool))[0].tolist() == []
    assert index.search(query, 0)[0].tolist() == []
    assert len(index.search(query, 1_000)[0]) == 400
    # A filter that is older than the newest vectors does not let them through.
    assert set(index.search(query, 9, np.ones(3, bool))[0].tolist()) == {0, 1, 2}


def test_wrong_vectors_are_refused_and_change_nothing(index: VectorIndex) -> None:
    filled(index, vectors(10))
    for wrong in (np.ones((1, 3)), np.zeros((1, DIMENSIONS)), np.full((1, DIMENSIONS), np.nan)):
        with pytest.raises(InvalidInput):
            index.add(wrong)
        with pytest.raises(InvalidInput):
            index.search(wrong[0], 1)
    assert len(index) == 10


def test_searches_run_beside_writes(index: VectorIndex) -> None:
    rows = vectors(3_000)
    index.add(rows[:500])
    stop = threading.Event()
    wrong: list[object] = []

    def search() -> None:
        while not stop.is_set():
            positions, scores = index.search(rows[0], 5)
            if not len(positions) or abs(float(scores[0]) - 1.0) > 2e-3:
                wrong.append((positions, scores))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(500, 3_000, 100):
        added = index.add(rows[start : start + 100])
        index.remove(added[:50])
        if start == 1_500 and index.wants_sketch():
            index.build_sketch()
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert len(index) == 500 + 25 * 50


def test_where_no_sketch_is_good_enough_there_is_none() -> None:
    rows = vectors(2_000)
    index = VectorIndex(DIMENSIONS, IndexOptions(exact_up_to=300, target_recall=1.01))
    index.add(rows)
    index.build_sketch()
    assert index.statistics()["depth"] == 0
    assert not index.wants_sketch(), "it is not tried again at once"
    assert len(index.search(rows[0], 10)[0]) == 10


def test_dimensions_that_do_not_suit_a_sketch_do_without() -> None:
    index = VectorIndex(6, IndexOptions(exact_up_to=100))
    rows = np.random.default_rng(0).standard_normal((500, 6))
    index.add(rows)
    index.build_sketch()
    assert index.search(rows[3], 1)[0].tolist() == [3]
