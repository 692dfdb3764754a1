"""A model that is no model: deterministic, instant, and as faulty as a test wishes.

It answers from a script, else from the request itself (same request and seed, same text), obeys
``response_format`` and ``tools``, goes on with an answer whose beginning it is given, and fails by
plan. It ships with the package so that users can test their agents on a laptop without a model,
and it can be deployed (``llm.engine = "fake"``) to try out routes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    MailyError,
    Overloaded,
    RateLimited,
    Unavailable,
    UnknownModel,
)
from mesh.llm.cancels import Cancels
from mesh.llm.engine import EngineInfo, Wire, priority_of
from mesh.llm.fake_text import (
    Shape,
    fake_embedding,
    made_up,
    prompt_tokens,
    split_prefix,
    tokens_of,
    tool_call,
)
from mesh.llm.faults import FaultPlan
from mesh.llm.raw import RawStreams
from mesh.resilience.bulkhead import Bulkhead

__all__ = ["FakeEngine", "FaultPlan", "Script", "fake_embedding"]

Script = Callable[[Wire], "str | dict[str, Any] | MailyError"]
"""Called with the request's body; a dict is answered as JSON, an error is raised."""

_KEPT = 1_000
_NONE = FaultPlan()
_BURST = 64
"""Tokens that an engine without delays gives at once."""


class FakeEngine(RawStreams):
    """An Engine. Tokens are words with the blank before them."""

    def __init__(
        self,
        script: Script | Sequence[str | dict[str, Any] | MailyError] | None = None,
        faults: FaultPlan = _NONE,
        *,
        model_id: str = "fake",
        slots: int = 8,
        queue_limit: int = 64,
        context_tokens: int = 2_048,
        dimensions: int = 16,
    ) -> None:
        self.faults = faults
        """May be replaced at any time; requests that run already keep theirs."""
        self.bodies: list[Wire] = []
        """The last requests that were let in, oldest first."""
        self._script = script if callable(script) or script is None else _in_turn(script)
        self._info = EngineInfo("fake", (model_id,), context_tokens, slots, dimensions)
        self._admission = Bulkhead("llm", concurrency=slots, queue=queue_limit)
        self._cancels = Cancels(model_id)
        self._requests = 0
        self._tokens = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        self._alive()
        return [fake_embedding(text, self._info.embedding_dimensions or 1) for text in texts]

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": self._admission.active,
            "queued": self._admission.queued,
            "slots": self._info.slots,
            "refused": self._admission.refused,
            "requests": self._requests,
            "tokens_generated": self._tokens,
            **self._cancels.statistics(),
        }

    async def check(self) -> None:
        self._alive()

    async def aclose(self) -> None:
        self._admission.close()

    async def stream_raw(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[list[bytes], None]:
        self._alive()
        self._check(body, chat=chat)
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self._admission.slot(timeout_s, priority=priority_of(body)):
            self._requests += 1
            self.bodies.append(body)
            del self.bodies[:-_KEPT]
            self._fail_first()
            text = self._answer(body)
            done = False
            try:
                yield []
                bursts = self._bursts(body, text, chat=chat)
                while True:
                    # Per burst: a timeout around a yield would cancel whichever task asked first.
                    try:
                        async with asyncio.timeout_at(deadline):
                            burst = await anext(bursts)
                    except StopAsyncIteration:
                        break
                    yield burst
                done = True
            except TimeoutError as exc:
                done = True
                raise DeadlineExceeded("the deadline passed while generating") from exc
            except EngineError:
                done = True
                raise
            finally:
                if not done:  # nothing runs on beside: the slot is free at once
                    self._cancels.add(0.0, 0)

    async def _bursts(
        self, body: Wire, text: str, *, chat: bool
    ) -> AsyncGenerator[list[bytes], None]:
        """What there is, at the pace of a model that does not wait for its reader."""
        asked, prefix = split_prefix(body)
        if prefix and text.startswith(prefix):
            text = text[len(prefix) :]
        elif prefix:
            asked, prefix = body, ""
        tokens = tokens_of(text)
        limit = body.get("max_tokens") or self._info.context_tokens
        finish = "length" if len(tokens) > limit else "stop"
        tokens = tokens[:limit]
        faults = self._faults_of_this_one()
        shape = Shape(asked, chat, self._info.models[0])
        if chat:
            yield [orjson.dumps(shape.chunk(delta={"role": "assistant", "content": None}))]
        loop = asyncio.get_running_loop()
        next_at = loop.time() + faults.first_token_delay_s
        burst: list[bytes] = []
        for number, token in enumerate(tokens, 1):
            next_at += faults.token_delay_s
            early = loop.time() < next_at
            if burst and (early or number in (2, faults.hang_at_token, faults.die_at_token)):
                yield burst
                burst = []
            if number == faults.die_at_token:
                raise EngineError(f"the fake engine died at token {number}, as planned")
            if number == faults.hang_at_token:
                await asyncio.Event().wait()
            if early or not burst:
                await asyncio.sleep(max(0.0, next_at - loop.time()))
            self._tokens += 1
            chunk = orjson.dumps(shape.chunk(delta={"content": token}, text=token))
            if number == faults.malformed_at_token:
                chunk = chunk[: len(chunk) // 2]
            burst.append(chunk)
            if len(burst) >= _BURST:
                yield burst
                burst = []
        call = tool_call(body, text) if chat else None
        if call is not None:
            burst.append(orjson.dumps(shape.chunk(delta={"tool_calls": [call]})))
            finish = "tool_calls"
        burst.append(orjson.dumps(shape.chunk(delta={}, finish=finish)))
        if (body.get("stream_options") or {}).get("include_usage"):
            prompt = prompt_tokens(asked) + len(tokens_of(prefix))
            burst.append(orjson.dumps(shape.usage(prompt=prompt, completion=len(tokens))))
        yield burst

    def _faults_of_this_one(self) -> FaultPlan:
        plan = self.faults
        if plan.every > 1 and self._requests % plan.every:
            return FaultPlan(token_delay_s=plan.token_delay_s)
        return plan

    def _alive(self) -> None:
        if self.faults.unavailable:
            raise Unavailable("the fake engine is down, as planned", retry_after_s=1.0)

    def _fail_first(self) -> None:
        plan = self.faults
        if plan.refuse_first > 0:
            self.faults = replace(plan, refuse_first=plan.refuse_first - 1)
            raise Overloaded("the fake engine is full, as planned", retry_after_s=1.0)
        if plan.limit_first > 0:
            self.faults = replace(plan, limit_first=plan.limit_first - 1)
            raise RateLimited("the fake engine is asked too often, as planned", retry_after_s=1.0)
        if plan.fail_first > 0:
            self.faults = replace(plan, fail_first=plan.fail_first - 1)
            raise EngineError("the fake engine failed, as planned")

    def _check(self, body: Wire, *, chat: bool) -> None:
        if body.get("model", self._info.models[0]) not in self._info.models:
            raise UnknownModel(f"there is no model {body['model']!r} here", {"field": "model"})
        tokens = prompt_tokens(body)
        if tokens >= self._info.context_tokens:
            raise InvalidInput(
                f"the prompt has {tokens} tokens; this model reads at most "
                f"{self._info.context_tokens}, the answer included",
                {
                    "field": "messages" if chat else "prompt",
                    "prompt_tokens": tokens,
                    "context_tokens": self._info.context_tokens,
                },
            )

    def _answer(self, body: Wire) -> str:
        asked, _ = split_prefix(body)
        if self._script is not None:
            scripted = self._script(asked)
            if isinstance(scripted, MailyError):
                raise scripted
            text = scripted if isinstance(scripted, str) else json.dumps(scripted)
        else:
            text = made_up(asked)
        stops = body.get("stop") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop, 1)[0]
        return text


def _in_turn(answers: Sequence[str | dict[str, Any] | MailyError]) -> Script:
    """One answer a request; the last one repeats."""
    left: Iterator[str | dict[str, Any] | MailyError] = iter(answers)
    last: list[str | dict[str, Any] | MailyError] = []

    def script(body: Wire) -> str | dict[str, Any] | MailyError:
        last[:] = [next(left, last[0] if last else "")]
        return last[0]

    return script
