"""A circuit breaker: stop calling what fails, look again later with few careful calls.

::

             too many failures                 open_s passed
    CLOSED ────────────────────▶ OPEN ──────────────────────▶ HALF_OPEN
       ▲                          ▲      a probe failed          │
       │                          └──────────────────────────────┤ (waits twice as long)
       └─────────────────────────────────────────────────────────┘ probes went well

Too many: so many in a row, or such a share of the last calls. Every negative mark runs out: an
open breaker becomes half open by time alone, and a probe of which nothing is heard gives its
place up. Pure: it knows the time only from its clock and never waits. For use within one event
loop; what other processes have seen comes in by ``heard_open`` and ``heard_closed``.
"""

from __future__ import annotations

import asyncio
import random
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
    """When it opens, and when it looks again."""

    failures: int = 5
    """So many failures in a row: open."""
    window: int = 20
    """Calls that are remembered while closed."""
    min_calls: int = 10
    """Fewer say nothing about a share yet."""
    failure_ratio: float = 0.5
    """So many of the remembered calls failed: open."""
    open_s: float = 1.0
    """Seconds until the first probe; doubles with each probe that fails."""
    open_max_s: float = 30.0
    jitter: float = 0.2
    """Waits are longer by up to this share at random, so that processes do not probe together."""
    probes: int = 1
    """Calls let through while half open, all of which must go well."""
    settle_s: float = 3.0
    """A probe has gone well when it has ended well, or so many seconds after it began to answer:
    an engine that dies under its answers must not pass for its first token."""
    probe_s: float = 30.0
    """Seconds after which a probe of which nothing was heard makes room for another."""


def counts_as_failure(error: BaseException) -> bool:
    """What speaks against the callee: ours that are retryable or say 5xx, and anything foreign;
    not the caller's own mistakes."""
    if isinstance(error, MailyError):
        return error.retryable or error.status >= 500
    return True


Changed = Callable[["CircuitBreaker", BreakerState, bool], None]
"""Breaker, the state it moved to, and whether by itself (else: heard from another process)."""


class Permit:
    """One call that was let through. ``well`` once it begins to answer, ``badly`` when it fails,
    also in the middle; ``release`` at the end in any case: without either word it has no verdict.

    A call counts once, at its end: one that begins well and breaks off is a failure. A probe that
    has answered for ``settle_s`` counts then.
    """

    __slots__ = ("_began", "_breaker", "_era", "_said", "began_at")

    def __init__(self, breaker: CircuitBreaker, era: int) -> None:
        self._breaker = breaker
        self._era = era
        self._began = False
        self._said = False
        self.began_at = 0.0
        """Of a probe: when it began to answer, monotonic."""

    def well(self) -> None:
        if not self._began:
            self._began = True
            self._breaker._begun(self, self._era)

    def badly(self) -> None:
        if not self._said:
            self._say(well=False)

    def void(self) -> None:
        """It shall say nothing, also where it began well."""
        if not self._said:
            self._said = True
            self._breaker._dropped(self._era)

    def release(self) -> None:
        if self._began and not self._said:
            self._say(well=True)
        else:
            self.void()

    def _say(self, *, well: bool) -> None:
        self._said = True
        self._breaker._ended(self._era, well=well)


class CircuitBreaker:
    """``permit = breaker.acquire()``, or ``with breaker.guard(): await call()``."""

    def __init__(
        self,
        name: str,
        options: BreakerOptions | None = None,
        clock: Clock | None = None,
        is_failure: Callable[[BaseException], bool] = counts_as_failure,
        *,
        rng: random.Random | None = None,
        changed: Changed | None = None,
    ) -> None:
        self.name = name
        self.options = options or BreakerOptions()
        self._clock = clock or SystemClock()
        self._is_failure = is_failure
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._changed = changed
        self._label = bounded("breaker", name)
        self._state = BreakerState.CLOSED
        BREAKER_STATE.labels(self._label, self._state.value).inc()
        self._results: deque[bool] = deque(maxlen=self.options.window)
        self._row = 0
        """Failures since the last call that went well."""
        self._wait_s = self.options.open_s
        """Of the next opening, before jitter."""
        self._until = 0.0
        """While open: when the first probe may go, monotonic."""
        self._era = 0
        """Changes of state so far: a call that began in an earlier one counts no more."""
        self._probing = 0
        self._probed = 0
        self._probe_at = 0.0
        self._answering: list[Permit] = []
        """Probes that have begun to answer."""
        self._calls = 0
        self._failures = 0
        self._refused = 0
        self._opened = 0

    @property
    def state(self) -> BreakerState:
        self._settle()
        if self._state is BreakerState.OPEN and self.retry_after_s() <= 0:
            return BreakerState.HALF_OPEN
        return self._state

    def retry_after_s(self) -> float:
        """Seconds until a call may be let through again; zero unless open."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._until - self._clock.monotonic())

    def allows(self) -> bool:
        """Whether ``acquire`` would let a call through now."""
        self._settle()
        if self._state is BreakerState.CLOSED:
            return True
        if self._state is BreakerState.OPEN:
            return self.retry_after_s() <= 0
        if self._probing + self._probed < self.options.probes:
            return True
        return self._clock.monotonic() - self._probe_at > self.options.probe_s

    def acquire(self) -> Permit:
        """Raises Unavailable (with ``retry_after_s``) where ``allows`` is false."""
        if self._state is not BreakerState.CLOSED:
            if not self.allows():
                self._refused += 1
                raise Unavailable(
                    f"{self.name} failed too often and is left alone for a moment.",
                    {"breaker": self.name},
                    retry_after_s=max(self.retry_after_s(), 0.1),
                )
            if self._state is BreakerState.OPEN:
                self._move(BreakerState.HALF_OPEN)
            elif self._probing + self._probed >= self.options.probes:
                self._probing = 0  # nothing was heard of them
            self._probing += 1
            self._probe_at = self._clock.monotonic()
        self._calls += 1
        return Permit(self, self._era)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around one call. Raises what ``acquire`` raises."""
        permit = self.acquire()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            raise  # it says nothing about the callee
        except BaseException as error:
            if self._is_failure(error):
                permit.badly()
            else:
                permit.well()
            raise
        else:
            permit.well()
        finally:
            permit.release()

    def heard_open(self, for_s: float) -> None:
        """Another process opened its breaker of the same callee, or its probe failed: ours opens
        too, and waits as long, unless a probe of our own is under way and will tell."""
        if for_s <= 0 or self._probing:
            return
        for_s = min(for_s, self.options.open_max_s)
        if self._state is BreakerState.OPEN:
            self._until = max(self._until, self._clock.monotonic() + for_s)
        else:
            self._open(for_s, own=False)

    def heard_closed(self) -> None:
        """Another process's probe went well."""
        if self._state is not BreakerState.CLOSED:
            self._close(own=False)

    def statistics(self) -> dict[str, int | float | str]:
        return {
            "state": self.state.value,
            "calls": self._calls,
            "failures": self._failures,
            "in_a_row": self._row,
            "refused": self._refused,
            "opened": self._opened,
            "retry_after_s": self.retry_after_s(),
        }

    def _begun(self, permit: Permit, era: int) -> None:
        if era == self._era and self._state is BreakerState.HALF_OPEN:
            permit.began_at = self._clock.monotonic()
            self._answering.append(permit)

    def _settle(self) -> None:
        """Probes that have answered long enough have gone well."""
        if not self._answering:
            return
        due = self._clock.monotonic() - self.options.settle_s
        settled = [permit for permit in self._answering if permit.began_at <= due]
        self._answering = [permit for permit in self._answering if permit.began_at > due]
        for permit in settled:
            permit.release()

    def _ended(self, era: int, *, well: bool) -> None:
        self._failures += not well
        if era != self._era:
            return  # it began before the last change of state and says nothing about now
        if self._state is BreakerState.CLOSED:
            self._count(well)
        elif not well:
            self._wait_s = min(self._wait_s * 2, self.options.open_max_s)
            self._open(self._wait_s, own=True)
        elif self._state is BreakerState.HALF_OPEN:
            self._probing = max(0, self._probing - 1)
            self._probed += 1
            if self._probed >= self.options.probes:
                self._close(own=True)

    def _dropped(self, era: int) -> None:
        if era == self._era:
            self._probing = max(0, self._probing - 1)

    def _count(self, well: bool) -> None:
        options = self.options
        self._results.append(well)
        if well:
            self._row = 0
            return
        self._row += 1
        # Only a failure trips it, never the success that makes the calls enough.
        enough = len(self._results) >= options.min_calls
        bad = self._results.count(False)
        if self._row >= options.failures or (
            enough and bad >= options.failure_ratio * len(self._results)
        ):
            self._open(self._wait_s, own=True)

    def _open(self, for_s: float, *, own: bool) -> None:
        self._opened += own
        longer = 1.0 + self._rng.random() * self.options.jitter
        self._until = self._clock.monotonic() + for_s * longer
        self._move(BreakerState.OPEN, own=own)

    def _close(self, *, own: bool) -> None:
        self._wait_s = self.options.open_s
        self._results.clear()
        self._row = 0
        self._move(BreakerState.CLOSED, own=own)

    def _move(self, to: BreakerState, *, own: bool = True) -> None:
        BREAKER_STATE.labels(self._label, self._state.value).dec()
        BREAKER_STATE.labels(self._label, to.value).inc()
        BREAKER_TRANSITIONS.labels(self._label, to.value).inc()
        self._state = to
        self._era += 1
        self._probing = self._probed = 0
        self._answering = []
        if self._changed is not None:
            self._changed(self, to, own)
