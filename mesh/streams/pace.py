"""How long tokens wait for company: hardly while the loop is idle, longer the busier it is.

Each delivery has a cost that does not depend on its size, so a loop that lags gets through more
when it hands on larger pieces. The measure is the lag itself: how much later than asked a timer
fires. Pure: whoever owns the timers reports what they saw.
"""

from __future__ import annotations

RISE, FALL = 0.5, 0.1
"""Weight of a new observation above and below the average: quick to give way, slow to return."""


class Pace:
    """``base_s`` up to a lag of ``calm_s``, ``most_s`` from ``full_s`` on, a straight line between
    (all in seconds)."""

    __slots__ = ("_base_s", "_calm_s", "_full_s", "_most_s", "lag_s")

    def __init__(
        self, base_s: float, most_s: float, *, calm_s: float = 0.005, full_s: float = 0.05
    ) -> None:
        if not 0 <= calm_s < full_s:
            raise ValueError(f"calm_s {calm_s} must be below full_s {full_s}")
        self._base_s = base_s
        self._most_s = max(base_s, most_s)
        self._calm_s = calm_s
        self._full_s = full_s
        self.lag_s = 0.0
        """Moving average of what was observed."""

    def observe(self, lag_s: float) -> None:
        """A timer fired so many seconds late."""
        lag_s = max(0.0, lag_s)
        self.lag_s += (RISE if lag_s > self.lag_s else FALL) * (lag_s - self.lag_s)

    @property
    def hold_s(self) -> float:
        share = (self.lag_s - self._calm_s) / (self._full_s - self._calm_s)
        return self._base_s + min(1.0, max(0.0, share)) * (self._most_s - self._base_s)
