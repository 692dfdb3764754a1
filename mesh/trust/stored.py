"""A closed tree as it is kept: of the inner nodes only those above 1,024 leaves each.

They are 64 bytes for 1,024 leaves. A proof takes its first ten nodes from the leaves around it
(a thousand hashes, under a millisecond) and the others from here, so a certificate of a million is
made from a few rows, and a tree is built without ever being in memory whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mesh.core.errors import InvalidInput
from mesh.trust.certificate import Proof
from mesh.trust.merkle import EMPTY_ROOT, HASH_BYTES, levels, next_level

HEIGHT = 10
UNIT = 1 << HEIGHT
"""Leaves under one of the lowest nodes that are kept."""


def fold_units(leaf_hashes: bytes) -> bytes:
    """The nodes above each aligned unit of these leaves, flat. The range must begin at a multiple
    of ``UNIT``; hashed anywhere, in ranges of any such length."""
    nodes = []
    for start in range(0, len(leaf_hashes), UNIT * HASH_BYTES):
        level = leaf_hashes[start : start + UNIT * HASH_BYTES]
        while len(level) > HASH_BYTES:
            level = next_level(level)
        nodes.append(level)
    return b"".join(nodes)


@dataclass(frozen=True, slots=True)
class StoredTree:
    """Levels from the units' nodes up to the root, one after the other."""

    size: int
    """Leaves."""
    nodes: bytes

    @classmethod
    def build(cls, size: int, units: bytes) -> StoredTree:
        """``units``: ``fold_units`` of all leaves. Raises InvalidInput for another number."""
        if len(units) != HASH_BYTES * -(-size // UNIT):
            raise InvalidInput("not as many nodes as the size demands", {"field": "size"})
        return cls(size, b"".join(levels(units)) if units else b"")

    @property
    def root(self) -> bytes:
        return self.nodes[-HASH_BYTES:] or EMPTY_ROOT


def unit_of(index: int, size: int) -> tuple[int, int]:
    """The leaves that are needed for the lower part of a proof: first, and one behind the last."""
    first = index - index % UNIT
    return first, min(first + UNIT, size)


def upper_places(index: int, size: int) -> list[int]:
    """Which of the kept nodes a proof takes, from below: their numbers in ``nodes``."""
    places, start = [], 0
    at, count = index >> HEIGHT, -(-size // UNIT)
    while count > 1:
        if (sibling := at ^ 1) < count:
            places.append(start + sibling)
        start, at, count = start + count, at >> 1, (count + 1) // 2
    return places


def proof(index: int, size: int, unit: bytes, upper: Sequence[bytes]) -> Proof:
    """``unit``: hashes of the leaves of ``unit_of``; ``upper``: the nodes at ``upper_places``."""
    path, at = [], index % UNIT
    for level in levels(unit)[:-1]:
        sibling = at ^ 1
        if sibling * HASH_BYTES < len(level):
            path.append(level[sibling * HASH_BYTES : (sibling + 1) * HASH_BYTES])
        at >>= 1
    return Proof(index, size, (*path, *upper))


class Distinct:
    """Sees that no leaf occurs twice, 8 bytes a leaf."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, leaf_hashes: bytes) -> None:
        table = np.frombuffer(leaf_hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)
        self._parts.append(np.ascontiguousarray(table[:, :8]).tobytes())

    def suspects(self) -> frozenset[bytes]:
        """First 8 bytes that more than one leaf has: with honest salts there are none, and where
        there are some the whole hashes have to be compared."""
        keys = np.frombuffer(b"".join(self._parts), dtype=">u8")
        values, counts = np.unique(keys, return_counts=True)
        return frozenset(int(value).to_bytes(8, "big") for value in values[counts > 1])
