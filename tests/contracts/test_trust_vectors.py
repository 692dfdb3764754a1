"""Published vectors: RFC 8785, 6962/9162, 6376 and 8463, keccak; and golden certificates."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.trustworks.vectors import FILES, Vector, published

VECTORS = published()
BROKEN = sorted({vector.source for vector in VECTORS if "broken" in vector.source})


@pytest.mark.parametrize(
    "vector",
    [one for one in VECTORS if one.source not in BROKEN],
    ids=lambda vector: f"{vector.source}: {vector.name}",
)
def test_published_vector(vector: Vector) -> None:
    assert vector.holds()


@pytest.mark.parametrize(
    "source", sorted({one.source for one in VECTORS if "broken" in one.source})
)
def test_broken_proofs_are_refused(source: str) -> None:
    assert [one.name for one in VECTORS if one.source == source and not one.holds()] == []


def test_none_is_lost() -> None:
    """Vectors that nobody runs would hold, too."""
    counted = Counter(vector.source for vector in VECTORS)
    assert counted["RFC 8785 files"] == 6
    assert counted["RFC 8785 numbers"] == 24
    assert counted["RFC 9162 roots"] == 9
    assert counted["RFC 9162 inclusion"] == 5 + 36
    assert counted["RFC 9162 inclusion, broken"] > 400
    assert counted["RFC 9162 consistency"] == 1 + 36
    assert counted["RFC 9162 consistency, broken"] > 500
    assert counted["RFC 6376 samples"] + counted["RFC 8463 samples"] == 9
    assert (FILES / "golden-v1" / "certificate.json").exists()
