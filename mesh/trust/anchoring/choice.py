"""Which networks a root goes to: the first k in order of preference that can have it.

What a root has reached counts more than preference, so that no fee is paid twice; a network that
does not answer for long is replaced, and loses its claim unless a block of it has the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Reached(IntEnum):
    """How far a root is on a network. The less, the better."""

    FINAL = 0
    BLOCK = 1
    """A block has it."""
    SENT = 2
    """The node has the transaction, since it last came back."""
    SIGNED = 3
    NOTHING = 4


@dataclass(frozen=True, slots=True)
class Standing:
    """A network from one root's point of view."""

    network: str
    reached: Reached
    down_s: float = 0.0
    """So long it does not answer; 0: it does."""
    takes_new: bool = True
    """It can have a first transaction now."""
    stuck: bool = False
    """A transaction waits for a block for too long."""
    barred: bool = False
    """It has refused this root for good, or (for now) its nonce went to another root."""


def chosen(
    standings: Sequence[Standing], needed: int, fallback_after_s: float, patience: float
) -> frozenset[str]:
    """``standings``: in order of preference. Fewer than ``needed`` when no more can have it."""
    ranked: list[tuple[int, int, str]] = []
    for preference, item in enumerate(standings):
        rank = _rank(item, fallback_after_s, patience)
        if rank is not None:
            ranked.append((rank, preference, item.network))
    return frozenset(network for _, _, network in sorted(ranked)[:needed])


_LAST = 9


def _rank(item: Standing, fallback_after_s: float, patience: float) -> int | None:
    if item.reached is Reached.FINAL:
        return int(Reached.FINAL)
    if item.barred:
        return None
    if item.reached is Reached.NOTHING:
        return int(Reached.NOTHING) if item.takes_new and item.down_s <= 0 else None
    waits = fallback_after_s * (patience if item.reached is Reached.BLOCK else 1.0)
    if item.down_s > waits or item.stuck:
        return _LAST  # only if there is no other
    return int(item.reached)
