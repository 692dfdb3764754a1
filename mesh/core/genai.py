"""Spans of models, agents, tools and workflows by OpenTelemetry's GenAI conventions.

Names and attributes are those of the conventions v1.41 ("development" there): what a dashboard
made for any other GenAI application looks for, it finds here. Prompts, answers and tool arguments
are personal data and never put into a span.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from opentelemetry.trace import Span, SpanKind
from prometheus_client import Histogram

from mesh.core.errors import MailyError
from mesh.core.metrics import GENAI_AGENT_SECONDS, GENAI_TOOL_SECONDS, bounded
from mesh.core.tracing import span

Operation = Literal["chat", "text_completion", "embeddings"]
OPERATION = "gen_ai.operation.name"
_PROVIDERS = {"openai": "openai"}
_PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "frequency_penalty",
    "presence_penalty",
)


def provider(engine: str) -> str:
    """``gen_ai.provider.name`` of an engine's kind: ``llama.cpp`` → ``llama_cpp``."""
    return _PROVIDERS.get(engine, engine.replace(".", "_").replace("-", "_") or "maily")


def request_attributes(
    operation: Operation, body: Mapping[str, Any], engine: str = "", **more: Any
) -> dict[str, Any]:
    """Of a model's span, before it is asked. ``engine``: its kind; empty: not decided yet."""
    attributes: dict[str, Any] = {
        OPERATION: operation,
        "gen_ai.provider.name": provider(engine),
        "gen_ai.request.model": body.get("model"),
        "gen_ai.request.stream": True if body.get("stream") else None,
        "gen_ai.output.type": _output_type(body),
        **more,
    }
    for name in _PARAMETERS:
        attributes[f"gen_ai.request.{name}"] = body.get(name)
    return attributes


def model_span_name(operation: Operation, body: Mapping[str, Any]) -> str:
    model = body.get("model")
    return f"{operation} {model}" if model else operation


def note_answer(
    current: Span,
    answer: Mapping[str, Any],
    *,
    finish_reasons: tuple[str, ...] = (),
    ttft_s: float | None = None,
) -> None:
    """What came back: an OpenAI answer, or the chunk of a stream that holds model and usage."""
    if not current.is_recording():
        return
    usage = answer.get("usage") or {}
    reasons = finish_reasons or tuple(
        str(choice["finish_reason"])
        for choice in answer.get("choices") or ()
        if isinstance(choice, Mapping) and choice.get("finish_reason")
    )
    values = {
        "gen_ai.response.model": answer.get("model"),
        "gen_ai.response.id": answer.get("id"),
        "gen_ai.response.finish_reasons": reasons or None,
        "gen_ai.response.time_to_first_chunk": ttft_s,
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
    }
    for name, value in values.items():
        if value is not None:
            current.set_attribute(name, value)


@contextmanager
def model_server_span(
    operation: Operation, body: Mapping[str, Any], engine: str, traceparent: str | None
) -> Iterator[Span]:
    """Around an engine's own work for one request."""
    name = model_span_name(operation, body)
    attributes = request_attributes(operation, body, engine)
    with span(name, traceparent, kind=SpanKind.SERVER, attributes=attributes) as current:
        yield current


@contextmanager
def agent_span(agent: str, step: str, task_id: str, **more: Any) -> Iterator[Span]:
    """Around one step of a task."""
    attributes = {
        OPERATION: "invoke_agent",
        "gen_ai.provider.name": "maily",
        "gen_ai.agent.name": agent,
        "gen_ai.conversation.id": task_id,
        "maily.step": step,
        **more,
    }
    timer = _timed(GENAI_AGENT_SECONDS, bounded("agent", agent))
    with timer, span(f"invoke_agent {agent}", attributes=attributes) as current:
        yield current


@contextmanager
def workflow_span(
    name: str, task_id: str, traceparent: str | None = None, **more: Any
) -> Iterator[Span]:
    """Around one attempt of a task. ``traceparent``: of the request that asked for it."""
    attributes = {
        OPERATION: "invoke_workflow",
        "gen_ai.provider.name": "maily",
        "gen_ai.workflow.name": name,
        "gen_ai.conversation.id": task_id,
        **more,
    }
    with span(
        f"invoke_workflow {name}", traceparent, kind=SpanKind.CONSUMER, attributes=attributes
    ) as current:
        yield current


@contextmanager
def tool_span(tool: str, *, kind: str = "function", call_id: str | None = None) -> Iterator[Span]:
    """Around one use of a tool. ``kind``: function, extension or datastore."""
    attributes = {
        OPERATION: "execute_tool",
        "gen_ai.tool.name": tool,
        "gen_ai.tool.type": kind,
        "gen_ai.tool.call.id": call_id,
    }
    timer = _timed(GENAI_TOOL_SECONDS, bounded("tool", tool))
    with timer, span(f"execute_tool {tool}", attributes=attributes) as current:
        yield current


@contextmanager
def retrieval_span(source: str) -> Iterator[Span]:
    """Around one search of a memory. ``source``: which, never what was searched for."""
    attributes = {
        OPERATION: "retrieval",
        "gen_ai.provider.name": "maily",
        "gen_ai.data_source.id": source,
    }
    with span(f"retrieval {source}", kind=SpanKind.CLIENT, attributes=attributes) as current:
        yield current


@contextmanager
def _timed(histogram: Histogram, label: str) -> Iterator[None]:
    started = time.perf_counter()
    error = ""
    try:
        yield
    except BaseException as caught:
        error = caught.code if isinstance(caught, MailyError) else type(caught).__name__
        raise
    finally:
        histogram.labels(label, bounded("error_type", error)).observe(time.perf_counter() - started)


def _output_type(body: Mapping[str, Any]) -> str | None:
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind is None:
        return None
    return "json" if kind in ("json_object", "json_schema") else "text"
