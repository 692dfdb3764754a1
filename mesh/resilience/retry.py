"""Call again what may be called again: jittered backoff, a deadline, a budget (over tenacity)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import DeadlineExceeded, MailyError
from mesh.core.metrics import RETRIES, bounded
from mesh.resilience.deadline import Deadline

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How often and how soon."""

    tries: int = 3
    """Calls in all, the first included."""
    base_s: float = 0.05
    """The longest wait before the second call; it doubles with each further one."""
    max_s: float = 2.0
    """No wait of our own is longer (a callee that names a longer one is obeyed)."""


class RetryBudget:
    """Keeps retries a share of calls, so that many callers do not bury a callee in trouble.

    Each call earns ``ratio`` of a retry, up to ``reserve`` of them, which is also the start.
    Share one per callee.
    """

    def __init__(self, ratio: float = 0.2, reserve: float = 10.0) -> None:
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


def is_retryable(error: BaseException) -> bool:
    """Ours that say so, except a passed deadline: more time will not come by asking again."""
    return (
        isinstance(error, MailyError)
        and error.retryable
        and not isinstance(error, DeadlineExceeded)
    )


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    what: str = "call",
    options: RetryOptions = RetryOptions(),
    retryable: Callable[[BaseException], bool] = is_retryable,
    deadline: Deadline | None = None,
    budget: RetryBudget | None = None,
    clock: Clock | None = None,
    rng: random.Random | None = None,
) -> T:
    """The call's result, or its last error once it should not be called again.

    It is not when the error is not ``retryable``, the tries or the budget are spent, or the wait
    would reach the deadline. Waits are random between zero and the doubling limit ("full
    jitter"), never shorter than the error's ``retry_after_s``. ``what`` labels the metric.
    """
    clock = clock or SystemClock()
    rng = rng or random.Random()  # noqa: S311 - jitter

    def wait(state: tenacity.RetryCallState) -> float:
        limit = min(options.max_s, options.base_s * 2.0 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after_s", None) or 0.0
        return max(rng.uniform(0, limit), asked)

    def stop(state: tenacity.RetryCallState) -> bool:
        if state.attempt_number >= options.tries:
            return True
        if deadline is not None and state.upcoming_sleep >= deadline.remaining():
            return True
        return budget is not None and not budget.spend()

    if budget is not None:
        budget.called()
    if deadline is not None:
        deadline.check(what)
    label = bounded("retry", what)
    attempts = tenacity.AsyncRetrying(
        sleep=clock.sleep,
        wait=wait,
        stop=stop,
        retry=tenacity.retry_if_exception(retryable),
        before_sleep=lambda _state: RETRIES.labels(label).inc(),
        reraise=True,
    )
    return await attempts(call)
