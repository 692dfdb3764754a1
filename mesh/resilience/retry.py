"""Calling again: how long to wait before it, and a budget that keeps it from burying the callee."""

from __future__ import annotations

import random


def full_jitter(tried: int, base_s: float, max_s: float, rng: random.Random) -> float:
    """Seconds before the call after ``tried`` failed ones: random between zero and a limit that
    doubles from ``base_s`` to ``max_s``: callers who failed together don't come together."""
    return rng.uniform(0, min(max_s, base_s * 2.0 ** (tried - 1)))


class RetryBudget:
    """Keeps retries a share of calls, so that many callers do not bury a callee in trouble.

    Each call earns ``ratio`` of a retry, up to ``reserve`` of them, which is also the start.
    Share one per callee.
    """

    def __init__(self, ratio: float = 0.1, reserve: float = 10.0) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._left = reserve
        self._calls = 0
        self._retries = 0
        self._refused = 0

    def called(self) -> None:
        self._calls += 1
        self._left = min(self._reserve, self._left + self._ratio)

    def spend(self) -> bool:
        """Take one retry; False when there is none."""
        if self._left < 1:
            self._refused += 1
            return False
        self._left -= 1
        self._retries += 1
        return True

    def statistics(self) -> dict[str, int | float]:
        return {
            "calls": self._calls,
            "retries": self._retries,
            "refused": self._refused,
            "left": self._left,
        }
