"""What a worker learns from the tasks that it ends, by kind: the observed half of its score."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.contracts.mesh import KindHistory
from mesh.contracts.tasks import TaskKind


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """How quickly the past fades."""

    weight: float = 0.3
    """Of the newest task in the moving averages."""
    fastest_drift: float = 0.02
    """How far the least latency moves towards each slower one: a machine may have grown slow."""


class Learning:
    """One worker's history. ``observe`` each task that ended here."""

    def __init__(self, options: LearningOptions | None = None) -> None:
        self._options = options or LearningOptions()
        self._kinds: dict[TaskKind, KindHistory] = {}

    @property
    def history(self) -> dict[TaskKind, KindHistory]:
        return dict(self._kinds)

    @property
    def success(self) -> float:
        """Over all kinds, each weighing as much as it was done. 1: nothing ended yet."""
        return self._mean("success", 1.0)

    @property
    def latency_s(self) -> float:
        """The same. 0: nothing ended yet."""
        return self._mean("latency_s", 0.0)

    def observe(
        self,
        kind: TaskKind,
        seconds: float,
        *,
        succeeded: bool,
        degraded: bool = False,
        cost_micros: float | None = None,
    ) -> None:
        """``seconds``: from claim to end. A failed task says nothing of quality."""
        old = self._kinds.get(kind, KindHistory())
        weight = self._options.weight
        if old.count == 0:
            fastest = latency = seconds
        else:
            # Peak EWMA: one slow task is believed at once, recovery has to be earned.
            falling = old.latency_s + weight * (seconds - old.latency_s)
            latency = seconds if seconds > old.latency_s else falling
            drift = self._options.fastest_drift * (seconds - old.fastest_s)
            fastest = min(seconds, old.fastest_s + drift)
        quality = old.quality
        if succeeded:
            quality += weight * ((0.0 if degraded else 1.0) - quality)
        cost = old.cost_micros
        if cost_micros is not None:
            cost = cost_micros if cost == 0 else cost + weight * (cost_micros - cost)
        self._kinds[kind] = KindHistory(
            count=old.count + 1,
            success=_share(old.success + weight * (float(succeeded) - old.success)),
            latency_s=latency,
            fastest_s=fastest,
            cost_micros=cost,
            quality=_share(quality),
        )

    def _mean(self, field: str, empty: float) -> float:
        total = sum(h.count for h in self._kinds.values())
        if total == 0:
            return empty
        return sum(float(getattr(h, field)) * h.count for h in self._kinds.values()) / total


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
