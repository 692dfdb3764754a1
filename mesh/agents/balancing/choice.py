"""Which worker gets the work: a pure decision from a snapshot, in microseconds.

Eligible workers (right kind, not draining, a free slot, a fresh heartbeat) → power of two choices
→ the lower score wins. Two random candidates instead of the best of all keep callers that share
one stale snapshot from all choosing the same worker (Mitzenmacher, "The power of two choices in
randomized load balancing", 2001).

A snapshot is digested once, when it arrives: a decision then looks at two workers, however many
there are.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mesh.agents.balancing.score import (
    DEFAULTS,
    BalancingOptions,
    Candidate,
    Parts,
    candidate,
    means,
    parts_of,
)
from mesh.contracts.mesh import Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided and why; ``worker`` is None when nobody is eligible."""

    worker: str | None
    reason: str
    candidates: tuple[Candidate, ...] = ()
    version: int | None = None
    """Of the snapshot that it rests on."""

    def record(self) -> dict[str, Any]:
        """As an attempt keeps it and ``explain`` reads it."""
        return {
            "worker": self.worker,
            "reason": self.reason,
            "candidates": [one.record() for one in self.candidates],
            "snapshot": self.version,
        }


class _Entry:
    """A worker that takes a kind, with what doesn't change until the next snapshot."""

    __slots__ = ("info", "parts", "product")

    def __init__(self, info: WorkerInfo, parts: Parts) -> None:
        self.info = info
        self.parts = parts
        self.product = parts.product


class Digest:
    """A snapshot made ready for many decisions. Not shared between event loops."""

    def __init__(self, snapshot: Snapshot, options: BalancingOptions = DEFAULTS) -> None:
        self.snapshot = snapshot
        self._options = options
        self._oldest_heartbeat = min((w.heartbeat_at for w in snapshot.workers), default=0.0)
        self._places = {place: frozenset(nodes) for place, nodes in snapshot.places.items()}
        self._offered: dict[str, int] = {}
        self._by_kind: dict[TaskKind, list[_Entry]] = {}

    def note(self, worker: str) -> None:
        """A task was offered to it: it counts as busier until the next snapshot shows it."""
        self._offered[worker] = self._offered.get(worker, 0) + 1

    def choose(
        self,
        kind: TaskKind,
        rng: random.Random,
        *,
        now: float | None = None,
        wants: Collection[str] = (),
    ) -> Choice:
        """Choose a worker for a task of this kind. ``now``: Unix seconds; None: the snapshot's
        time. ``wants``: places that the task would like to be near (``Snapshot.places``)."""
        entries = self._by_kind.get(kind)
        if entries is None:
            entries = self._by_kind[kind] = self._takers(kind)
        at = self.snapshot.at if now is None else now
        oldest = at - self._options.heartbeat_age_s
        count = len(entries)
        if count >= 2 and self._oldest_heartbeat >= oldest:
            # Look at no more than two. Only when one of them is full by now, at all.
            i = int(rng.random() * count)
            j = int(rng.random() * (count - 1))
            first, second = entries[i], entries[j + (j >= i)]
            if self._free(first.info) and self._free(second.info):
                return self._better(first, second, count, wants)
        eligible = [e for e in entries if e.info.heartbeat_at >= oldest and self._free(e.info)]
        if not eligible:
            known = len(self.snapshot.workers)
            return Choice(
                None, f"none of {known} workers is free for {kind}", (), self.snapshot.version
            )
        if len(eligible) == 1:
            only = self._candidate(eligible[0], wants)
            return Choice(only.worker, "the only eligible worker", (only,), self.snapshot.version)
        first, second = rng.sample(eligible, 2)
        return self._better(first, second, len(eligible), wants)

    def _better(self, first: _Entry, second: _Entry, count: int, wants: Collection[str]) -> Choice:
        a, b = self._candidate(first, wants), self._candidate(second, wants)
        best = a if (a.cost, -a.free) <= (b.cost, -b.free) else b
        return Choice(
            best.worker,
            f"the lower score of two taken at random from {count} eligible",
            (a, b),
            self.snapshot.version,
        )

    def _takers(self, kind: TaskKind) -> list[_Entry]:
        takers = [w for w in self.snapshot.workers if kind in w.specialisations]
        mean = means(takers, kind, self._options)
        return [
            _Entry(worker, parts_of(worker, kind, mean, self._options))
            for worker in takers
            if not worker.draining and worker.active < worker.slots
        ]

    def _free(self, info: WorkerInfo) -> bool:
        return info.active + self._offered.get(info.name, 0) < info.slots

    def _candidate(self, entry: _Entry, wants: Collection[str]) -> Candidate:
        info = entry.info
        locality = 1.0
        if wants:
            here = sum(1 for place in wants if info.node in self._places.get(place, ()))
            locality = self._options.near ** (here / len(wants))
        extra = self._offered.get(info.name, 0)
        return candidate(info, entry.parts, entry.product, extra, locality)


def choose(
    snapshot: Snapshot,
    kind: TaskKind,
    rng: random.Random,
    *,
    now: float | None = None,
    wants: Collection[str] = (),
    options: BalancingOptions = DEFAULTS,
) -> Choice:
    """One decision from a snapshot; for many from the same one make a ``Digest``."""
    return Digest(snapshot, options).choose(kind, rng, now=now, wants=wants)
