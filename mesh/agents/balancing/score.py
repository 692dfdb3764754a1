"""One score per worker and task, as a product of parts that each can be read alone.

Expected seconds until the worker would have done one more task of this kind, made worse by what
it is known to do badly and better by what it has at hand. Lower is better. A part of 1 says
nothing either way, so what is unknown never decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.contracts.mesh import KindHistory, WorkerInfo
from mesh.contracts.tasks import TaskKind

_ALL_KINDS = len(TaskKind)
_UNSEEN = KindHistory()


@dataclass(frozen=True, slots=True)
class BalancingOptions:
    """When a worker counts, and how much each part may weigh."""

    heartbeat_age_s: float = 3.0
    """Older heartbeats make a worker ineligible."""
    unknown_latency_s: float = 5.0
    """Taken while nobody has finished a task of the kind."""
    failure_penalty: float = 4.0
    """A worker that fails always scores this many times worse than one that never does."""
    quality_penalty: float = 2.0
    """The same for one whose results are always degraded."""
    specialist: float = 0.8
    """Factor for a worker that declares this kind among few: it leaves others free for theirs."""
    price_exponent: float = 0.5
    """Twice the mean price makes the score 2 ** this worse; 0: price does not matter."""
    price_bound: float = 4.0
    """Prices count as at most so many times the mean, and at least one such part of it."""
    near: float = 0.7
    """Factor for a worker on whose node everything is that the task wants (memory, model)."""


DEFAULTS = BalancingOptions()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the score is made of, without load and place: these change from task to task."""

    latency_s: float
    specialisation: float
    success: float
    price: float
    quality: float

    @property
    def product(self) -> float:
        return self.latency_s * self.specialisation * self.success * self.price * self.quality


@dataclass(frozen=True, slots=True)
class Means:
    """Over all workers, for one kind: what an unknown worker is taken for."""

    latency_s: float
    price: float
    """In millionths of the currency; 0: nobody knows."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that was looked at. Lower cost is better."""

    worker: str
    cost: float
    free: int
    parts: Mapping[str, float]
    """latency_s × load × specialisation × success × price × quality × locality = cost"""

    def record(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "score": round(self.cost, 4),
            "free": self.free,
            "parts": {name: round(value, 4) for name, value in self.parts.items()},
        }


def means(workers: Iterable[WorkerInfo], kind: TaskKind, options: BalancingOptions) -> Means:
    latencies, prices = [], []
    for worker in workers:
        history = worker.history.get(kind)
        if history is not None and history.count:
            latencies.append(history.latency_s)
            if history.cost_micros > 0:
                prices.append(history.cost_micros)
        elif worker.ewma_latency_s > 0:
            latencies.append(worker.ewma_latency_s)
    return Means(
        sum(latencies) / len(latencies) if latencies else options.unknown_latency_s,
        sum(prices) / len(prices) if prices else 0.0,
    )


def parts_of(worker: WorkerInfo, kind: TaskKind, means: Means, options: BalancingOptions) -> Parts:
    """What is known of the worker by its last heartbeat."""
    history = worker.history.get(kind, _UNSEEN)
    seen = history.count > 0
    latency = history.latency_s if seen else worker.ewma_latency_s
    price = 1.0
    if means.price > 0 and history.cost_micros > 0:
        bound = options.price_bound
        relative = min(bound, max(1.0 / bound, history.cost_micros / means.price))
        price = relative**options.price_exponent
    success = history.success if seen else worker.success
    quality = history.quality if seen else 1.0
    return Parts(
        latency_s=latency or means.latency_s,
        specialisation=options.specialist if len(worker.specialisations) < _ALL_KINDS else 1.0,
        success=1.0 + (options.failure_penalty - 1.0) * (1.0 - success),
        price=price,
        quality=1.0 + (options.quality_penalty - 1.0) * (1.0 - quality),
    )


def candidate(
    worker: WorkerInfo, parts: Parts, product: float, extra: int, locality: float
) -> Candidate:
    """``extra``: tasks that were offered to it since its heartbeat."""
    busy = worker.active + extra
    load = (busy + 1) / worker.slots
    return Candidate(
        worker.name,
        product * load * locality,
        max(0, worker.slots - busy),
        {
            "latency_s": parts.latency_s,
            "load": load,
            "specialisation": parts.specialisation,
            "success": parts.success,
            "price": parts.price,
            "quality": parts.quality,
            "locality": locality,
        },
    )


def cost(
    worker: WorkerInfo,
    options: BalancingOptions = DEFAULTS,
    kind: TaskKind = TaskKind.WRITE_EMAIL,
) -> float:
    """The score of one worker seen alone."""
    parts = parts_of(worker, kind, means((worker,), kind, options), options)
    return candidate(worker, parts, parts.product, 0, 1.0).cost
