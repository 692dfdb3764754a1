"""What time does to a memory: it counts for less, by half after each half-life of its kind."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.contracts.memory import MemoryItem, MemoryKind
from mesh.memory.options import KindPolicy
from mesh.memory.record import Record


def recency(
    item: MemoryItem | Record, now: float, policies: Mapping[MemoryKind, KindPolicy]
) -> float:
    """1: just now, or pinned; ½: one half-life ago. ``now``: Unix seconds."""
    if item.pinned:
        return 1.0
    age = max(0.0, now - item.created_at.timestamp())
    return float(0.5 ** (age / policies[item.kind].half_life_s))
