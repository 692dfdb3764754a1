"""Vectors of one namespace: added, erased, searched among those that a filter allows.

One store of half-precision unit vectors. Few of them are all looked at, and so are the few that a
selective filter allows: that is exact, and quicker than any structure. Many are looked at through
a sketch (``sketch``): its first candidates are scored again exactly. A filter over many takes more
of the sketch's candidates and keeps those that it allows; when fewer than enough are left (they
lie far from the query), all that it allows are looked at after all. So recall does not depend on
the filter, as it does where a graph is walked through one.

Half precision moves a cosine by about 1e-5 and halves memory and time, which go by bandwidth. All
methods block; they may be called by many threads at once.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from mesh.core.errors import InvalidInput
from mesh.memory.locks import ReadWriteLock
from mesh.memory.options import IndexOptions
from mesh.memory.sketch import MAX_DEPTH, Sketch

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
        self._sketch: Sketch | None = None
        self._sketched_at = 0
        """Vectors that were there when a sketch was made, or turned out not to be possible."""
        self._searches = self._sketched = 0

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
            if self._sketch is not None:
                self._sketch.put(positions, rows)
        return positions

    def remove(self, positions: npt.ArrayLike) -> None:
        """Erase: the bytes are overwritten. Positions that hold nothing are passed over."""
        wanted = np.unique(np.asarray(positions, dtype=np.int64))
        with self._lock.writing():
            wanted = wanted[(wanted >= 0) & (wanted < self.size)]
            wanted = wanted[self._used[wanted]]
            self._codes()[wanted] = 0
            self._used[wanted] = False
            if self._sketch is not None:
                self._sketch.wipe(wanted)
            self._free.extend(wanted.tolist())

    def vectors(self, positions: npt.ArrayLike) -> Floats:
        """As they are kept: of unit length, but for rounding."""
        wanted = np.asarray(positions, dtype=np.int64)
        with self._lock.reading():
            return self._decoded(wanted)

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
            wanted = min(k, count)
            rough = self._rough(unit, wanted, mask, count)
            if rough is not None:
                self._sketched += 1
                return self._best_of(unit, wanted, rough)
            return self._best(unit, wanted, mask, count)

    def wants_sketch(self) -> bool:
        """Whether ``build_sketch`` is due: none yet, or most of it came later."""
        return len(self) > max(self._options.exact_up_to, 2 * self._sketched_at)

    def build_sketch(self) -> None:
        """Takes about a second per 100,000. Searches go on meanwhile; writes wait only while the
        finished sketch takes its place."""
        with self._lock.reading():
            codes = self._codes().copy()
            used = self._used[: self.size].copy()
        sketch = Sketch.build(codes, used, self._options)
        with self._lock.writing():
            self._sketched_at = len(self)
            if sketch is not None:
                # What was added, written over or erased meanwhile.
                now = self._codes()
                same = np.all(now[: len(codes)] == codes, axis=1)
                late = np.concatenate([np.flatnonzero(~same), np.arange(len(codes), self.size)])
                sketch.put(late, now[late].astype(np.float32))
            self._sketch = sketch

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
            "depth": 0 if self._sketch is None else self._sketch.depth,
            "searches": self._searches,
            "sketched": self._sketched,
        }

    def _rough(self, unit: Floats, k: int, mask: Mask, count: int) -> Positions | None:
        """Enough candidates by the sketch; None: look at all that is allowed."""
        if self._sketch is None or count <= self._options.gather_max:
            return None
        enough = max(self._sketch.depth, 4 * k)
        wanted = enough * self.size // count
        if count < self.size:
            wanted += wanted // 2  # what the filter allows need not be spread evenly
        if wanted > MAX_DEPTH:
            return None
        found = self._sketch.nearest(unit, wanted)
        found = found[mask[found]]
        return found if len(found) >= min(enough, count) else None

    def _best(self, unit: Floats, k: int, mask: Mask, count: int) -> tuple[Positions, Floats]:
        if count <= self._options.gather_max:
            return self._best_of(unit, k, np.flatnonzero(mask))
        selector = _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        scores, positions = self._store.search(
            unit[None], k, params=_faiss.SearchParameters(sel=selector)
        )
        return positions[0], scores[0]

    def _best_of(self, unit: Floats, k: int, positions: Positions) -> tuple[Positions, Floats]:
        scores = self._decoded(positions) @ unit
        order = np.argsort(-scores, kind="stable")[:k]
        return positions[order], scores[order]

    def _decoded(self, positions: Positions) -> Floats:
        """As numpy's own conversion, but several times as quick."""
        codes = np.ascontiguousarray(self._codes()[positions])
        rows: Floats = self._store.sa_decode(codes.view(np.uint8))
        return rows

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
