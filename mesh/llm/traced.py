"""A layer of the model stack around its router: one client span per call, of which the engine's
own spans are children. A trace that nobody samples costs one look."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import orjson
from opentelemetry.trace import Span, SpanKind

from mesh.core.genai import Operation, model_span_name, note_answer, request_attributes
from mesh.core.tracing import current_traceparent, fail_span, start_span, traceparent_of
from mesh.llm.client import ModelClient
from mesh.llm.engine import Wire

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
_SAMPLED = "01"
_TAIL = 8_192
"""Bytes at the end of a relayed stream in which its usage is looked for."""


class TracedClient:
    """Speaks ModelClient; so does what it wraps."""

    def __init__(self, inner: ModelClient) -> None:
        self._inner = inner

    def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        return self._stream(self._inner.stream_chat, "chat", body, timeout_s, traceparent, _Wires)

    def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        return self._stream(
            self._inner.stream_completion, "text_completion", body, timeout_s, traceparent, _Wires
        )

    def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        return self._stream(
            self._inner.stream_chat_encoded, "chat", body, timeout_s, traceparent, _Frames
        )

    def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        return self._stream(
            self._inner.stream_completion_encoded,
            "text_completion",
            body,
            timeout_s,
            traceparent,
            _Frames,
        )

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        return await self._call(self._inner.chat, "chat", body, timeout_s, traceparent)

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire:
        return await self._call(
            self._inner.complete, "text_completion", body, timeout_s, traceparent
        )

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        parent = current_traceparent()
        if not _sampled(parent):
            return await self._inner.embed(texts, timeout_s=timeout_s)
        current = _open("embeddings", {"model": "embed"}, parent)
        current.set_attribute("maily.embeddings.texts", len(texts))
        try:
            vectors = await self._inner.embed(texts, timeout_s=timeout_s)
            if vectors:
                current.set_attribute("gen_ai.embeddings.dimension.count", len(vectors[0]))
            return vectors
        except Exception as error:
            fail_span(current, error)
            raise
        finally:
            current.end()

    def __getattr__(self, name: str) -> Any:
        """What else a process asks of its models (``info``, ``statistics`` …)."""
        return getattr(self._inner, name)

    async def _call(
        self,
        ask: Callable[..., Any],
        operation: Operation,
        body: Wire,
        timeout_s: float,
        traceparent: str | None,
    ) -> Wire:
        parent = traceparent or current_traceparent()
        if not _sampled(parent):
            plain: Wire = await ask(body, timeout_s=timeout_s, traceparent=traceparent)
            return plain
        current = _open(operation, body, parent)
        try:
            answer: Wire = await ask(body, timeout_s=timeout_s, traceparent=traceparent_of(current))
            note_answer(current, answer)
            return answer
        except Exception as error:
            fail_span(current, error)
            raise
        finally:
            current.end()

    def _stream(
        self,
        ask: Callable[..., AsyncIterator[S]],
        operation: Operation,
        body: Wire,
        timeout_s: float,
        traceparent: str | None,
        notes: Callable[[], _Notes[S]],
    ) -> AsyncIterator[S]:
        parent = traceparent or current_traceparent()
        if not _sampled(parent):
            return ask(body, timeout_s=timeout_s, traceparent=traceparent)
        current = _open(operation, body | {"stream": True}, parent)
        inner = ask(body, timeout_s=timeout_s, traceparent=traceparent_of(current))
        return _followed(inner, current, notes())


async def _followed(
    inner: AsyncIterator[S], current: Span, notes: _Notes[S]
) -> AsyncGenerator[S, None]:
    started = time.monotonic()
    first: float | None = None
    try:
        async with closing(inner) as items:
            async for item in items:
                if first is None:
                    first = time.monotonic() - started
                notes.see(item)
                yield item
    except Exception as error:
        fail_span(current, error)
        raise
    finally:
        answer, reasons = notes.answer()
        note_answer(current, answer, finish_reasons=reasons, ttft_s=first)
        current.end()


class _Notes(Protocol[S_contra]):
    def see(self, item: S_contra) -> None: ...

    def answer(self) -> tuple[dict[str, Any], tuple[str, ...]]: ...


@asynccontextmanager
async def closing(inner: AsyncIterator[S]) -> AsyncIterator[AsyncIterator[S]]:
    """Close the iterator whatever happens: that frees the engine's slot."""
    try:
        yield inner
    finally:
        close = getattr(inner, "aclose", None)
        if close is not None:
            await close()


class _Wires:
    """What a stream of chunks says of itself."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] = {}
        self._reasons: list[str] = []

    def see(self, item: Wire) -> None:
        for name in ("id", "model", "usage"):
            if item.get(name):
                self._answer[name] = item[name]
        for choice in item.get("choices") or ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self._reasons.append(str(choice["finish_reason"]))

    def answer(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        return self._answer, tuple(self._reasons)


class _Frames:
    """The same of ready frames: only the last bytes are kept, and read once at the end."""

    def __init__(self) -> None:
        self._tail = b""

    def see(self, item: bytes) -> None:
        self._tail = (self._tail + item)[-_TAIL:]

    def answer(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        notes = _Wires()
        for frame in self._tail.split(b"\n\n"):
            _, marker, data = frame.partition(b"data: ")
            try:
                chunk = orjson.loads(data) if marker else None
            except orjson.JSONDecodeError:
                continue  # the first may be cut off, the last is [DONE]
            if isinstance(chunk, dict):
                notes.see(chunk)
        return notes.answer()


def _open(operation: Operation, body: Wire, parent: str | None) -> Span:
    return start_span(
        model_span_name(operation, body),
        parent,
        kind=SpanKind.CLIENT,
        attributes=request_attributes(operation, body),
    )


def _sampled(traceparent: str | None) -> bool:
    return traceparent is not None and traceparent.endswith(_SAMPLED)
