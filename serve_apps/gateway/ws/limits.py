"""How much one client may say."""

from __future__ import annotations


class Allowance:
    """A token bucket: ``burst`` at once, ``rate`` a second in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._left = self._burst
        self._at = now

    def take(self, now: float) -> float:
        """0 and one is taken, or the seconds until the next one may be."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate
