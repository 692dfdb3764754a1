"""From a request to the first frames of an answer: order, breakers, retries, fallback, hedging."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from mesh.core.clock import Clock
from mesh.core.errors import EngineError, MailyError, RateLimited, Unavailable
from mesh.core.logging import get_logger
from mesh.core.metrics import RETRIES
from mesh.llm.engine import Wire
from mesh.llm.routing.attempt import Attempt
from mesh.llm.routing.options import RoutingOptions
from mesh.llm.routing.race import race
from mesh.llm.routing.request import Request, too_long, verdict
from mesh.llm.routing.state import TargetState
from mesh.resilience.breaker import BreakerState, Permit
from mesh.resilience.retry import full_jitter
from mesh.resilience.shared_breakers import SharedBreakers

T = TypeVar("T")
Ask = Callable[[TargetState, Permit, str], Awaitable[T]]
"""Target, permit, kind of try → its answer. Says to the permit and raises what went wrong."""

_log = get_logger("routing")


class Opening:
    """Finds an engine that answers. One per RoutedClient; holds nothing of a request."""

    def __init__(
        self,
        breakers: SharedBreakers,
        options: RoutingOptions,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._breakers = breakers
        self._options = options
        self._clock = clock
        self._rng = rng
        self._closing: set[asyncio.Task[None]] = set()

    async def first_frames(
        self,
        request: Request,
        body_for: Callable[[TargetState], Wire | None],
        kind: str = "first",
    ) -> tuple[Attempt, bytes]:
        """An attempt that has begun to answer. ``body_for``: what an engine is asked; None: it
        can't be asked this. Raises the most telling error once nobody is left to ask."""

        async def ask(state: TargetState, permit: Permit, kind: str) -> tuple[Attempt, bytes]:
            body = body_for(state)
            if body is None:
                permit.release()
                raise EngineError("this engine can't go on with another's answer")
            attempt = self._start(request, state, permit, kind, body)
            try:
                return await self._hedged(request, attempt, body_for)
            except BaseException as error:
                if isinstance(error, Exception):
                    self._judge(attempt, error)
                    request.avoid = attempt.replica or request.avoid
                await attempt.aclose()
                raise

        return await self.through(request, ask, kind)

    async def through(self, request: Request, ask: Ask[T], kind: str = "first") -> T:
        """Ask one engine after the other until one answers."""
        while True:
            last: MailyError | None = None
            soonest: float | None = None
            for state, following in self._in_order(request.chain):
                tried = 0
                while True:
                    permit = await self._permit(state)
                    if permit is None:
                        wait = state.breaker.retry_after_s()
                        soonest = wait if soonest is None else min(soonest, wait)
                        break
                    again = state.target.name in request.asked
                    if again and kind != "resume" and not state.retries.spend():
                        permit.release()
                        break
                    if not again:
                        state.retries.called()
                    name = kind if kind == "resume" or not request.asked else "fallback"
                    name = "retry" if again and name != "resume" else name
                    request.asked.add(state.target.name)
                    try:
                        request.left()
                        return await ask(state, permit, name)
                    except BaseException as error:
                        permit.release()
                        if not isinstance(error, Exception):
                            raise
                        last = self._told(error, state)
                        if not self._go_on(error, following):
                            raise last from error
                        tried += 1
                        if not self._again(request, state, error, tried):
                            break
                    RETRIES.labels("llm").inc()
                    await self._pause(request, tried)
            await self._wait_or_raise(request, last, soonest)

    def close(self, attempt: Attempt) -> None:
        """Close it beside: whoever is answered need not wait for a loser's slot."""
        task = asyncio.create_task(attempt.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _in_order(
        self, chain: Sequence[TargetState]
    ) -> Iterator[tuple[TargetState, Sequence[TargetState]]]:
        """Those that asked to be left alone come last."""
        if len(chain) > 1 and any(state.cooling() for state in chain):
            chain = sorted(chain, key=TargetState.cooling)
        for index, state in enumerate(chain):
            yield state, chain[index + 1 :]

    async def _permit(self, state: TargetState) -> Permit | None:
        breaker = state.breaker
        if not breaker.allows():
            return None
        if breaker.state is not BreakerState.CLOSED:
            if not await self._breakers.may_probe(state.target.name):
                return None
            if not breaker.allows():  # another took the place meanwhile
                return None
        return breaker.acquire()

    def _start(
        self, request: Request, state: TargetState, permit: Permit, kind: str, body: Wire
    ) -> Attempt:
        stream = state.target.backend.frames(
            body | {"model": state.target.model},
            chat=request.chat,
            timeout_s=request.left(),
            traceparent=request.traceparent,
            avoid=request.avoid,
        )
        attempt = Attempt(state, permit, kind, stream, self._options, request.deadline)
        request.tries.append(attempt.tried)
        return attempt

    async def _hedged(
        self,
        request: Request,
        attempt: Attempt,
        body_for: Callable[[TargetState], Wire | None],
    ) -> tuple[Attempt, bytes]:
        hedging = attempt.state.hedging
        hedging.called()
        alternatives = request.alternatives()
        delay = hedging.delay_s() if alternatives else None
        if delay is None:
            frames = await attempt.first(alternatives)
            winner = attempt
        else:

            def rival(late: Attempt) -> Attempt | None:
                return self._rival(request, late, body_for)

            winner, frames = await race(
                attempt, delay, rival, self._judge, self.close, alternatives
            )
        if winner.tried.ttft_s is not None:
            winner.state.hedging.observe(winner.tried.ttft_s)
        return winner, frames

    def _rival(
        self,
        request: Request,
        late: Attempt,
        body_for: Callable[[TargetState], Wire | None],
    ) -> Attempt | None:
        peer = late.state.target.replicas > 1
        candidates = [late.state] if peer else [s for s in request.chain if s is not late.state]
        for state in candidates:
            body = body_for(state)
            if body is None or state.cooling() or state.breaker.state is not BreakerState.CLOSED:
                continue
            if not late.state.hedging.spend():
                return None
            if peer:
                request.avoid = late.replica
            return self._start(request, state, state.breaker.acquire(), "hedge", body)
        return None

    def _judge(self, attempt: Attempt, error: BaseException) -> None:
        fault = verdict(error)
        attempt.failed(error, counts=fault == "failed")
        if isinstance(error, RateLimited):
            attempt.state.cool(error.retry_after_s)

    def _told(self, error: Exception, state: TargetState) -> MailyError:
        if isinstance(error, MailyError):
            return error
        _log.error("routing.foreign", engine=state.target.name, exc_info=error)
        return EngineError(f"the engine failed: {type(error).__name__}")

    def _go_on(self, error: Exception, following: Sequence[TargetState]) -> bool:
        return verdict(error) != "caller" or too_long(error, following)

    def _again(self, request: Request, state: TargetState, error: Exception, tried: int) -> bool:
        """Whether the same engine is asked once more before the next."""
        if tried > self._options.retries or verdict(error) != "failed":
            return False
        silent = isinstance(error, MailyError) and "phase" in error.details
        return state.target.replicas > 1 or not silent

    async def _pause(self, request: Request, tried: int) -> None:
        options = self._options
        wait = full_jitter(tried, options.pause_s, options.pause_max_s, self._rng)
        await self._clock.sleep(min(wait, request.left()))

    async def _wait_or_raise(
        self, request: Request, last: MailyError | None, soonest: float | None
    ) -> None:
        """The whole route is away: wait for it while patience and deadline allow, else raise."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if request.away_until is None:
            request.away_until = now + self._options.away_s
        error = last or Unavailable(
            "The engines of this route fail and are left alone for a moment.",
            {"route": request.route},
            retry_after_s=max(soonest or 0.0, 1.0),
        )
        if last is not None and verdict(last) == "busy":
            raise error
        wait = max(soonest or 0.0, 0.05) * self._rng.uniform(1.0, 1.5)
        if now + wait >= min(request.away_until, request.deadline):
            raise error
        await self._clock.sleep(wait)
