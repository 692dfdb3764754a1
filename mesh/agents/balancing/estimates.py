"""How long a queue takes, and what can't be done in time: from what the workers have seen.

Refusing is for the sure cases alone. So that estimate is a bound, not a guess: every slot of the
mesh works for this workspace alone, each task as quickly as the quickest seen lately.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from mesh.contracts.mesh import Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind


@dataclass(frozen=True, slots=True)
class EstimateOptions:
    """What counts as known, and the range of Retry-After."""

    least_seen: int = 5
    """Ended tasks of a kind before anything is refused because of its deadline."""
    window_s: float = 30.0
    """Rates are means over about so long."""
    drained_share: float = 0.05
    """A refused caller is asked back when about this share of the full queue has drained."""
    retry_min_s: float = 1.0
    retry_max_s: float = 120.0


class Rates:
    """Tasks that end per second, by kind, from the counts in heartbeats. Decays to zero."""

    def __init__(self, options: EstimateOptions | None = None) -> None:
        self._window_s = (options or EstimateOptions()).window_s
        self._counts: dict[tuple[str, TaskKind], int] = {}
        self._weights: dict[TaskKind, tuple[float, float]] = {}
        """Decayed number of ends, and the time at which it was right."""

    def hear(self, info: WorkerInfo, now: float) -> None:
        for kind, history in info.history.items():
            key = (info.actor_id, kind)
            new = history.count - self._counts.get(key, 0)
            self._counts[key] = history.count
            if new > 0:
                self._weights[kind] = (self._decayed(kind, now) + new, now)

    def forget(self, owner: str) -> None:
        for key in [key for key in self._counts if key[0] == owner]:
            del self._counts[key]

    def per_s(self, now: float) -> dict[TaskKind, float]:
        rates = {kind: self._decayed(kind, now) / self._window_s for kind in self._weights}
        return {kind: rate for kind, rate in rates.items() if rate > 1e-4}

    def _decayed(self, kind: TaskKind, now: float) -> float:
        weight, at = self._weights.get(kind, (0.0, now))
        return weight * math.exp(-max(0.0, now - at) / self._window_s)


def least_wait_s(
    snapshot: Snapshot,
    workspace_id: UUID,
    kind: TaskKind,
    *,
    ahead: bool = True,
    options: EstimateOptions | None = None,
) -> float | None:
    """A bound from below for the end of one more task, in seconds; None: too little is known.

    ``ahead``: False for a task that passes before the rest of its workspace's queue.
    """
    options = options or EstimateOptions()
    own = _fastest(snapshot.workers, (kind,), options)
    slots = sum(w.slots for w in snapshot.workers if not w.draining)
    if own is None or slots == 0:
        return None
    queue = snapshot.queues.get(workspace_id)
    if not ahead or queue is None:
        return own
    any_kind = _fastest(snapshot.workers, tuple(TaskKind), options) or own
    return own + queue.queued // slots * any_kind


def retry_after_s(
    snapshot: Snapshot | None,
    queue_limit: int,
    default_s: float,
    options: EstimateOptions | None = None,
) -> float:
    """When a caller whose workspace's queue is full should come back: by the measured drain."""
    options = options or EstimateOptions()
    if snapshot is None:
        return default_s
    rate = sum(snapshot.rates.values()) / max(1, snapshot.tenants)
    if rate <= 0:
        return default_s
    wanted = max(1.0, queue_limit * options.drained_share) / rate
    return min(options.retry_max_s, max(options.retry_min_s, wanted))


def relative_cost(snapshot: Snapshot | None, kind: TaskKind) -> float:
    """What a task of this kind takes of a share: its time over the mean of all kinds, 0.1 … 10."""
    if snapshot is None:
        return 1.0
    seconds: dict[TaskKind, list[float]] = {}
    for worker in snapshot.workers:
        for known, history in worker.history.items():
            if history.count:
                seconds.setdefault(known, []).append(history.latency_s)
    means = {known: sum(values) / len(values) for known, values in seconds.items()}
    overall = sum(means.values()) / len(means) if means else 0.0
    if kind not in means or overall <= 0:
        return 1.0
    return min(10.0, max(0.1, means[kind] / overall))


def _fastest(
    workers: Iterable[WorkerInfo], kinds: Iterable[TaskKind], options: EstimateOptions
) -> float | None:
    wanted = tuple(kinds)
    histories = [w.history[kind] for w in workers for kind in wanted if kind in w.history]
    if sum(history.count for history in histories) < options.least_seen:
        return None
    return min(history.fastest_s for history in histories if history.count)
