"""Maximal marginal relevance (Carbonell, Goldstein, SIGIR 1998): hits that don't repeat another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def diversify(
    vectors: Sequence[bytes], scores: Sequence[float], k: int, diversity: float
) -> list[tuple[int, float]]:
    """Indices of up to ``k`` candidates in the order of their choice, and what was taken off each.

    ``vectors``: half precision, of unit length, all of the same dimensions or not comparable (then
    nothing is taken off). ``scores``: best first. ``diversity`` 0 keeps that order.
    """
    count = min(k, len(scores))
    if diversity <= 0 or count < 2 or len({len(vector) for vector in vectors}) != 1:
        return [(index, 0.0) for index in range(count)]
    matrix = np.stack([np.frombuffer(v, dtype=np.float16) for v in vectors]).astype(np.float32)
    alike = matrix @ matrix.T
    relevance = (1.0 - diversity) * np.asarray(scores, dtype=np.float64)
    nearest = np.zeros(len(scores))
    left = np.ones(len(scores), dtype=np.bool_)
    chosen: list[tuple[int, float]] = []
    for _ in range(count):
        value = np.where(left, relevance - diversity * nearest, -np.inf)
        best = int(np.argmax(value))  # the first of equals: the better one
        chosen.append((best, float(diversity * nearest[best])))
        left[best] = False
        nearest = np.maximum(nearest, alike[best])
    return chosen
