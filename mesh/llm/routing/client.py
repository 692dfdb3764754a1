"""The models behind routes: a name is a chain of engines, and an answer survives the death of one.

A request goes to the first engine of its route whose breaker lets it through; what fails is tried
again within a budget, then on the next (``opening``). What has gone out of an answer is kept as
the bytes that it went out as, a reference per burst; when the engine dies or falls silent, the
answer goes on elsewhere, with nothing repeated and nothing lost (``resume``), or ends with the
error. Nothing waits beyond the caller's deadline.

Whole answers are read as streams inside where there is a second engine or replica to go to: only
a stream shows whether its engine still works.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from mesh.contracts.trace import CallRecord
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import DeadlineExceeded, EngineError, MailyError, UnknownModel
from mesh.core.logging import get_logger
from mesh.core.metrics import LLM_RESUMED
from mesh.llm.assemble import assemble_chat, assemble_completion
from mesh.llm.call import current_call
from mesh.llm.engine import Wire
from mesh.llm.routing.attempt import Attempt
from mesh.llm.routing.journal import Journal
from mesh.llm.routing.opening import Opening
from mesh.llm.routing.options import RoutingOptions
from mesh.llm.routing.request import Request, record, speaks_against, verdict
from mesh.llm.routing.resume import (
    Continuation,
    Diverged,
    Replay,
    Splice,
    all_said,
    by_prefix,
    continued,
    cut_by_length,
)
from mesh.llm.routing.state import TargetState
from mesh.llm.routing.target import Embed, Target, chunks_of
from mesh.resilience.breaker import Permit
from mesh.resilience.shared_breakers import SharedBreakers

_log = get_logger("routing")

EMBEDDER = "embedder"
"""The breaker of the embedding model."""

Note = Callable[[CallRecord], None]


class RoutedClient:
    """A ModelClient. Belongs to one event loop; errors are those of ``mesh.llm.engine.Engine``."""

    def __init__(
        self,
        routes: Mapping[str, Sequence[Target]],
        *,
        default: str,
        embed: Embed | None = None,
        options: RoutingOptions | None = None,
        breakers: SharedBreakers | None = None,
        note: Note | None = None,
        noting: Callable[[], bool] = lambda: True,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """``default``: the route of requests that name none. ``breakers``: one for each target and
        ``EMBEDDER``; ``note``: told of each call at its end, where ``noting`` says that it is
        kept."""
        self._options = options or RoutingOptions()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        # An engine may answer to several models (adapters): they share its breaker.
        targets = {(t.name, t.model): t for chain in routes.values() for t in chain}
        self._breakers = breakers or SharedBreakers(
            (*dict.fromkeys(name for name, _ in targets), EMBEDDER),
            self._options.breaker,
            clock=self._clock,
            rng=self._rng,
            is_failure=speaks_against,
        )
        self._states = {
            key: TargetState(target, self._breakers[target.name], self._options, self._clock)
            for key, target in targets.items()
        }
        self._breakers.on_open(self._leave)
        self._routes = {
            route: tuple(self._states[target.name, target.model] for target in chain)
            for route, chain in routes.items()
        }
        self._default = default
        self._embed = embed
        self._note = note
        self._noting = noting
        self._opening = Opening(self._breakers, self._options, self._clock, self._rng)
        self._resumed = dict.fromkeys(("prefix", "replay", "refused"), 0)

    async def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async with aclosing(self._frames(body, True, timeout_s, traceparent)) as frames:
            async for item in frames:
                for chunk in chunks_of(item):
                    yield chunk

    async def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async with aclosing(self._frames(body, False, timeout_s, traceparent)) as frames:
            async for item in frames:
                for chunk in chunks_of(item):
                    yield chunk

    def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        return self._frames(body, True, timeout_s, traceparent)

    def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        return self._frames(body, False, timeout_s, traceparent)

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        return await self._whole(body, True, timeout_s, traceparent)

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire:
        return await self._whole(body, False, timeout_s, traceparent)

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        """By the one embedding model: vectors of another could not be compared with its own."""
        if self._embed is None:
            raise UnknownModel("there is no embedding model here", {"field": "model"})
        with self._breakers[EMBEDDER].guard():
            return await self._embed(texts, timeout_s=timeout_s)

    def statistics(self) -> dict[str, Any]:
        """Of each engine as this process sees it, and of answers that broke off."""
        return {
            "engines": {
                state.target.name: state.statistics() for state in reversed(self._states.values())
            },
            "resumed": dict(self._resumed),
            "sharing": self._breakers.sharing(),
        }

    async def aclose(self) -> None:
        await self._opening.aclose()
        await self._breakers.aclose()

    def _request(
        self, body: Wire, chat: bool, timeout_s: float, traceparent: str | None
    ) -> Request:
        route = body.get("model") or self._default
        chain = self._routes.get(route)
        if chain is None:
            raise UnknownModel(
                f"There is no model {str(route)[:200]!r} here",
                {"field": "model", "model": str(route)[:200]},
            )
        call = current_call()
        if call is not None and call.priority:
            body = body | {"priority": call.priority}
        deadline = asyncio.get_running_loop().time() + timeout_s
        return Request(route, body, chat, chain, deadline, traceparent)

    async def _whole(
        self, body: Wire, chat: bool, timeout_s: float, traceparent: str | None
    ) -> Wire:
        request = self._request(body, chat, timeout_s, traceparent)
        if request.alternatives():
            wire = body | {"stream": True, "stream_options": {"include_usage": True}}
            async with aclosing(self._frames(wire, chat, timeout_s, traceparent)) as frames:
                chunks = [chunk async for item in frames for chunk in chunks_of(item)]
            return assemble_chat(chunks) if chat else assemble_completion(chunks)
        started = asyncio.get_running_loop().time()
        answer: Wire = {}
        failure: BaseException | None = None
        try:
            answer = await self._opening.through(request, self._ask(request))
            return answer
        except BaseException as error:
            failure = error
            raise
        finally:
            if self._note is not None and self._noting():
                choice = (answer.get("choices") or [{}])[0]
                said = answer | {"finish_reason": choice.get("finish_reason")}
                self._note(record(request, self._clock, started, said, failure))

    def _ask(self, request: Request) -> Callable[[TargetState, Permit, str], Any]:
        """One unary call; the engine is watched by its own deadline alone."""

        async def ask(state: TargetState, permit: Permit, kind: str) -> Wire:
            loop = asyncio.get_running_loop()
            tried = state.tried(kind)
            request.tries.append(tried)
            started = loop.time()
            state.active += 1
            try:
                async with asyncio.timeout_at(request.deadline):
                    answer = await state.target.backend.answer(
                        request.body | {"model": state.target.model},
                        chat=request.chat,
                        timeout_s=request.left(),
                        traceparent=request.traceparent,
                        avoid=request.avoid,
                    )
            except Exception as error:
                if isinstance(error, TimeoutError):
                    error = DeadlineExceeded("the deadline passed before the answer")
                tried.outcome = "failed"
                tried.error = error.code if isinstance(error, MailyError) else "internal"
                # Silent up to the deadline: where that was long it speaks against the engine.
                silent = loop.time() - started > self._options.first_token_s
                if verdict(error) == "failed" or (silent and loop.time() >= request.deadline):
                    permit.badly()
                raise error
            else:
                tried.outcome = "ok"
                permit.well()
                return answer
            finally:
                permit.release()
                state.active -= 1
                tried.seconds = loop.time() - started
                state.count(tried)

        return ask

    async def _frames(
        self, body: Wire, chat: bool, timeout_s: float, traceparent: str | None
    ) -> AsyncGenerator[bytes, None]:
        request = self._request(body, chat, timeout_s, traceparent)
        started = asyncio.get_running_loop().time()
        prefix = by_prefix(request.body)
        if not prefix and "seed" not in request.body and request.alternatives():
            # Only the same seed can say the same again; the cached prompt is allowed as before.
            request.body = {"cache_prompt": True, **request.body, "seed": self._rng.getrandbits(31)}
        journal = Journal(self._options.journal_bytes)
        failure: BaseException | None = None
        attempt: Attempt | None = None
        splice: Splice | None = None
        resumes = 0
        try:
            while True:
                try:
                    if attempt is None:
                        plan = self._plan(request, journal, prefix) if journal else None
                        if plan is None:
                            attempt, item = await self._opening.first_frames(
                                request, lambda _: request.body
                            )
                        else:
                            splice, body_for = plan
                            attempt, item = await self._opening.first_frames(
                                request, body_for, "resume"
                            )
                    if splice is None:
                        while item:  # the usual way: a burst costs a reference
                            journal.append(item)
                            yield item
                            item = await attempt.next()
                    else:
                        while item:
                            if sent := splice(item):
                                journal.append(sent)
                                yield sent
                            item = await attempt.next()
                    if not journal.finished():
                        raise EngineError("the engine's answer ended in the middle")
                    attempt.succeeded()
                    return
                except Exception as error:
                    if attempt is not None:
                        counts = verdict(error) == "failed" and not isinstance(error, Diverged)
                        attempt.failed(error, counts=counts)
                        request.avoid = attempt.replica
                        await attempt.aclose()
                    if not journal:
                        raise
                    if journal.finished():
                        return  # only usage figures are missing, if anything
                    resumes += 1
                    if attempt is None or not self._can_resume(request, journal, error, resumes):
                        self._told("refused", request, attempt, error)
                        raise
                    self._told("prefix" if prefix else "replay", request, attempt, error)
                    if all_said(request.body, journal.read()):
                        last = cut_by_length(journal)
                        journal.append(last)
                        yield last
                        if not (request.body.get("stream_options") or {}).get("include_usage"):
                            return
                    request.chain = self._resume_order(request, attempt.state)
                    attempt = None
        except BaseException as error:
            failure = error
            raise
        finally:
            if attempt is not None:
                await attempt.aclose()
            if self._note is not None and self._noting():
                self._note(record(request, self._clock, started, journal.summary(), failure))

    def _plan(
        self, request: Request, journal: Journal, prefix: bool
    ) -> tuple[Splice, Callable[[TargetState], Wire | None]]:
        """How the answer goes on, and what an engine is asked for it."""
        emitted = journal.read()
        if not prefix or not emitted.only_content():
            return Replay(emitted), lambda _: request.body

        def body_for(state: TargetState) -> Wire | None:
            style = state.target.prefix
            return continued(request.body, emitted, chat=request.chat, style=style)

        return Continuation(emitted, all_said(request.body, emitted)), body_for

    def _can_resume(
        self, request: Request, journal: Journal, error: Exception, resumes: int
    ) -> bool:
        if isinstance(error, Diverged) or verdict(error) == "caller":
            return False
        return resumes <= self._options.resumes and not journal.overlong()

    def _resume_order(self, request: Request, died: TargetState) -> tuple[TargetState, ...]:
        """A warm peer first; an engine without one only when nobody else can."""
        others = tuple(state for state in request.chain if state is not died)
        return (died, *others) if died.target.replicas > 1 else (*others, died)

    def _told(self, how: str, request: Request, attempt: Attempt | None, error: Exception) -> None:
        engine = attempt.state.target.name if attempt is not None else "none"
        self._resumed[how] += 1
        LLM_RESUMED.labels(engine, how).inc()
        code = error.code if isinstance(error, MailyError) else type(error).__name__
        _log.warning("answer.broke_off", engine=engine, route=request.route, how=how, error=code)

    def _leave(self, name: str) -> None:
        for state in self._states.values():
            if state.target.name == name:
                state.leave()
