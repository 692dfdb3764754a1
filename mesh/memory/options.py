"""What of memory can be set, and what each kind of memory is like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.contracts.memory import MAX_TEXT_CHARS, MemoryKind

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class KindPolicy:
    """Defaults of one kind."""

    importance: float
    """0 to 1, where the writer says nothing."""
    half_life_s: float
    """After so many seconds its recency counts half."""
    expires_s: float | None = None
    """It is erased so many seconds after it was written; None: never."""


POLICIES: Mapping[MemoryKind, KindPolicy] = MappingProxyType(
    {
        MemoryKind.FACT: KindPolicy(0.5, 365 * DAY_S),
        MemoryKind.PREFERENCE: KindPolicy(0.7, 365 * DAY_S),
        MemoryKind.TURN: KindPolicy(0.3, 14 * DAY_S, 180 * DAY_S),
        MemoryKind.DOCUMENT: KindPolicy(0.5, 730 * DAY_S),
        MemoryKind.OUTCOME: KindPolicy(0.6, 180 * DAY_S),
    }
)


@dataclass(frozen=True, slots=True)
class GateOptions:
    """What is let in."""

    max_text_chars: int = MAX_TEXT_CHARS
    min_letters: int = 2
    """Letters or digits that a text needs: fewer say nothing."""
    max_items_per_namespace: int = 2_000_000


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How vectors are searched."""

    exact_up_to: int = 20_000
    """Vectors up to which every search looks at all that the filter allows; above, a sketch says
    which to look at."""
    gather_max: int = 2_000
    """Allowed vectors up to which they are copied out; more are scanned in place."""
    target_recall: float = 0.998
    """Of the ten nearest: what the sketch is calibrated to, on the partition's own vectors."""
    margin: float = 2.0
    """Of the depth that calibration asks for: queries are not quite like what is stored."""
    seed: int = 7


@dataclass(frozen=True, slots=True)
class ConsolidationOptions:
    """When two memories say the same."""

    min_cosine: float = 0.93
    """At least so alike in meaning …"""
    min_overlap: float = 0.6
    """… and this share of their words in common (Jaccard); numbers and negations must agree."""
    neighbours: int = 8
    """Looked at for each memory."""
    max_examined: int = 2_000
    """Memories that one pass looks at."""


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """All of it."""

    gate: GateOptions = field(default_factory=GateOptions)
    index: IndexOptions = field(default_factory=IndexOptions)
    consolidation: ConsolidationOptions = field(default_factory=ConsolidationOptions)
    policies: Mapping[MemoryKind, KindPolicy] = field(default_factory=lambda: dict(POLICIES))
    pool: int = 40
    """Candidates of each namespace that are ranked."""
