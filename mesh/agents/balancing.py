"""Which worker gets the work: a pure decision from a snapshot, in microseconds.

Eligible workers (right kind, not draining, a free slot, a fresh heartbeat) → power of two choices
→ the lower cost wins. Two random candidates instead of the best of all keep callers that share
one stale snapshot from all choosing the same worker (Mitzenmacher, "The power of two choices in
randomized load balancing", 2001).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mesh.contracts.mesh import Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that was looked at. Lower cost is better."""

    worker: str
    cost: float
    free: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided and why; ``worker`` is None when nobody is eligible."""

    worker: str | None
    reason: str
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class BalancingOptions:
    """When a worker counts, and what a second costs."""

    heartbeat_age_s: float = 3.0
    """Older heartbeats make a worker ineligible."""
    unknown_latency_s: float = 5.0
    """Taken for a worker that has finished nothing yet."""
    failure_penalty: float = 4.0
    """A worker that fails always costs this many times more than one that never does."""


def cost(worker: WorkerInfo, options: BalancingOptions) -> float:
    """Expected seconds until it would finish one more task, weighted by its failures."""
    latency = worker.ewma_latency_s or options.unknown_latency_s
    load = (worker.active + 1) / worker.slots
    return latency * load * (1.0 + (options.failure_penalty - 1.0) * (1.0 - worker.success))


def choose(
    snapshot: Snapshot,
    kind: TaskKind,
    rng: random.Random,
    *,
    now: float | None = None,
    options: BalancingOptions = BalancingOptions(),
) -> Choice:
    """Choose a worker for a task of this kind. ``now``: Unix seconds; None: the snapshot's time."""
    at = snapshot.at if now is None else now
    oldest = at - options.heartbeat_age_s
    eligible = [
        w
        for w in snapshot.workers
        if not w.draining
        and w.active < w.slots
        and w.heartbeat_at >= oldest
        and kind in w.specialisations
    ]
    if not eligible:
        return Choice(None, f"none of {len(snapshot.workers)} workers is free for {kind}")
    if len(eligible) == 1:
        only = eligible[0]
        one = Candidate(only.name, cost(only, options), only.free)
        return Choice(only.name, "the only eligible worker", (one,))
    first, second = rng.sample(eligible, 2)
    a = Candidate(first.name, cost(first, options), first.free)
    b = Candidate(second.name, cost(second, options), second.free)
    best = min(a, b, key=lambda c: (c.cost, -c.free))
    return Choice(
        best.worker, f"cheaper of two taken at random from {len(eligible)} eligible", (a, b)
    )
