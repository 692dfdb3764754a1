"""Vectors of one namespace: added, erased, searched among those that a filter allows.

One store of half-precision unit vectors, one primitive: the best of a set, exactly. Up to
``prune_from`` vectors the set is what the filter allows, so recall does not depend on the filter
(a graph that is walked through a filter loses most of it). Above, k-means lists narrow the set:
lists are taken in the order of their centre's likeness until enough *allowed* vectors were seen,
and how many are enough is calibrated on the partition's own vectors. A filter whose matches lie
far from the query thus opens more lists, by itself.

Half precision moves a cosine by about 1e-5 and halves memory and time, which go by bandwidth. All
methods block; they may be called by many threads at once.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from mesh.core.errors import InvalidInput
from mesh.memory.lists import NeighbourLists
from mesh.memory.locks import ReadWriteLock
from mesh.memory.options import IndexOptions

_faiss: Any = faiss  # its stubs know less than the library

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class VectorIndex:
    """Positions are small numbers; those of erased vectors are used again."""

    def __init__(self, dimensions: int, options: IndexOptions | None = None) -> None:
        if dimensions < 2:
            raise ValueError("vectors have at least 2 dimensions")
        self.dimensions = dimensions
        self._options = options or IndexOptions()
        self._lock = ReadWriteLock()
        self._store: Any = _faiss.IndexScalarQuantizer(
            dimensions, _faiss.ScalarQuantizer.QT_fp16, _faiss.METRIC_INNER_PRODUCT
        )
        self._used = np.zeros(0, dtype=np.bool_)
        self._free: list[int] = []
        self._lists: NeighbourLists | None = None
        self._searches = self._pruned = self._scanned = 0

    def __len__(self) -> int:
        """Vectors that are there."""
        return int(self._store.ntotal) - len(self._free)

    @property
    def size(self) -> int:
        """One more than the greatest position ever used."""
        return int(self._store.ntotal)

    def add(self, vectors: npt.ArrayLike) -> Positions:
        """Their positions. Raises InvalidInput: other dimensions, or a vector of zeros."""
        rows = self._units(vectors)
        with self._lock.writing():
            reused = [self._free.pop() for _ in range(min(len(self._free), len(rows)))]
            positions = np.empty(len(rows), dtype=np.int64)
            if reused:
                positions[: len(reused)] = reused
                self._codes()[reused] = rows[: len(reused)].astype(np.float16)
            fresh = rows[len(reused) :]
            if len(fresh):
                first = self.size
                self._store.add(fresh)
                positions[len(reused) :] = np.arange(first, first + len(fresh))
                if self.size > len(self._used):
                    grown = np.zeros(max(16, self.size * 3 // 2), dtype=np.bool_)
                    grown[: len(self._used)] = self._used
                    self._used = grown
            self._used[positions] = True
            if self._lists is not None:
                self._lists.assign(positions, rows)
        return positions

    def remove(self, positions: npt.ArrayLike) -> None:
        """Erase: the bytes are overwritten. Positions that hold nothing are passed over."""
        wanted = np.unique(np.asarray(positions, dtype=np.int64))
        with self._lock.writing():
            wanted = wanted[(wanted >= 0) & (wanted < self.size)]
            wanted = wanted[self._used[wanted]]
            self._codes()[wanted] = 0
            self._used[wanted] = False
            self._free.extend(wanted.tolist())

    def vectors(self, positions: npt.ArrayLike) -> Floats:
        """As they are kept: of unit length, but for rounding."""
        wanted = np.asarray(positions, dtype=np.int64)
        with self._lock.reading():
            return self._codes()[wanted].astype(np.float32)

    def search(
        self, query: npt.ArrayLike, k: int, allowed: Mask | None = None
    ) -> tuple[Positions, Floats]:
        """The ``k`` most alike, best first, and their cosines. ``allowed``: one truth value per
        position (shorter: the rest is not allowed); None: all."""
        unit = self._units(query)[0]
        with self._lock.reading():
            mask = self._used[: self.size]
            if allowed is not None:
                bounded = np.zeros(self.size, dtype=np.bool_)
                bounded[: len(allowed)] = allowed[: self.size]
                mask = mask & bounded
            count = int(np.count_nonzero(mask))
            self._searches += 1
            if not count or k < 1:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            if self._lists is not None and count > self._options.prune_from:
                mask = self._lists.narrow(unit, mask, count)
                count = int(np.count_nonzero(mask))
                self._pruned += 1
            self._scanned += count
            return self._best(unit, min(k, count), mask, count)

    def wants_lists(self) -> bool:
        """Whether ``build_lists`` is due: none yet, or half of it came later."""
        if len(self) <= self._options.prune_from:
            return False
        return self._lists is None or len(self) > 1.5 * self._lists.built_for

    def build_lists(self) -> None:
        """Train and calibrate; takes seconds to a minute. Searches go on meanwhile, writes wait
        only while the finished lists take their place."""
        with self._lock.reading():
            positions = np.flatnonzero(self._used[: self.size])
            codes = self._codes()[positions]
        lists = NeighbourLists.build(codes, positions, self._options)
        with self._lock.writing():
            late = np.flatnonzero(self._used[: self.size])
            late = late[~np.isin(late, positions)]
            if len(late):
                lists.assign(late, self._codes()[late].astype(np.float32))
            self._lists = lists

    def dump(self, positions: npt.ArrayLike) -> Halves:
        """The kept form of these vectors, for a snapshot."""
        wanted = np.asarray(positions, dtype=np.int64)
        with self._lock.reading():
            found: Halves = self._codes()[wanted].copy()
            return found

    def statistics(self) -> dict[str, int | float]:
        return {
            "vectors": len(self),
            "free": len(self._free),
            "lists": 0 if self._lists is None else self._lists.count,
            "searches": self._searches,
            "pruned": self._pruned,
            "scanned": self._scanned,
        }

    def _best(self, unit: Floats, k: int, mask: Mask, count: int) -> tuple[Positions, Floats]:
        if count <= self._options.gather_max:
            positions = np.flatnonzero(mask)
            scores = self._codes()[positions].astype(np.float32) @ unit
            order = np.argsort(-scores, kind="stable")[:k]
            return positions[order], scores[order]
        selector = _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        scores, positions = self._store.search(
            unit[None], k, params=_faiss.SearchParameters(sel=selector)
        )
        return positions[0], scores[0]

    def _codes(self) -> Halves:
        """The store's own memory; valid until the next ``add``."""
        if not self.size:
            return np.empty((0, self.dimensions), dtype=np.float16)
        flat = _faiss.rev_swig_ptr(self._store.codes.data(), self.size * self.dimensions * 2)
        codes: Halves = flat.view(np.float16).reshape(self.size, self.dimensions)
        return codes

    def _units(self, vectors: npt.ArrayLike) -> Floats:
        rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
        if rows.shape[1] != self.dimensions:
            raise InvalidInput(
                f"The vectors here have {self.dimensions} dimensions.",
                {"field": "vector", "dimensions": self.dimensions, "given": rows.shape[1]},
            )
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
            raise InvalidInput(
                "A vector needs finite numbers that are not all 0.", {"field": "vector"}
            )
        units: Floats = np.ascontiguousarray(rows / lengths)
        return units
