"""The Merkle tree of RFC 9162 §2.1 with SHA-256: roots, inclusion and consistency proofs.

A tree over many leaves is built in aligned ranges, each by itself and anywhere; ``Range`` holds the
few nodes that say all about one, and joining ranges gives the same root whatever the split
(compact ranges).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from struct import iter_unpack

import numpy as np

from mesh.core.errors import InvalidInput

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
MAX_SIZE = 2**40
"""More leaves than any batch has; bounds what a proof's length can be."""

_STEP = 1 << 16

_sha256 = hashlib.sha256


def node_hash(left: bytes, right: bytes) -> bytes:
    return _sha256(b"\x01" + left + right).digest()


def data_hash(data: bytes) -> bytes:
    """Of a leaf's bytes."""
    return _sha256(b"\x00" + data).digest()


def next_level(level: bytes) -> bytes:
    """Parents of a flat run of hashes; an odd last one is promoted, never doubled.

    Doubling would give a tree and a longer one the same root (CVE-2012-2459).
    """
    sha256, one, end = _sha256, b"\x01", len(level) & ~63
    parents = []
    for at in range(0, end, _STEP):  # as much as a core's cache holds
        pairs = iter_unpack("64s", level[at : min(at + _STEP, end)])
        parents.append(b"".join([sha256(one + pair).digest() for (pair,) in pairs]))
    return b"".join([*parents, level[end:]])


def levels(leaf_hashes: bytes) -> list[bytes]:
    """All levels of a tree or of an aligned range of one, each flat, leaves first."""
    found = [leaf_hashes]
    while len(found[-1]) > HASH_BYTES:
        found.append(next_level(found[-1]))
    return found


class Tree:
    """A whole tree in memory: 64 bytes a leaf, flat. Immutable."""

    def __init__(self, leaf_hashes: bytes) -> None:
        """``leaf_hashes``: 32 bytes each. Raises InvalidInput when one occurs twice."""
        check_leaves(leaf_hashes)
        self._levels = levels(leaf_hashes)

    @classmethod
    def from_parts(cls, parts: Sequence[list[bytes]]) -> Tree:
        """Of the ``levels`` of consecutive ranges as ``split`` gives them, hashed anywhere.

        All but the last hold the same power of two of leaves. Raises InvalidInput otherwise, and
        when a leaf occurs twice.
        """
        sizes = [len(part[0]) // HASH_BYTES for part in parts]
        step = sizes[0] if sizes else 1
        aligned = step & (step - 1) == 0 or len(parts) == 1
        if not aligned or any(size != step for size in sizes[:-1]) or sizes[-1:] > [step]:
            raise InvalidInput("the parts are not aligned ranges", {"field": "parts"})
        height = len(parts[0]) if parts else 1
        joined = [
            # A part that is done early has one node, which is promoted.
            b"".join(part[min(level, len(part) - 1)] for part in parts)
            for level in range(height)
        ]
        check_leaves(joined[0])
        while len(joined[-1]) > HASH_BYTES:
            joined.append(next_level(joined[-1]))
        tree = cls.__new__(cls)
        tree._levels = joined
        return tree

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    @property
    def root(self) -> bytes:
        return self._levels[-1] or EMPTY_ROOT

    def leaf(self, index: int) -> bytes:
        return self._node(0, index)

    def inclusion(self, index: int) -> list[bytes]:
        """Proof that the leaf is in this tree, from the leaf up."""
        if not 0 <= index < self.size:
            raise InvalidInput("no such leaf", {"field": "index"})
        path = []
        for level in range(len(self._levels) - 1):
            sibling = index ^ 1
            if sibling * HASH_BYTES < len(self._levels[level]):
                path.append(self._node(level, sibling))
            index >>= 1
        return path

    def consistency(self, size: int) -> list[bytes]:
        """Proof that the first ``size`` leaves are a tree that this one only added to."""
        if not 0 < size <= self.size:
            raise InvalidInput("no such earlier tree", {"field": "size"})
        if size == self.size:
            return []
        proof, level, index = [], 0, size - 1
        while index & 1:  # the largest whole subtree that ends the earlier tree
            index, level = index >> 1, level + 1
        if index:
            proof.append(self._node(level, index))
        while level < len(self._levels) - 1:
            sibling = index ^ 1
            if sibling * HASH_BYTES < len(self._levels[level]):
                proof.append(self._node(level, sibling))
            index, level = index >> 1, level + 1
        return proof

    def _node(self, level: int, index: int) -> bytes:
        return self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES]


def check_leaves(leaf_hashes: bytes) -> None:
    """Whole hashes, each once. A doubled message would have two certificates, one of them false."""
    if len(leaf_hashes) % HASH_BYTES:
        raise InvalidInput("leaf hashes have 32 bytes each", {"field": "leaves"})
    # The first 8 bytes of all, sorted, tell it: thirty times as quick as a set of a million hashes.
    starts = np.frombuffer(leaf_hashes, np.uint64)[:: HASH_BYTES // 8].copy()
    starts.sort()
    if (starts[1:] == starts[:-1]).any():
        doubled = len(starts) - len({leaf for (leaf,) in iter_unpack("32s", leaf_hashes)})
        if doubled:
            raise InvalidInput(f"{doubled} leaves occur twice", {"field": "leaves"})


@dataclass(frozen=True, slots=True)
class Range:
    """Leaves ``begin`` … ``end`` of a tree, as the roots of their largest aligned subtrees."""

    begin: int
    end: int
    nodes: tuple[bytes, ...]
    """From left to right, one for each subtree of ``subtrees(begin, end)``."""

    @classmethod
    def of(cls, begin: int, leaf_hashes: bytes) -> Range:
        """Hashes the subtrees. Best when ``begin`` is a multiple of a power of two as large."""
        count = len(leaf_hashes) // HASH_BYTES
        nodes = []
        for at, size in subtrees(begin, begin + count):
            start = (at - begin) * HASH_BYTES
            level = leaf_hashes[start : start + size * HASH_BYTES]
            while len(level) > HASH_BYTES:
                level = next_level(level)
            nodes.append(level)
        return cls(begin, begin + count, tuple(nodes))

    def join(self, after: Range) -> Range:
        """Both as one. Raises InvalidInput unless ``after`` begins where this one ends."""
        if after.begin != self.end:
            raise InvalidInput("the ranges do not meet", {"field": "begin"})
        pieces = [*subtrees(self.begin, self.end), *subtrees(after.begin, after.end)]
        done: list[tuple[int, int, bytes]] = []
        for (at, size), node in zip(pieces, self.nodes + after.nodes, strict=True):
            while done and done[-1][1] == size and done[-1][0] % (2 * size) == 0:
                at, _, left = done.pop()
                node, size = node_hash(left, node), 2 * size
            done.append((at, size, node))
        return Range(self.begin, after.end, tuple(node for _, _, node in done))

    @property
    def root(self) -> bytes:
        """Of the tree, if the range begins at 0."""
        if self.begin:
            raise InvalidInput("a root needs the range from the first leaf", {"field": "begin"})
        if not self.nodes:
            return EMPTY_ROOT
        right = self.nodes[-1]
        for left in reversed(self.nodes[:-1]):
            right = node_hash(left, right)
        return right


def subtrees(begin: int, end: int) -> list[tuple[int, int]]:
    """The largest aligned subtrees that cover the leaves: (first leaf, number of leaves)."""
    found = []
    while begin < end:
        size = begin & -begin or 1 << (end - 1).bit_length()
        while size > end - begin:
            size >>= 1
        found.append((begin, size))
        begin += size
    return found


def split(size: int, parts: int) -> list[tuple[int, int]]:
    """Aligned ranges of about equal size, at most ``parts``, to be hashed side by side."""
    step = 1
    while step * parts < size:
        step *= 2
    return [(at, min(at + step, size)) for at in range(0, size, step)]


def path_length(index: int, size: int) -> int:
    """How many nodes the inclusion proof has: as many as index and size demand, no more or less."""
    inner = (index ^ (size - 1)).bit_length()
    return inner + (index >> inner).bit_count()


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that the proof leads to. Raises InvalidInput for an impossible index or length."""
    if not 0 <= index < size <= MAX_SIZE:
        raise InvalidInput("index is not below size", {"field": "proof.index"})
    inner = (index ^ (size - 1)).bit_length()
    if len(path) != inner + (index >> inner).bit_count():
        raise InvalidInput("the path's length is not the size's", {"field": "proof.path"})
    sha256, node = _sha256, leaf
    for level, sibling in enumerate(path):
        if len(sibling) != HASH_BYTES:
            raise InvalidInput("a node has 32 bytes", {"field": "proof.path"})
        if level < inner and not index >> level & 1:
            node = sha256(b"\x01" + node + sibling).digest()
        else:
            node = sha256(b"\x01" + sibling + node).digest()
    return node


def check_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """RFC 9162 §2.1.4.2. An empty tree is consistent with nothing: it proves nothing."""
    if not 0 < old_size <= new_size <= MAX_SIZE:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    nodes = list(proof)
    if old_size & (old_size - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes or any(len(node) != HASH_BYTES for node in nodes):
        return False
    old, new = old_size - 1, new_size - 1
    while old & 1:
        old, new = old >> 1, new >> 1
    left = right = nodes[0]
    for node in nodes[1:]:
        if new == 0:
            return False
        if old & 1 or old == new:
            left, right = node_hash(node, left), node_hash(node, right)
            while not old & 1 and old:
                old, new = old >> 1, new >> 1
        else:
            right = node_hash(right, node)
        old, new = old >> 1, new >> 1
    return new == 0 and left == old_root and right == new_root
