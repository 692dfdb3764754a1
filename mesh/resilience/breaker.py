"""A circuit breaker: stop calling what fails, look again later with one careful call.

::

             too many failures                 open_s passed
    CLOSED ────────────────────▶ OPEN ──────────────────────▶ HALF_OPEN
       ▲                          ▲      the probe failed        │
       │                          └──────────────────────────────┤ (waits twice as long)
       └─────────────────────────────────────────────────────────┘ probes went well

Pure: it knows the time only from its clock and never waits. For use within one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import MailyError, Unavailable
from mesh.core.metrics import BREAKER_STATE, BREAKER_TRANSITIONS, bounded


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    window: int = 20
    """Calls that are remembered while closed."""
    min_calls: int = 5
    """Fewer say nothing yet."""
    failure_ratio: float = 0.5
    """So many of the remembered calls failed: open."""
    open_s: float = 1.0
    """Seconds until the first probe; doubles with each probe that fails."""
    open_max_s: float = 30.0
    probes: int = 1
    """Calls let through while half open, all of which must go well."""


def counts_as_failure(error: BaseException) -> bool:
    """What speaks against the callee: ours that are retryable or say 5xx, and anything foreign;
    not the caller's own mistakes."""
    if isinstance(error, MailyError):
        return error.retryable or error.status >= 500
    return True


class CircuitBreaker:
    """``with breaker.guard(): await call()``."""

    def __init__(
        self,
        name: str,
        options: BreakerOptions | None = None,
        clock: Clock | None = None,
        is_failure: Callable[[BaseException], bool] = counts_as_failure,
    ) -> None:
        self.name = name
        self._options = options or BreakerOptions()
        self._clock = clock or SystemClock()
        self._is_failure = is_failure
        self._label = bounded("breaker", name)
        self._state = BreakerState.CLOSED
        self._results: deque[bool] = deque(maxlen=self._options.window)
        self._open_s = self._options.open_s
        self._opened_at = 0.0
        self._era = 0
        """Changes of state so far: a call that began in an earlier one counts no more."""
        self._probing = 0
        self._probed = 0
        self._calls = 0
        self._failures = 0
        self._refused = 0
        self._opened = 0

    @property
    def state(self) -> BreakerState:
        if self._state is BreakerState.OPEN and self.retry_after_s() <= 0:
            return BreakerState.HALF_OPEN
        return self._state

    def retry_after_s(self) -> float:
        """Seconds until a call may be let through again; zero unless open."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._open_s - self._clock.monotonic())

    def allows(self) -> bool:
        """Whether ``guard`` would let a call through now; changes nothing."""
        state = self.state
        if state is BreakerState.HALF_OPEN:
            fresh = self._state is BreakerState.OPEN
            return fresh or self._probing + self._probed < self._options.probes
        return state is BreakerState.CLOSED

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around one call. Raises Unavailable (with ``retry_after_s``) instead while open."""
        era = self._acquire()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if era == self._era:  # it says nothing about the callee
                self._probing = max(0, self._probing - 1)
            raise
        except BaseException as error:
            self._ended(era, well=not self._is_failure(error))
            raise
        else:
            self._ended(era, well=True)

    def statistics(self) -> dict[str, int | float | str]:
        return {
            "state": self.state.value,
            "calls": self._calls,
            "failures": self._failures,
            "refused": self._refused,
            "opened": self._opened,
            "retry_after_s": self.retry_after_s(),
        }

    def _acquire(self) -> int:
        if not self.allows():
            self._refused += 1
            raise Unavailable(
                f"{self.name} failed too often and is left alone for a moment.",
                {"breaker": self.name},
                retry_after_s=max(self.retry_after_s(), 0.1),
            )
        if self._state is BreakerState.OPEN:
            self._move(BreakerState.HALF_OPEN)
        if self._state is BreakerState.HALF_OPEN:
            self._probing += 1
        self._calls += 1
        return self._era

    def _ended(self, era: int, *, well: bool) -> None:
        self._failures += not well
        if era != self._era:
            return  # it began before the last change of state and says nothing about now
        options = self._options
        if self._state is BreakerState.CLOSED:
            self._results.append(well)
            bad = self._results.count(False)
            enough = len(self._results) >= options.min_calls
            # Only a failure trips it, never the success that makes the calls enough.
            if not well and enough and bad >= options.failure_ratio * len(self._results):
                self._trip()
        elif well:
            self._probing -= 1
            self._probed += 1
            if self._probed >= options.probes:
                self._open_s = options.open_s
                self._results.clear()
                self._move(BreakerState.CLOSED)
        else:
            self._open_s = min(self._open_s * 2, options.open_max_s)
            self._trip()

    def _trip(self) -> None:
        self._opened += 1
        self._opened_at = self._clock.monotonic()
        self._move(BreakerState.OPEN)

    def _move(self, to: BreakerState) -> None:
        BREAKER_STATE.labels(self._label).inc(
            (to is not BreakerState.CLOSED) - (self._state is not BreakerState.CLOSED)
        )
        BREAKER_TRANSITIONS.labels(self._label, to.value).inc()
        self._state = to
        self._era += 1
        self._probing = self._probed = 0
