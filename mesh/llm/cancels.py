"""How soon cancelled requests let go of their slots, and what was still made for nobody."""

from __future__ import annotations

from collections import deque

from mesh.core.metrics import LLM_AFTER_CANCEL, LLM_CANCEL_SECONDS, bounded

_KEPT = 512


class Cancels:
    """Of one engine."""

    def __init__(self, model: str) -> None:
        label = bounded("model", model)
        self._seconds = LLM_CANCEL_SECONDS.labels(label)
        self._tokens = LLM_AFTER_CANCEL.labels(label)
        self._last: deque[float] = deque(maxlen=_KEPT)
        self._count = 0
        self._after = 0
        self._most = 0

    def add(self, seconds: float, tokens: int) -> None:
        """One request was cancelled; ``seconds`` until its slot was free, ``tokens`` made after
        the cancel."""
        self._count += 1
        self._after += tokens
        self._most = max(self._most, tokens)
        self._last.append(seconds)
        self._seconds.observe(seconds)
        if tokens:
            self._tokens.inc(tokens)

    def statistics(self) -> dict[str, int | float]:
        ordered = sorted(self._last)
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else 0.0
        return {
            "cancelled": self._count,
            "tokens_after_cancel": self._after,
            "tokens_after_cancel_most": self._most,
            "cancel_p99_s": p99,
        }
