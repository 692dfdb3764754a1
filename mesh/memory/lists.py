"""Neighbour lists (k-means) that narrow a search, and how far they have to be opened.

How many allowed vectors must be seen for a given recall is measured, not guessed: for a sample of
stored vectors the true neighbours are found exactly, and for each it is noted how many vectors
were seen before its list had its turn. The wanted quantile of that is the answer. It is measured
for sets of several sizes, because the neighbours in a sparse set lie further out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from mesh.memory.options import IndexOptions

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SAMPLE = 64
NEIGHBOURS = 10
NO_LIST = np.iinfo(np.uint16).max


@dataclass(slots=True)
class NeighbourLists:
    """Built by ``build``; ``assign`` keeps it up to date."""

    centres: Floats
    list_of: npt.NDArray[np.uint16]
    """By position."""
    shares: tuple[tuple[int, float], ...]
    """(allowed vectors, share of them to see), ascending."""
    built_for: int

    @property
    def count(self) -> int:
        return len(self.centres)

    @classmethod
    def build(
        cls, codes: npt.NDArray[np.float16], positions: npt.NDArray[np.int64], options: IndexOptions
    ) -> NeighbourLists:
        """``codes``: the vectors at ``positions``."""
        number = len(codes)
        lists = min(2_048, max(16, 2 * math.isqrt(number)))
        rng = np.random.default_rng(options.seed)
        chosen = rng.choice(number, min(number, lists * options.train_per_list), replace=False)
        kmeans: Any = faiss.Kmeans(
            codes.shape[1],
            lists,
            niter=options.train_iterations,
            spherical=True,
            seed=options.seed,
            min_points_per_centroid=1,
            max_points_per_centroid=options.train_per_list,
        )
        kmeans.train(codes[np.sort(chosen)].astype(np.float32))
        centres = np.ascontiguousarray(kmeans.centroids, dtype=np.float32)
        list_of = np.full(int(positions.max()) + 1, NO_LIST, dtype=np.uint16)
        made = cls(centres, list_of, ((1, 1.0),), number)
        for start in range(0, number, 16_384):
            part = slice(start, start + 16_384)
            made.assign(positions[part], codes[part].astype(np.float32))
        made.shares = _calibrate(made, codes, positions, options, rng)
        return made

    def assign(self, positions: npt.NDArray[np.int64], vectors: Floats) -> None:
        """Put vectors into the lists of their nearest centres."""
        if len(positions) == 0:
            return
        top = int(positions.max()) + 1
        if top > len(self.list_of):
            grown = np.full(top * 3 // 2, NO_LIST, dtype=np.uint16)
            grown[: len(self.list_of)] = self.list_of
            self.list_of = grown
        self.list_of[positions] = np.argmax(vectors @ self.centres.T, axis=1)

    def narrow(self, query: Floats, allowed: Mask, count: int) -> Mask:
        """``allowed``, but only in the lists that have to be opened."""
        lists = self.list_of[: len(allowed)]
        sizes = np.bincount(lists[allowed], minlength=self.count)
        order = np.argsort(-(self.centres @ query), kind="stable")
        seen = np.cumsum(sizes[order])
        needed = math.ceil(self.share(count) * count)
        opened = np.zeros(NO_LIST + 1, dtype=np.bool_)
        opened[order[: int(np.searchsorted(seen, needed)) + 1]] = True
        opened[NO_LIST] = True
        narrowed: Mask = allowed & np.take(opened, lists)
        return narrowed

    def share(self, count: int) -> float:
        """Of so many allowed vectors, which share to see. Between what was measured: linear in
        the logarithm."""
        sizes = np.log([size for size, _ in self.shares])
        return float(np.interp(math.log(max(count, 1)), sizes, [s for _, s in self.shares]))


def _calibrate(
    lists: NeighbourLists,
    codes: npt.NDArray[np.float16],
    positions: npt.NDArray[np.int64],
    options: IndexOptions,
    rng: np.random.Generator,
) -> tuple[tuple[int, float], ...]:
    number = len(codes)
    asked = rng.choice(number, min(SAMPLE, number), replace=False)
    queries = codes[asked].astype(np.float32)
    orders = np.argsort(-(queries @ lists.centres.T), axis=1, kind="stable")
    own = lists.list_of[positions]
    shares = []
    for part in (0.1, 0.3, 1.0):
        members = np.sort(
            rng.choice(number, max(NEIGHBOURS + 1, int(number * part)), replace=False)
        )
        sizes = np.bincount(own[members], minlength=lists.count)
        needs = []
        for row, order in enumerate(orders):
            seen = np.cumsum(sizes[order])
            turn = np.empty(lists.count, dtype=np.int64)
            turn[order] = np.arange(lists.count)
            nearest = _nearest(queries[row], codes, members, int(asked[row]))
            needs.extend((seen[turn[own[nearest]]] / len(members)).tolist())
        needed = float(np.quantile(needs, options.target_recall)) * options.margin
        shares.append((len(members), min(1.0, needed)))
    return tuple(shares)


def _nearest(
    query: Floats, codes: npt.NDArray[np.float16], members: npt.NDArray[np.int64], itself: int
) -> npt.NDArray[np.int64]:
    """Its true neighbours among the members, itself left out."""
    scores = np.concatenate(
        [
            codes[members[start : start + 16_384]].astype(np.float32) @ query
            for start in range(0, len(members), 16_384)
        ]
    )
    scores[members == itself] = -np.inf
    best: npt.NDArray[np.int64] = members[np.argpartition(-scores, NEIGHBOURS)[:NEIGHBOURS]]
    return best
