"""Reciprocal-rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009): ranks add up, scores need not be
comparable."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

K = 60
"""The paper's constant: how little the very first ranks stand out."""

Name = TypeVar("Name", bound=Hashable)


def fuse(lists: Sequence[Mapping[Name, int]]) -> dict[Name, float]:
    """``lists``: rank (from 1) by name. Gives 0 … 1; 1 is first in every list."""
    total: dict[Name, float] = {}
    for ranks in lists:
        for name, rank in ranks.items():
            total[name] = total.get(name, 0.0) + 1.0 / (K + rank)
    best = len(lists) / (K + 1)
    return {name: value / best for name, value in total.items()}
