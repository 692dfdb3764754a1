"""The LLM service on Ray Serve: one replica is one engine, spoken to over Serve handles.

Methods take and give OpenAI's wire objects. Streams travel as bursts (``mesh.llm.pacing``); for
HTTP there are ready SSE frames, so that no process between engine and client parses a token.
Both deployments are one Serve application without a route: the gateway is the only edge.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson
from ray import serve
from ray.serve import Application

from actors.names import EMBEDDER_DEPLOYMENT, LLM_APP, LLM_DEPLOYMENT
from mesh.core.genai import Operation, model_server_span, note_answer
from mesh.core.metrics import EMBEDDED_TEXTS
from mesh.core.settings import (
    SETTINGS_VARIABLE,
    LLMSettings,
    ObservabilitySettings,
    Settings,
    settings_from_json,
)
from mesh.core.tracing import configure_tracing
from mesh.llm.engine import Engine, RawEngine, Wire
from mesh.llm.pacing import paced, sse_frames
from serve_apps import loopback
from serve_apps.llm.engines import build_embedder, build_engine
from serve_apps.llm.measures import Measures

loopback.apply()  # replicas import this module before Serve opens their server

__all__ = ["LLM_APP", "Embedder", "LLMService", "build_llm_app"]


class LLMService:
    """The deployment ``LLM``. Errors are those of ``mesh.llm.engine.Engine``."""

    def __init__(
        self,
        llm: LLMSettings,
        store: str,
        observability: ObservabilitySettings,
        embedder: Any = None,
    ) -> None:
        """``embedder``: handle of the other deployment; it is here so that both are one app."""
        configure_tracing("maily-llm", observability.otlp_endpoint, observability.trace_ratio)
        self._engine: Engine = build_engine(_with_secrets(llm), Path(store))
        self._measures = Measures(llm.model, self._engine)
        self._embedder = embedder

    async def stream_chat(
        self, body: Wire, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[list[Wire]]:
        """Lists of ``chat.completion.chunk``: the first at once, later ones together."""
        async with aclosing(self._bursts(body, True, timeout_s, traceparent)) as bursts:
            async for burst in bursts:
                yield [orjson.loads(chunk) for chunk in burst]

    async def stream_chat_encoded(
        self, body: Wire, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        """The same as bytes: whole ``data: {…}`` frames, without the closing ``[DONE]``."""
        async with aclosing(self._bursts(body, True, timeout_s, traceparent)) as bursts:
            async for burst in bursts:
                yield sse_frames(burst)

    async def stream_completion(
        self, body: Wire, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[list[Wire]]:
        async with aclosing(self._bursts(body, False, timeout_s, traceparent)) as bursts:
            async for burst in bursts:
                yield [orjson.loads(chunk) for chunk in burst]

    async def stream_completion_encoded(
        self, body: Wire, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        async with aclosing(self._bursts(body, False, timeout_s, traceparent)) as bursts:
            async for burst in bursts:
                yield sse_frames(burst)

    async def chat(self, body: Wire, timeout_s: float, traceparent: str | None = None) -> Wire:
        with (
            model_server_span("chat", body, self._engine.info.name, traceparent) as current,
            self._measures.request("chat") as m,
        ):
            answer = await self._engine.chat(body, timeout_s=timeout_s)
            m.usage(answer.get("usage"))
            note_answer(current, answer)
            return answer

    async def complete(self, body: Wire, timeout_s: float, traceparent: str | None = None) -> Wire:
        with (
            model_server_span(
                "text_completion", body, self._engine.info.name, traceparent
            ) as current,
            self._measures.request("text_completion") as m,
        ):
            answer = await self._engine.complete(body, timeout_s=timeout_s)
            m.usage(answer.get("usage"))
            note_answer(current, answer)
            return answer

    async def info(self) -> dict[str, Any]:
        """Of the engine: name, models, context_tokens, slots, embedding_dimensions; and pid."""
        info = self._engine.info
        return {
            "name": info.name,
            "models": list(info.models),
            "context_tokens": info.context_tokens,
            "slots": info.slots,
            "embedding_dimensions": info.embedding_dimensions,
            "pid": os.getpid(),
            "created": self._measures.started_at,
        }

    async def statistics(self) -> dict[str, int | float]:
        return self._engine.statistics()

    async def check_health(self) -> None:
        await self._engine.check()
        self._measures.refresh()

    async def __del__(self) -> None:
        await self._engine.aclose()

    async def _bursts(
        self, body: Wire, chat: bool, timeout_s: float, traceparent: str | None
    ) -> AsyncGenerator[list[bytes], None]:
        operation: Operation = "chat" if chat else "text_completion"
        with (
            model_server_span(operation, body, self._engine.info.name, traceparent) as current,
            self._measures.request(operation) as m,
        ):
            raw = raw_bursts(self._engine, body | {"stream": True}, chat, timeout_s)
            async with aclosing(raw), aclosing(paced(raw)) as bursts:
                async for burst in bursts:
                    m.burst(burst)
                    yield burst
            note_answer(current, m.answer(), ttft_s=m.ttft_s)


async def raw_bursts(
    engine: Engine, body: Wire, chat: bool, timeout_s: float
) -> AsyncGenerator[list[bytes], None]:
    """JSON chunks in bursts, from any engine: llama.cpp has them as bytes already."""
    if isinstance(engine, RawEngine):
        async with aclosing(engine.stream_raw(body, chat=chat, timeout_s=timeout_s)) as raw:
            async for burst in raw:
                yield burst
        return
    stream = engine.stream_chat if chat else engine.stream_completion
    chunks: Any = stream(body, timeout_s=timeout_s)
    async with aclosing(chunks):
        async for chunk in chunks:
            yield [orjson.dumps(chunk)]


class Embedder:
    """The deployment ``Embedder``: sentence-transformers, batched across callers."""

    def __init__(self, llm: LLMSettings, store: str, observability: ObservabilitySettings) -> None:
        configure_tracing("maily-embedder", observability.otlp_endpoint, observability.trace_ratio)
        self._embedder = build_embedder(llm, Path(store))
        self._model = llm.embedding_model

    async def embed(self, texts: list[str], timeout_s: float) -> list[list[float]]:
        """Vectors of unit length, in the order of ``texts``."""
        vectors = await self._embedder.embed(texts, timeout_s=timeout_s)
        EMBEDDED_TEXTS.labels(self._model).inc(len(texts))
        return vectors

    async def info(self) -> dict[str, Any]:
        return {"model": self._model, "dimensions": self._embedder.dimensions, "pid": os.getpid()}

    async def statistics(self) -> dict[str, int | float]:
        return self._embedder.statistics()

    async def check_health(self) -> None:
        await self._embedder.check()


def build_llm_app(settings: Settings) -> Application:
    """The application for ``serve.run(app, name=LLM_APP, route_prefix=None)``."""
    llm = settings.llm.model_copy(update={"remote_api_key": None})
    store = str(settings.store_directory)
    room = llm.slots + llm.queue_limit
    embedder = serve.deployment(Embedder, name=EMBEDDER_DEPLOYMENT).options(
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=256,
        max_queued_requests=256,
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    service = serve.deployment(LLMService, name=LLM_DEPLOYMENT).options(
        num_replicas=llm.replicas,
        ray_actor_options={"num_cpus": 0},
        # more than the engine admits, so that it is the engine who refuses, at once
        max_ongoing_requests=room + 16,
        max_queued_requests=room,
        health_check_period_s=1,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=10,
    )
    return service.bind(
        llm, store, settings.observability, embedder.bind(llm, store, settings.observability)
    )


def _with_secrets(llm: LLMSettings) -> LLMSettings:
    """Secrets come by the process's environment: Serve keeps a deployment's arguments."""
    text = os.environ.get(SETTINGS_VARIABLE)
    if llm.engine != "openai" or text is None:
        return llm
    key = settings_from_json(text).llm.remote_api_key
    return llm.model_copy(update={"remote_api_key": key})
