"""Memories that say the same become one, those that contradict each other are told apart by time.

Both are plans: which rows change, and how. Nothing is lost by either: what was merged or
superseded stays as a row of its own (the history), is answered to questions about the past, and
is forgotten together with what took its place.

Vectors alone can't tell "likes tulips" from "does not like tulips": near duplicates must also
share their words, and agree in every number and negation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mesh.contracts.memory import MemoryFilter, MemoryItem, MemoryState
from mesh.memory.labels import same_value, statement_key
from mesh.memory.options import ConsolidationOptions
from mesh.memory.partition import Partition

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_NEGATIONS = frozenset(
    _WORD.findall(
        "no not never none nothing neither nor without cannot can't don't doesn't didn't won't "
        "isn't aren't wasn't weren't nicht kein keine keinen nie niemals ohne pas jamais sans "
        "aucun nunca sin jamás non mai senza niet geen nooit"
    )
)


@dataclass(frozen=True, slots=True)
class Merge:
    """``merged`` are said by ``survivor`` from now on."""

    survivor: UUID
    merged: tuple[UUID, ...]
    importance: float
    """Of the survivor afterwards: the greatest among them."""


@dataclass(frozen=True, slots=True)
class Supersede:
    """``old`` held true until ``at``; ``new`` says otherwise."""

    old: UUID
    new: UUID
    at: datetime


@dataclass(frozen=True, slots=True)
class MergePlan:
    merges: tuple[Merge, ...]
    examined: int
    position: int
    """Changes up to here were looked at: the next pass goes on after it."""
    complete: bool


def plan_merges(
    partition: Partition, after: int, now: float, options: ConsolidationOptions
) -> MergePlan:
    """Look at what changed after ``after``, against all that is active. Blocks for about a search
    per memory. ``now``: Unix seconds."""
    ids = partition.changed_since(after, options.max_examined + 1)
    complete = len(ids) <= options.max_examined
    taken: set[UUID] = set()
    merges = []
    position = after
    for identity in ids[: options.max_examined]:
        record = partition.record(identity)
        item, vector = partition.item(identity), partition.vector(identity)
        if record is None or item is None or vector is None:
            continue
        position = max(position, record.change)
        if identity in taken:
            continue
        near = partition.dense(vector, options.neighbours, MemoryFilter(kinds=[item.kind]), now)
        group = [item]
        for other_id, cosine in near:
            if cosine < options.min_cosine or other_id == identity or other_id in taken:
                continue
            other = partition.item(other_id)
            if other is not None and all(same(other, member, options) for member in group):
                group.append(other)
        if merge := _merge(group):
            merges.append(merge)
            taken.update(merge.merged, (merge.survivor,))
    return MergePlan(tuple(merges), min(len(ids), options.max_examined), position, complete)


def same(one: MemoryItem, other: MemoryItem, options: ConsolidationOptions) -> bool:
    """Whether two neighbours say the same, by their words."""
    if one.kind is not other.kind or (one.valid_from, one.valid_to) != (
        other.valid_from,
        other.valid_to,
    ):
        return False
    if sorted(one.contacts) != sorted(other.contacts):
        return False
    if (one.statement is None) != (other.statement is None):
        return False
    if one.statement is not None and other.statement is not None:
        alike = statement_key(one.statement) == statement_key(other.statement)
        if not alike or not same_value(one.statement, other.statement):
            return False
    left, right = _words(one.text), _words(other.text)
    if _exact(left) != _exact(right):
        return False
    return len(left & right) >= options.min_overlap * len(left | right)


def plan_supersedes(items: Iterable[MemoryItem]) -> list[Supersede]:
    """For each subject and attribute every value holds until the next other one; those that were
    superseded before take part, because what comes late may belong between. Pinned ones, too: a
    pin keeps a memory, it does not make it true. Gives only what changes."""
    about: dict[tuple[str, str, str], list[MemoryItem]] = defaultdict(list)
    for item in items:
        if item.statement is not None and item.state is not MemoryState.MERGED:
            about[statement_key(item.statement)].append(item)
    plan = []
    for group in about.values():
        ordered = sorted(group, key=lambda item: (_since(item), item.id.bytes))
        for index, old in enumerate(ordered[:-1]):
            newer = next((n for n in ordered[index + 1 :] if _contradicts(n, old)), None)
            if newer is not None and newer.id != old.superseded_by:
                plan.append(Supersede(old.id, newer.id, _since(newer)))
    return plan


def _contradicts(newer: MemoryItem, old: MemoryItem) -> bool:
    assert newer.statement is not None
    assert old.statement is not None
    over = old.valid_to is not None and old.valid_to <= _since(newer)
    return not over and not same_value(newer.statement, old.statement)


def _since(item: MemoryItem) -> datetime:
    return item.valid_from or item.created_at


def _merge(group: Sequence[MemoryItem]) -> Merge | None:
    """Pinned ones stay as they are; of the others one speaks for all."""
    best = max(group, key=lambda i: (i.pinned, i.importance, i.created_at, i.id.bytes))
    merged = tuple(item.id for item in group if item.id != best.id and not item.pinned)
    if not merged:
        return None
    return Merge(best.id, merged, max(item.importance for item in group))


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold().replace("’", "'")))


def _exact(words: frozenset[str]) -> frozenset[str]:
    """Words in which near duplicates may not differ."""
    return frozenset(word for word in words if word in _NEGATIONS or any(map(str.isdigit, word)))
