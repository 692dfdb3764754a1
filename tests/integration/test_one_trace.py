"""One OpenTelemetry trace from a caller's header through gateway, worker and engine, named by the
GenAI conventions; and what an OTLP collector receives of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from actors_support import CLOCK, STEPS, EchoRunner
from gateway_support import House, build_house
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from actors.task_run import RunOptions, RunParts, TaskRun
from mesh.agents.ledger import collecting, note_call
from mesh.contracts.tasks import TaskState
from mesh.core.genai import agent_span, retrieval_span, tool_span
from mesh.core.settings import ObservabilitySettings
from mesh.core.settings_llm import EngineSettings
from mesh.core.tracing import configure_tracing, current_traceparent, shutdown_tracing, span
from mesh.llm.engine import Wire
from mesh.llm.routing import RoutedClient, Target
from mesh.llm.traced import TracedClient
from mesh.storage.pool import Database
from serve_apps.llm import deployment
from serve_apps.llm.deployment import LLMService

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'c' * 32}-{'b' * 16}-00"
SECRET_WORD = "xylophone"


class Unserved(LLMService):
    def __del__(self) -> None:  # type: ignore[override]
        """Serve awaits the deployment's own; here is nobody who would."""


class Metered(TracedClient):
    """Asks for the usage, as the layer that meters does."""

    def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        body = body | {"stream_options": {"include_usage": True}}
        return super().stream_chat(body, timeout_s=timeout_s, traceparent=traceparent)


class Hop:
    """The engine's deployment as a backend: what travels is what would travel over Serve."""

    def __init__(self, service: LLMService) -> None:
        self.service = service

    async def frames(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> AsyncGenerator[bytes | str, None]:
        # Another process knows of this one's context only what is handed over.
        frames = self.service.frames(body, timeout_s, traceparent, chat, avoid)
        async with aclosing(frames) as items:
            async for item in items:
                yield item

    async def answer(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> Wire:
        return await self.service.answer(body, timeout_s, traceparent, chat, avoid)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    configure_tracing("test", exporter=exporter)
    yield exporter
    configure_tracing("test")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> TracedClient:
    """The whole stack of a process over a fake engine's deployment."""
    monkeypatch.setattr(deployment, "configure_tracing", lambda *_: None)
    monkeypatch.setattr(deployment, "replica_name", lambda: "replica-1")
    engine = EngineSettings(kind="fake", model="fake")
    service = Unserved("default", engine, str(Path()), ObservabilitySettings())
    target = Target("default", Hop(service), "fake")

    async def embed(texts: Any, *, timeout_s: float) -> list[list[float]]:
        return [[0.0] * 3 for _ in texts]

    router = RoutedClient(
        {"fake": (target,)}, default="fake", embed=embed, note=note_call, noting=collecting
    )
    return Metered(router)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


async def run_one(house: House, models: TracedClient, traceparent: str) -> UUID:
    async with house.client() as client:
        made = await client.post(
            "/v1/mesh/tasks",
            json={"brief": {"goal": f"Sell a {SECRET_WORD}"}},
            headers={"traceparent": traceparent},
        )
    assert made.status_code == 202, made.text
    task = UUID(made.json()["id"])
    row = await house.tasks.claim(task, "worker-1", 60)
    assert row is not None
    parts = RunParts(
        "worker-1", house.tasks, house.streams, models, EchoRunner(), CLOCK, RunOptions()
    )
    await TaskRun(row, parts, CLOCK.monotonic() + 60).run()
    assert (await house.tasks.get(task, row.workspace_id)).state is TaskState.SUCCEEDED
    return task


def by_name(found: tuple[ReadableSpan, ...], name: str) -> list[ReadableSpan]:
    return [one for one in found if one.name == name]


def parent_of(found: tuple[ReadableSpan, ...], child: ReadableSpan) -> ReadableSpan | None:
    wanted = child.parent.span_id if child.parent else None
    return next((one for one in found if one.context and one.context.span_id == wanted), None)


async def test_one_trace_from_the_caller_to_the_engine(
    house: House, models: TracedClient, spans: InMemorySpanExporter
) -> None:
    task = await run_one(house, models, PARENT)
    found = spans.get_finished_spans()
    assert {f"{one.context.trace_id:032x}" for one in found if one.context} == {"a" * 32}
    engines = [s for s in by_name(found, "chat fake") if s.kind is SpanKind.SERVER]
    assert len(engines) == len(STEPS)
    for engine in engines:
        names = []
        current: ReadableSpan | None = engine
        while current is not None:
            names.append((current.name, current.kind))
            current = parent_of(found, current)
        assert names == [
            ("chat fake", SpanKind.SERVER),
            ("chat fake", SpanKind.CLIENT),
            ("invoke_agent echo", SpanKind.INTERNAL),
            ("invoke_workflow write_email", SpanKind.CONSUMER),
            ("POST /v1/mesh/tasks", SpanKind.SERVER),
        ]
    root = by_name(found, "POST /v1/mesh/tasks")[0]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "b" * 16
    client = next(s for s in by_name(found, "chat fake") if s.kind is SpanKind.CLIENT)
    values = dict(client.attributes or {})
    assert values["gen_ai.operation.name"] == "chat"
    assert values["gen_ai.request.model"] == "fake"
    assert values["gen_ai.response.model"] == "fake"
    assert values["gen_ai.request.stream"] is True
    assert int(str(values["gen_ai.usage.output_tokens"])) > 0
    assert int(str(values["gen_ai.usage.input_tokens"])) > 0
    assert values["gen_ai.response.finish_reasons"]
    assert float(str(values["gen_ai.response.time_to_first_chunk"])) >= 0
    agent = dict(by_name(found, "invoke_agent echo")[0].attributes or {})
    assert agent["gen_ai.operation.name"] == "invoke_agent"
    assert agent["gen_ai.agent.name"] == "echo"
    assert agent["gen_ai.conversation.id"] == str(task)
    workflow = dict(by_name(found, "invoke_workflow write_email")[0].attributes or {})
    assert workflow["maily.worker"] == "worker-1"
    told = "".join(one.to_json() for one in found)
    assert SECRET_WORD not in told, "what was asked is personal data"
    async with house.client() as user:
        trace = (await user.get(f"/v1/mesh/tasks/{task}/trace")).json()
    assert trace["trace_id"] == "a" * 32
    assert trace["totals"]["calls"] == len(STEPS)
    assert trace["totals"]["completion_tokens"] > 0


async def test_an_unsampled_trace_makes_no_span_and_the_task_is_explained_all_the_same(
    house: House, models: TracedClient, spans: InMemorySpanExporter
) -> None:
    task = await run_one(house, models, UNSAMPLED)
    assert spans.get_finished_spans() == ()
    async with house.client() as user:
        trace = (await user.get(f"/v1/mesh/tasks/{task}/trace")).json()
    assert trace["trace_id"] == "c" * 32
    (call,) = trace["attempts"][0]["steps"][0]["calls"]
    assert (call["engine"], call["model"], call["outcome"]) == ("default", "fake", "ok")


async def test_every_way_to_ask_a_model_has_its_span(
    models: TracedClient, spans: InMemorySpanExporter
) -> None:
    chat = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    text = {"model": "fake", "prompt": "hi", "max_tokens": 5}
    with span("root", PARENT):
        await models.chat(chat, timeout_s=5)
        await models.complete(text, timeout_s=5)
        await models.embed(["a", "b"], timeout_s=5)
        usage = {"stream_options": {"include_usage": True}}
        for stream in (
            models.stream_chat(chat | usage, timeout_s=5),
            models.stream_completion(text | usage, timeout_s=5),
            models.stream_chat_encoded(chat | usage, timeout_s=5),
            models.stream_completion_encoded(text | usage, timeout_s=5),
        ):
            assert [item async for item in stream]
        left = models.stream_chat(chat, timeout_s=5)
        async with aclosing(left) as items:  # type: ignore[type-var]
            async for _ in items:
                break
    clients = [s for s in spans.get_finished_spans() if s.kind is SpanKind.CLIENT]
    operations = sorted(str((s.attributes or {})["gen_ai.operation.name"]) for s in clients)
    assert operations == ["chat"] * 4 + ["embeddings"] + ["text_completion"] * 3
    whole = [s for s in clients if "gen_ai.usage.output_tokens" in (s.attributes or {})]
    assert len(whole) >= 6, "also of relayed bytes, whose usage comes last"
    tokens = {(s.attributes or {}).get("gen_ai.request.max_tokens") for s in clients}
    assert tokens == {5, None}


async def test_a_failure_is_told_by_our_code(
    models: TracedClient, spans: InMemorySpanExporter
) -> None:
    with span("root", PARENT), pytest.raises(Exception, match="model"):
        await models.chat({"model": "nobody", "messages": []}, timeout_s=5)
    (client,) = [s for s in spans.get_finished_spans() if s.kind is SpanKind.CLIENT]
    assert (client.attributes or {})["error.type"] == "unknown_model"


def test_tools_and_memories_have_their_names(spans: InMemorySpanExporter) -> None:
    with (
        agent_span("writer", "body", "t", **{"gen_ai.agent.version": "v2"}),
        tool_span("search", kind="datastore", call_id="7"),
        retrieval_span("memory"),
    ):
        pass
    retrieval, tool, agent = spans.get_finished_spans()
    assert (agent.name, tool.name, retrieval.name) == (
        "invoke_agent writer", "execute_tool search", "retrieval memory",
    )  # fmt: skip
    assert (tool.attributes or {})["gen_ai.tool.type"] == "datastore"
    assert (retrieval.attributes or {})["gen_ai.operation.name"] == "retrieval"


class Collector(BaseHTTPRequestHandler):
    received: list[ExportTraceServiceRequest] = []  # noqa: RUF012
    refuse = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        if self.path == "/v1/traces" and not self.refuse:
            self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(503 if self.refuse else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[str]:
    Collector.received.clear()
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


async def test_a_collector_receives_what_was_sampled(collector: str) -> None:
    configure_tracing("maily-test", collector)
    try:
        with span("outer", PARENT, kind=SpanKind.SERVER):
            header = current_traceparent()
            with agent_span("writer", "body", "t"):
                pass
        with span("unsampled", UNSAMPLED):
            pass
        await asyncio.to_thread(shutdown_tracing)
    finally:
        configure_tracing("test")
    resources = [r for request in Collector.received for r in request.resource_spans]
    names = {a.value.string_value for r in resources for a in r.resource.attributes}
    assert "maily-test" in names
    found = [s for r in resources for scope in r.scope_spans for s in scope.spans]
    assert sorted(s.name for s in found) == ["invoke_agent writer", "outer"]
    assert {s.trace_id.hex() for s in found} == {"a" * 32}
    assert header is not None
    assert header.startswith(f"00-{'a' * 32}-")
