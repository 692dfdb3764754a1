"""Waiting for what is away: the model, the stream log.

An engine replica that restarts takes five to ten seconds, Valkey one to ten. Neither is the
task's fault, so neither may cost it a try or push it to its template: these wrappers try again,
with growing pauses, until the part is back, the patience is spent or the deadline has passed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mesh.agents.agent import TimeLeft
from mesh.contracts.events import Event, EventType
from mesh.core.clock import Clock
from mesh.core.errors import EngineError, MailyError, Overloaded, RateLimited, Unavailable
from mesh.llm.engine import LLMClient, Wire
from mesh.streams.log import StreamWriter

T = TypeVar("T")

AWAY: tuple[type[MailyError], ...] = (Unavailable, EngineError, Overloaded, RateLimited)
"""Errors of the infrastructure: they say nothing about the request."""


@dataclass(frozen=True, slots=True)
class PatienceOptions:
    """How long to wait for a part that is away."""

    model_s: float = 60.0
    """For the model, counted from its first failure; after that its error reaches the agent."""
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0
    """Pauses double from the first to the longest, each shortened at random by up to half."""


def pause(failures: int, options: PatienceOptions, hint_s: float | None = None) -> float:
    """Seconds to wait after that many failures in a row (from 1). ``hint_s``: Retry-After."""
    grown = options.first_pause_s * 2.0 ** min(failures - 1, 16)
    wanted = min(max(grown, hint_s or 0.0), options.longest_pause_s)
    return wanted * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, not a secret)


class PatientLLM:
    """An LLMClient that outlasts a model service that is away.

    The time away is counted across calls: when the model has not answered for ``model_s``, each
    further call fails at its first error, so that agents can degrade without waiting again.
    """

    def __init__(
        self,
        inner: LLMClient,
        clock: Clock,
        deadline: TimeLeft,
        options: PatienceOptions = PatienceOptions(),
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._deadline = deadline
        self._options = options
        self._away_since: float | None = None
        self._spent = False
        self.waits = 0
        """Times that a call was made again."""

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        failures = 0
        while True:
            try:
                answer = await self._inner.chat(body, timeout_s=timeout_s, traceparent=traceparent)
            except AWAY as error:
                failures += 1
                await self._wait_or_raise(error, failures)
            else:
                self._answers()
                return answer

    async def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        """Made again only before the first chunk: what was streamed can't be taken back."""
        failures = 0
        while True:
            begun = False
            stream = self._inner.stream_chat(body, timeout_s=timeout_s, traceparent=traceparent)
            try:
                async for chunk in stream:
                    if not begun:
                        begun = True
                        self._answers()
                    yield chunk
            except AWAY as error:
                if begun:
                    raise
                failures += 1
                await self._wait_or_raise(error, failures)
            else:
                return
            finally:
                # Not left to the garbage collector: closing is what frees the engine's slot.
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()

    def _answers(self) -> None:
        self._away_since = None
        self._spent = False

    async def _wait_or_raise(self, error: MailyError, failures: int) -> None:
        now = self._clock.monotonic()
        if self._away_since is None:
            self._away_since = now
        wait = pause(failures, self._options, error.retry_after_s)
        left = min(self._away_since + self._options.model_s - now, self._deadline.remaining())
        if self._spent or wait >= left:
            self._spent = True
            raise error
        self.waits += 1
        await self._clock.sleep(wait)


class PatientWriter:
    """A StreamWriter that waits for the log instead of failing its task.

    Only the deadline ends the wait (then the log's own Unavailable comes through). Fenced is
    never waited for: a newer owner has the stream.
    """

    def __init__(
        self,
        inner: StreamWriter,
        clock: Clock,
        deadline: TimeLeft,
        options: PatienceOptions = PatienceOptions(),
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._deadline = deadline
        self._options = options

    async def append(self, type: EventType, data: dict[str, Any]) -> Event:
        return await persist(
            lambda: self._inner.append(type, data), self._clock, self._deadline, self._options
        )

    async def token(self, step: str, text: str) -> None:
        await persist(
            lambda: self._inner.token(step, text), self._clock, self._deadline, self._options
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


async def persist(
    operation: Callable[[], Awaitable[T]],
    clock: Clock,
    deadline: TimeLeft,
    options: PatienceOptions = PatienceOptions(),
) -> T:
    """Run it until it does not raise Unavailable, or the deadline leaves no time to wait."""
    failures = 0
    while True:
        try:
            return await operation()
        except Unavailable as error:
            failures += 1
            wait = pause(failures, options, error.retry_after_s)
            if wait >= deadline.remaining():
                raise
            await clock.sleep(wait)


async def settle(task: asyncio.Task[Any], patience_s: float) -> bool:
    """Cancel and wait until it has ended, at most so long. False: it still runs."""
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=patience_s)
    return bool(done)
