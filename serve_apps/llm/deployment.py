"""The LLM service on Ray Serve: one replica is one engine, spoken to over Serve handles.

Methods take and give OpenAI's wire objects. Streams travel as bursts (``mesh.llm.pacing``) of
ready SSE frames, so that no process between engine and client parses a token. Each engine of the
settings is a deployment, all in one Serve application without a route (vLLM's have their own):
the gateway is the only edge.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from actors.names import EMBEDDER_DEPLOYMENT, LLM_APP, engine_app, engine_deployment
from mesh.core.errors import InvalidInput
from mesh.core.genai import Operation, model_server_span, note_answer
from mesh.core.metrics import EMBEDDED_TEXTS
from mesh.core.settings import (
    SETTINGS_VARIABLE,
    EngineSettings,
    LLMSettings,
    ObservabilitySettings,
    Settings,
    settings_from_json,
)
from mesh.core.tracing import configure_tracing
from mesh.llm.engine import Engine, Wire
from mesh.llm.fake import FakeEngine
from mesh.llm.faults import FaultPlan
from mesh.llm.pacing import announced, paced, sse_frames
from mesh.llm.routing.target import taken_by
from serve_apps import loopback
from serve_apps.llm.engines import build_embedder, build_engine
from serve_apps.llm.measures import Measures
from serve_apps.llm.place import ModelPlaces
from serve_apps.llm.socket import EngineSocket

loopback.apply()  # replicas import this module before Serve opens their server

__all__ = ["LLM_APP", "Embedder", "LLMService", "build_llm_app"]

ROUTER = "actors.replica_router.EngineReplicaRouter"
"""Imported by the callers' processes, which choose the replica."""


class LLMService:
    """The deployment of one engine. Errors are those of ``mesh.llm.engine.Engine``."""

    def __init__(
        self,
        name: str,
        engine: EngineSettings,
        store: str,
        observability: ObservabilitySettings,
    ) -> None:
        built = build_engine(_with_secrets(name, engine), Path(store))
        self.hold(name, built, observability)

    def hold(self, name: str, engine: Engine, observability: ObservabilitySettings) -> None:
        """All that a replica has beside its engine; for classes that make theirs otherwise."""
        configure_tracing("maily-llm", observability.otlp_endpoint, observability.trace_ratio)
        self._engine = engine
        self._measures = Measures(engine.info.models[0], engine)
        self._places = ModelPlaces(engine.info.models)
        self._socket = EngineSocket(name, self)

    async def frames(
        self,
        body: Wire,
        timeout_s: float,
        traceparent: str | None,
        chat: bool,
        avoid: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """See ``mesh.llm.routing.Backend``: whole ``data: {…}`` frames, the first at once, later
        ones together, begun by this replica's name. ``avoid`` is for whoever chose the replica."""
        operation: Operation = "chat" if chat else "text_completion"
        with (
            model_server_span(operation, body, self._engine.info.name, traceparent) as current,
            self._measures.request(operation) as measured,
        ):
            raw = self._engine.stream_raw(body | {"stream": True}, chat=chat, timeout_s=timeout_s)
            async with (
                aclosing(raw),
                aclosing(paced(raw)) as bursts,
                aclosing(announced(bursts, taken_by(replica_name()))) as items,
            ):
                async for item in items:
                    if isinstance(item, bytes):
                        yield item
                    else:
                        head, burst = item
                        measured.burst(burst)
                        yield head + sse_frames(burst)
            note_answer(current, measured.answer(), ttft_s=measured.ttft_s)

    async def answer(
        self,
        body: Wire,
        timeout_s: float,
        traceparent: str | None,
        chat: bool,
        avoid: str | None = None,
    ) -> Wire:
        """A whole ``chat.completion`` or ``text_completion``."""
        ask = self._engine.chat if chat else self._engine.complete
        operation: Operation = "chat" if chat else "text_completion"
        with (
            model_server_span(operation, body, self._engine.info.name, traceparent) as current,
            self._measures.request(operation) as measured,
        ):
            answer = await ask(body, timeout_s=timeout_s)
            measured.usage(answer.get("usage"))
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
            "replica": replica_name(),
            "created": self._measures.started_at,
        }

    async def statistics(self) -> dict[str, int | float]:
        return self._engine.statistics()

    async def set_faults(self, faults: dict[str, Any]) -> None:
        """From now on this goes wrong. Raises InvalidInput, also where the engine is no fake."""
        if not isinstance(self._engine, FakeEngine):
            raise InvalidInput("only a fake engine fails by plan", {"field": "engine"})
        self._engine.faults = FaultPlan.of(faults)

    async def check_health(self) -> None:
        """A fake that is down by plan is down for its callers alone, not for Serve."""
        if not isinstance(self._engine, FakeEngine):
            await self._engine.check()
        self._measures.refresh()
        self._places.keep()
        await self._socket.keep()

    async def __del__(self) -> None:
        await self._socket.aclose()
        await self._engine.aclose()


def replica_name() -> str:
    """Of the replica that this process is."""
    return str(serve.get_replica_context().replica_id.unique_id)


class Embedder:
    """The deployment ``Embedder``: sentence-transformers, batched across callers."""

    def __init__(
        self,
        llm: LLMSettings,
        store: str,
        observability: ObservabilitySettings,
        *engines: Any,
    ) -> None:
        """``engines``: handles of the app's other deployments: here they become one app."""
        self._engines = engines
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
    """The application for ``serve.run(app, name=LLM_APP, route_prefix=None)``: the embedder, and
    every engine that has no application of its own."""
    store, observability = str(settings.store_directory), settings.observability
    engines = [
        _deployment(name, engine).bind(name, _bare(engine), store, observability)
        for name, engine in settings.llm.engine_table().items()
        if engine_app(name, engine.kind) == LLM_APP
    ]
    embedder = serve.deployment(Embedder, name=EMBEDDER_DEPLOYMENT).options(
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=256,
        max_queued_requests=256,
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    llm = settings.llm.model_copy(update={"remote_api_key": None, "engines": {}})
    return embedder.bind(llm, store, observability, *engines)


def _deployment(name: str, engine: EngineSettings) -> Any:
    room = engine.slots + engine.queue_limit
    options: dict[str, Any] = {}
    if engine.replicas > 1:
        options["request_router_config"] = RequestRouterConfig(
            request_router_class=ROUTER,
            request_router_kwargs={"imbalance": max(1, engine.slots // 2)},
        )
    return serve.deployment(LLMService, name=engine_deployment(name)).options(
        num_replicas=engine.replicas,
        ray_actor_options={"num_cpus": 0},
        # more than the engine admits, so that it is the engine who refuses, at once
        max_ongoing_requests=room + 16,
        max_queued_requests=room,
        health_check_period_s=1,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=10,
        **options,
    )


def _bare(engine: EngineSettings) -> EngineSettings:
    return engine.model_copy(update={"remote_api_key": None})


def _with_secrets(name: str, engine: EngineSettings) -> EngineSettings:
    """Secrets come by the process's environment: Serve keeps a deployment's arguments."""
    text = os.environ.get(SETTINGS_VARIABLE)
    if engine.kind != "openai" or text is None:
        return engine
    key = settings_from_json(text).llm.engine_table()[name].remote_api_key
    return engine.model_copy(update={"remote_api_key": key})
