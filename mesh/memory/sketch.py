"""A sketch of the vectors, a sixteenth of their size, that says where the nearest may be.

Product quantisation in 4 bits (two dimensions to a code), scanned in registers: 100,000 vectors
take a fifth of a millisecond. Its order is rough, so the first ``depth`` of it are scored again
exactly; how many that must be is calibrated on the vectors themselves. Where no depth does (vectors
of a kind that it can't tell apart), there is no sketch and every search is exact.

Lists of neighbours (k-means) were tried and left: on embeddings of real sentences a quarter to a
third of all vectors had to be seen for a recall of 0.99, and filters made it worse.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from mesh.memory.options import IndexOptions

_faiss: Any = faiss  # its stubs know less than the library

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Positions = npt.NDArray[np.int64]

SAMPLE = 128
NEIGHBOURS = 10
DEPTHS = (25, 50, 100, 200, 400, 800)
MAX_DEPTH = 8_192
TRAINED_ON = 20_000
_BLOCK = 8_192


class Sketch:
    """Of the positions 0 … ``size``; made by ``build``. Not safe for threads: its index's lock
    is its own."""

    def __init__(self, store: Any, depth: int) -> None:
        self._store = store
        self._packer = store.get_CodePacker()
        self.depth = depth
        """Candidates to score again for the ten nearest."""

    @classmethod
    def build(
        cls, codes: Halves, used: npt.NDArray[np.bool_], options: IndexOptions
    ) -> Sketch | None:
        """Of all ``codes``; trained and calibrated on those that are ``used``. Blocks for about a
        second per 100,000. None: no sketch of these vectors is good enough."""
        dimensions = codes.shape[1]
        if dimensions < 16 or dimensions % 4:
            return None
        rng = np.random.default_rng(options.seed)
        there = np.flatnonzero(used)
        chosen = np.sort(rng.choice(there, min(len(there), TRAINED_ON), replace=False))
        store = _faiss.IndexPQFastScan(dimensions, dimensions // 2, 4, _faiss.METRIC_INNER_PRODUCT)
        store.pq.cp.seed = options.seed
        store.train(codes[chosen].astype(np.float32))
        for start in range(0, len(codes), TRAINED_ON):
            store.add(codes[start : start + TRAINED_ON].astype(np.float32))
        made = cls(store, MAX_DEPTH)
        depth = _calibrate(made, codes, there, options, rng)
        if depth is None:
            return None
        made.depth = depth
        return made

    @property
    def size(self) -> int:
        return int(self._store.ntotal)

    def put(self, positions: Positions, vectors: Floats) -> None:
        """New vectors at these positions: known ones are written over, the others follow on
        without a gap."""
        known = positions < self.size
        if known.any():
            codes = self._store.pq.compute_codes(vectors[known])
            for position, code in zip(positions[known].tolist(), codes, strict=True):
                self._write(position, code)
        if not known.all():
            order = np.argsort(positions[~known])
            self._store.add(np.ascontiguousarray(vectors[~known][order]))

    def wipe(self, positions: Positions) -> None:
        """Nothing is left of what was there."""
        nothing = np.zeros(self._packer.code_size, dtype=np.uint8)
        for position in positions.tolist():
            self._write(position, nothing)

    def nearest(self, query: Floats, count: int) -> Positions:
        """So many candidates, roughly best first."""
        _, found = self._store.search(query[None], min(count, self.size))
        positions: Positions = found[0][found[0] >= 0]
        return positions

    def _write(self, position: int, code: npt.NDArray[np.uint8]) -> None:
        block, place = divmod(position, self._packer.nvec)
        size = self._packer.block_size
        table = _faiss.rev_swig_ptr(self._store.codes.data(), self._store.codes.size())
        part = table[block * size : (block + 1) * size].reshape(1, size)
        self._packer.pack_1(np.ascontiguousarray(code), place, part)


def _calibrate(
    sketch: Sketch,
    codes: Halves,
    there: Positions,
    options: IndexOptions,
    rng: np.random.Generator,
) -> int | None:
    """The smallest depth that finds the true neighbours of stored vectors, with a margin."""
    asked = rng.choice(there, min(SAMPLE, len(there)), replace=False)
    queries = codes[asked].astype(np.float32)
    deepest = DEPTHS[-1]
    ranks: list[int] = []
    for position, query, true in zip(
        asked.tolist(), queries, _exact(codes, there, queries), strict=True
    ):
        rough = sketch.nearest(query, deepest + 1)
        rank_of = {found: rank for rank, found in enumerate(rough.tolist())}
        ranks += [rank_of.get(t, deepest + 1) for t in true.tolist() if t != position][:NEIGHBOURS]
    for depth in DEPTHS:
        recall = sum(rank <= depth for rank in ranks) / len(ranks)
        if recall >= options.target_recall:
            return int(depth * options.margin)
    return None


def _exact(codes: Halves, there: Positions, queries: Floats) -> Positions:
    """Of each query its nearest, itself among them."""
    count = min(NEIGHBOURS + 1, len(there))
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    where = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(there), _BLOCK):
        part = there[start : start + _BLOCK]
        best = np.hstack([best, queries @ codes[part].astype(np.float32).T])
        where = np.hstack([where, np.broadcast_to(part, (len(queries), len(part)))])
        order = np.argpartition(-best, count - 1, axis=1)[:, :count]
        best = np.take_along_axis(best, order, axis=1)
        where = np.take_along_axis(where, order, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    nearest: Positions = np.take_along_axis(where, order, axis=1)
    return nearest
