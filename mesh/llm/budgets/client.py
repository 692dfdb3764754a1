"""The outermost layer of the models: every call is reserved, counted and settled.

What a call used is what the engine says (``usage``). A stream that is cut short is settled by the
tokens that went by; a whole answer that is given up (its caller left, its time was over) by the
time that it ran at the model's usual pace, because nobody says what was thrown away. An answer
that a cache gave again (``usage.cached``) uses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import orjson

from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Cancelled, DeadlineExceeded
from mesh.llm.budgets.book import Amounts, Reservation
from mesh.llm.budgets.estimate import prompt_most, texts_most
from mesh.llm.budgets.limits import Price, Prices
from mesh.llm.budgets.meter import Meter
from mesh.llm.budgets.usage import Usage
from mesh.llm.call import Call, current_call
from mesh.llm.client import ModelClient
from mesh.llm.embeddings import Vectors
from mesh.llm.engine import Wire

_USAGE = b'"usage":{'
_UNASKED_TOKENS = 4_096
"""An answer without ``max_tokens`` in a model whose context isn't known."""
_PACE_SHARE = 0.1
_GIVEN_UP = (Cancelled, DeadlineExceeded, asyncio.CancelledError)


class NoteCost(Protocol):
    def __call__(self, cost: int, /, *, prompt_tokens: int, completion_tokens: int) -> None: ...


class MeteredClient:
    """Implements ``mesh.llm.client.ModelClient`` over another. Calls of the runtime itself
    (``current_call()`` is None) pass as they are."""

    def __init__(
        self,
        inner: ModelClient,
        meter: Meter,
        clock: Clock,
        *,
        embedding_model: str,
        prices: Mapping[str, Price] | None = None,
        context_tokens: Mapping[str, int] | None = None,
        bytes_per_token: float = 1.0,
        note_cost: NoteCost | None = None,
    ) -> None:
        """``context_tokens``: by name, tokens that prompt and answer have together at most.
        ``note_cost``: told of each call's cost and size at its end."""
        self._inner = inner
        self._meter = meter
        self._clock = clock
        self._embedding_model = embedding_model
        self._prices = Prices(prices)
        self._context = dict(context_tokens or {})
        self._bytes_per_token = bytes_per_token
        self._note_cost = note_cost
        self._pace: dict[str, float] = {}
        """Tokens a second of whole answers, by model."""

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        return await self._whole(self._inner.chat, body, timeout_s, traceparent)

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire:
        return await self._whole(self._inner.complete, body, timeout_s, traceparent)

    def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        return self._chunks(self._inner.stream_chat, body, timeout_s, traceparent)

    def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        return self._chunks(self._inner.stream_completion, body, timeout_s, traceparent)

    def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        return self._frames(self._inner.stream_chat_encoded, body, timeout_s, traceparent)

    def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        return self._frames(self._inner.stream_completion_encoded, body, timeout_s, traceparent)

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        call = current_call()
        if call is None:
            return await self._inner.embed(texts, timeout_s=timeout_s)
        name = self._embedding_model

        def amounts() -> Amounts:
            most = texts_most(texts, self._bytes_per_token)
            return {"tokens": most, "cost": self._prices.highest(name).cost(most, 0)}

        reservation = await self._meter.reserve(call, amounts)
        used = 0
        try:
            vectors = await self._inner.embed(texts, timeout_s=timeout_s)
            used = vectors.prompt_tokens if isinstance(vectors, Vectors) else texts_most(texts, 4.0)
            return vectors
        finally:
            self._settle(call, reservation, name, name, used, 0)

    async def _whole(
        self, ask: Callable[..., Awaitable[Wire]], body: Wire, timeout_s: float, trace: str | None
    ) -> Wire:
        call = current_call()
        if call is None:
            return await ask(body, timeout_s=timeout_s, traceparent=trace)
        reservation = await self._reserve(call, body)
        name = body.get("model") or ""
        started = self._clock.monotonic()
        usage: Wire = {}
        try:
            answer = await ask(body, timeout_s=timeout_s, traceparent=trace)
            usage = answer.get("usage") or {}
            answered = answer.get("model") or name
            self._learn_pace(answered, usage, self._clock.monotonic() - started)
        except _GIVEN_UP:
            made = self._made(name, body, self._clock.monotonic() - started)
            self._settle(call, reservation, name, name, self._guess(body), made)
            raise
        except BaseException:
            self._settle(call, reservation, name, name, 0, 0)
            raise
        self._settle(call, reservation, name, answered, *_tokens(usage))
        return answer

    async def _chunks(
        self,
        ask: Callable[..., AsyncIterator[Wire]],
        body: Wire,
        timeout_s: float,
        trace: str | None,
    ) -> AsyncIterator[Wire]:
        call = current_call()
        if call is None:
            async with aclosing(_asked(ask, body, timeout_s, trace)) as plain:
                async for chunk in plain:
                    yield chunk
            return
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        reservation = await self._reserve(call, body)
        name = answered = body.get("model") or ""
        usage: Wire = {}
        seen = 0
        try:
            async with aclosing(_asked(ask, _counted(body), timeout_s, trace)) as chunks:
                async for chunk in chunks:
                    answered = chunk.get("model") or answered
                    if found := chunk.get("usage"):
                        usage = found
                        if not asked and not chunk.get("choices"):
                            continue
                    seen += 1
                    yield chunk
        finally:
            self._settle_stream(call, reservation, name, answered, usage, seen, body)

    async def _frames(
        self,
        ask: Callable[..., AsyncIterator[bytes]],
        body: Wire,
        timeout_s: float,
        trace: str | None,
    ) -> AsyncIterator[bytes]:
        """Bytes pass as they are; only a burst that holds the usage is looked into."""
        call = current_call()
        if call is None:
            async with aclosing(_asked(ask, body, timeout_s, trace)) as plain:
                async for burst in plain:
                    yield burst
            return
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        reservation = await self._reserve(call, body)
        name = answered = body.get("model") or ""
        usage: Wire = {}
        seen = 0
        try:
            async with aclosing(_asked(ask, _counted(body), timeout_s, trace)) as bursts:
                async for burst in bursts:
                    seen += burst.count(b"\n\n")
                    if _USAGE in burst:
                        burst, usage, model = _read_usage(burst, usage, keep=asked)
                        answered = model or answered
                    if burst:
                        yield burst
        finally:
            self._settle_stream(call, reservation, name, answered, usage, seen, body)

    async def _reserve(self, call: Call, body: Wire) -> Reservation | None:
        def amounts() -> Amounts:
            name = body.get("model") or ""
            prompt = prompt_most(body, self._bytes_per_token)
            context = self._context.get(name)
            answer = int(body.get("max_tokens") or context or _UNASKED_TOKENS)
            if context is not None:
                answer = min(answer, context)
                prompt = min(prompt, context)
                # Both share the context; the answer, being the dearer, is taken whole.
                prompt = min(prompt, max(0, context - answer)) if answer < context else prompt
                tokens = min(prompt + answer, context)
            else:
                tokens = prompt + answer
            price = self._prices.highest(name)
            return {"tokens": tokens, "cost": price.cost(prompt, answer)}

        return await self._meter.reserve(call, amounts)

    def _settle_stream(
        self,
        call: Call,
        reservation: Reservation | None,
        name: str,
        answered: str,
        usage: Wire,
        seen: int,
        body: Wire,
    ) -> None:
        if usage:
            self._settle(call, reservation, name, answered, *_tokens(usage))
        elif seen:
            # Cut short: the first chunk is the role's.
            self._settle(call, reservation, name, answered, self._guess(body), max(0, seen - 1))
        else:
            self._settle(call, reservation, name, answered, 0, 0)

    def _settle(
        self,
        call: Call,
        reservation: Reservation | None,
        name: str,
        answered: str,
        prompt: int,
        completion: int,
    ) -> None:
        cost = self._prices.of(answered, name).cost(prompt, completion)
        model = answered if answered in self._context else name
        self._meter.settle(call, reservation, model[:200], Usage(prompt, completion, cost))
        if cost:
            metrics.SPENT.labels(metrics.bounded("model", model)).inc(cost / 1e6)
        if self._note_cost is not None:
            self._note_cost(cost, prompt_tokens=prompt, completion_tokens=completion)

    def _guess(self, body: Wire) -> int:
        """Tokens of a prompt that nobody counted: text has about four bytes to a token."""
        return prompt_most(body, 4.0)

    def _made(self, name: str, body: Wire, seconds: float) -> int:
        most = int(body.get("max_tokens") or _UNASKED_TOKENS)
        return min(most, round(seconds * self._pace.get(name, 0.0)))

    def _learn_pace(self, model: str, usage: Wire, seconds: float) -> None:
        tokens = usage.get("completion_tokens") or 0
        if tokens and seconds > 0 and not usage.get("cached"):
            before = self._pace.get(model, tokens / seconds)
            self._pace[model] = before + _PACE_SHARE * (tokens / seconds - before)


def _asked(
    ask: Callable[..., AsyncIterator[Any]], body: Wire, timeout_s: float, trace: str | None
) -> Any:
    return ask(body, timeout_s=timeout_s, traceparent=trace)


def _counted(body: Wire) -> Wire:
    """The same request, its usage asked for."""
    options = body.get("stream_options") or {}
    if options.get("include_usage"):
        return body
    return body | {"stream": True, "stream_options": options | {"include_usage": True}}


def _tokens(usage: Wire) -> tuple[int, int]:
    if usage.get("cached"):
        return 0, 0
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def _read_usage(burst: bytes, before: Wire, *, keep: bool) -> tuple[bytes, Wire, str]:
    """The burst (without the frame that holds nothing but the usage, unless ``keep``), the usage,
    and the model that the frame names."""
    frames, usage, model = [], before, ""
    for frame in burst.split(b"\n\n"):
        if _USAGE in frame and frame.startswith(b"data: {"):
            try:
                chunk = orjson.loads(frame[6:])
            except orjson.JSONDecodeError:  # the reader will say so
                chunk = {}
            usage = chunk.get("usage") or usage
            model = chunk.get("model") or model
            if not keep and chunk and not chunk.get("choices"):
                continue
        frames.append(frame)
    return b"\n\n".join(frames), usage, model
