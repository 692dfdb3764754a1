"""What this process knows of one target: its breaker, its budgets, how it fares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mesh.core.clock import Clock
from mesh.core.metrics import LLM_TRIES, bounded
from mesh.llm.routing.options import RoutingOptions
from mesh.llm.routing.target import Target
from mesh.resilience.breaker import CircuitBreaker
from mesh.resilience.hedging import Hedging
from mesh.resilience.retry import RetryBudget

KINDS = ("first", "retry", "fallback", "hedge", "resume")
OUTCOMES = ("ok", "failed", "cancelled")
_REPLICAS = 256
"""Replicas that are remembered: restarted ones have new names."""


@dataclass(slots=True)
class Tried:
    """One call of one engine, as it is told afterwards."""

    engine: str
    model: str
    kind: str
    outcome: str = "cancelled"
    """``ok``, ``failed`` or ``cancelled``; until it is known better: the last."""
    error: str = ""
    """Code of the error, where it failed."""
    seconds: float = 0.0
    ttft_s: float | None = None


class TargetState:
    """Of one target; shared by all routes that lead to it."""

    def __init__(
        self, target: Target, breaker: CircuitBreaker, options: RoutingOptions, clock: Clock
    ) -> None:
        self.target = target
        self.breaker = breaker
        self.retries = RetryBudget(options.retry_ratio, options.retry_reserve)
        self.hedging = Hedging(options.hedge)
        self.active = 0
        """Attempts that run now."""
        self.waiting: dict[int, Callable[[], None]] = {}
        """Attempts that queue there and could go elsewhere; called when the breaker opens."""
        self._clock = clock
        self._cool_max_s = options.cool_max_s
        self._cool_until = 0.0
        self._failed_at: dict[str, float] = {}
        """Replica → its last failure that counted."""
        engine = bounded("engine", target.name)
        self._counters = {
            (kind, outcome): LLM_TRIES.labels(engine, kind, outcome)
            for kind in KINDS
            for outcome in OUTCOMES
        }
        self._tries = dict.fromkeys(OUTCOMES, 0)

    def news(self, replica: str | None, started: float, now: float) -> bool:
        """Whether a failure says something that is not known yet. One of several replicas that
        dies takes all its answers with it, and that is one failure: calls that it had begun by
        then count no more, or its death would close the door of its healthy peers.
        """
        if self.target.replicas < 2 or replica is None:
            return True
        if started < self._failed_at.get(replica, -math.inf):
            return False
        self._failed_at[replica] = now
        while len(self._failed_at) > _REPLICAS:
            del self._failed_at[next(iter(self._failed_at))]
        return True

    def cooling(self) -> bool:
        """It said "too many requests" and the time that it asked for has not passed."""
        return self._cool_until > self._clock.monotonic()

    def cool(self, seconds: float | None) -> None:
        self._cool_until = self._clock.monotonic() + min(seconds or 1.0, self._cool_max_s)

    def tried(self, kind: str) -> Tried:
        """A call begins; tell its end to ``count``."""
        return Tried(self.target.name, self.target.model, kind)

    def count(self, tried: Tried) -> None:
        self._tries[tried.outcome] += 1
        self._counters[tried.kind, tried.outcome].inc()

    def leave(self) -> None:
        """The breaker has opened: whoever only queues there had better go elsewhere."""
        for go in list(self.waiting.values()):
            go()

    def statistics(self) -> dict[str, object]:
        return {
            "active": self.active,
            "cooling": self.cooling(),
            **{f"tries_{outcome}": n for outcome, n in self._tries.items()},
            "breaker": self.breaker.statistics(),
            "retries": self.retries.statistics(),
            "hedging": self.hedging.statistics(),
        }
