"""Hedging: ask a second one when the first is later than usual, seldom enough to cost little.

*Usual* is a quantile of what was observed lately. The budget is hard: each call earns a share of
a hedge and there is no credit to begin with, so hedges never exceed that share of all calls.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HedgeOptions:
    """When a second call is worth it."""

    budget: float = 0.05
    """Second calls as a share of all; 0: never."""
    quantile: float = 0.95
    """Later than this share of the last waits is late."""
    min_s: float = 0.05
    """Nothing sooner than this is late, in seconds."""
    min_samples: int = 20
    """Before so many waits are known nothing is late."""
    window: int = 128
    """Waits that are remembered."""
    burst: float = 3.0
    """Hedges that may be saved up."""


class Hedging:
    """Of one callee. Pure; one event loop."""

    _REFRESH = 8

    def __init__(self, options: HedgeOptions | None = None) -> None:
        self.options = options or HedgeOptions()
        self._waits: deque[float] = deque(maxlen=self.options.window)
        self._late_s: float | None = None
        self._fresh = 0
        self._left = 0.0
        self._calls = 0
        self._hedges = 0
        self._refused = 0

    def called(self) -> None:
        """A first call was made: it earns its share."""
        self._calls += 1
        self._left = min(self.options.burst, self._left + self.options.budget)

    def observe(self, seconds: float) -> None:
        """How long a first sign of life took; of a call given up: how long it was waited for."""
        self._waits.append(seconds)
        self._fresh += 1
        if len(self._waits) >= self.options.min_samples and (
            self._late_s is None or self._fresh >= self._REFRESH
        ):
            self._fresh = 0
            ordered = sorted(self._waits)
            at = min(len(ordered) - 1, int(self.options.quantile * len(ordered)))
            self._late_s = max(self.options.min_s, ordered[at])

    def delay_s(self) -> float | None:
        """Seconds after which a call is late; None: don't hedge now."""
        return self._late_s if self._left >= 1 else None

    def spend(self) -> bool:
        """Take one hedge; False when there is none."""
        if self._left < 1:
            self._refused += 1
            return False
        self._left -= 1
        self._hedges += 1
        return True

    def statistics(self) -> dict[str, int | float]:
        return {
            "calls": self._calls,
            "hedges": self._hedges,
            "refused": self._refused,
            "late_s": self._late_s or 0.0,
        }
