"""Traces that follow a request through processes (OpenTelemetry, W3C Trace Context).

Every span has real ids even when nothing is exported, so that a log line, an error body and a
caller's ``traceparent`` always name the same trace. Without an OTLP endpoint new traces are
started unsampled: ids flow and cost next to nothing. Export is a bounded batch in a thread of
its own: a collector that is slow or away drops spans, never requests.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)

from mesh.core.errors import MailyError

_TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$")


class _State:
    """The process's provider. Ours alone: OpenTelemetry's global may be set only once."""

    def __init__(self) -> None:
        self.provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
        self.tracer = self.provider.get_tracer("maily")


_state = _State()


def _drop_detach(record: logging.LogRecord) -> bool:
    """A span inside an async generator may end in another task's context than it began in;
    OpenTelemetry logs that as an error although nothing is lost. We let it pass in silence."""
    return "Failed to detach context" not in record.getMessage()


logging.getLogger("opentelemetry.context").addFilter(_drop_detach)


def configure_tracing(
    service: str,
    otlp_endpoint: str | None = None,
    ratio: float = 1.0,
    exporter: SpanExporter | None = None,
) -> None:
    """Set the process up. ``otlp_endpoint``: base URL of an OTLP/HTTP collector, or None.

    ``ratio``: share of new traces that are exported, 0 to 1; a caller's ``traceparent`` decides
    for its own. ``exporter``: another exporter, synchronously (tests). Calling again replaces
    the earlier set-up and flushes it.
    """
    exports = otlp_endpoint is not None or exporter is not None
    sampler: Sampler = ParentBased(TraceIdRatioBased(ratio) if exports else ALWAYS_OFF)
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=sampler,
        shutdown_on_exit=exports,
    )
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    elif otlp_endpoint is not None:
        # Imported here: it pulls in an HTTP client that most processes never need.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        base = otlp_endpoint.rstrip("/")
        url = base if base.endswith("/v1/traces") else f"{base}/v1/traces"
        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=5), max_queue_size=4_096)
        )
    old = _state.provider
    _state.provider = provider
    _state.tracer = provider.get_tracer("maily")
    old.shutdown()


def shutdown_tracing() -> None:
    """Flush what is queued (blocks up to 5 s: call it from a thread or at the very end)."""
    _state.provider.force_flush(5_000)
    _state.provider.shutdown()


def parse_traceparent(text: str | None) -> SpanContext | None:
    """The caller's span, or None where the header is missing or malformed (W3C §3.2.2)."""
    match = _TRACEPARENT.match(text.strip()) if text else None
    if match is None or match[1] == "ff" or (match[1] == "00" and len(match[0]) != 55):
        return None
    context = SpanContext(
        int(match[2], 16), int(match[3], 16), True, TraceFlags(int(match[4], 16) & 1)
    )
    return context if context.is_valid else None


@contextmanager
def span(
    name: str,
    traceparent: str | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    **attrs: Any,
) -> Iterator[Span]:
    """A span around the block; a child of ``traceparent`` if valid, else of the current one.

    An exception marks it as failed and goes on. Attributes (``attributes`` for those whose names
    have dots) whose value is None are left out.
    """
    current, base = _start(name, traceparent, kind, {**(attributes or {}), **attrs})
    token = otel_context.attach(trace.set_span_in_context(current, base))
    try:
        yield current
    except Exception as error:
        fail_span(current, error)
        raise
    finally:
        otel_context.detach(token)
        current.end()


def start_span(
    name: str,
    traceparent: str | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
) -> Span:
    """The same, but never the current one: for work that runs in an async generator, whose
    context is whoever's asks for the next item. The caller ends it."""
    return _start(name, traceparent, kind, attributes or {})[0]


def fail_span(current: Span, error: BaseException) -> None:
    """Mark it as failed: ``error.type`` is our code where the error is ours."""
    if current.is_recording():
        text = error.code if isinstance(error, MailyError) else type(error).__name__
        current.set_status(StatusCode.ERROR, text)
        current.set_attribute("error.type", text)
        current.record_exception(error)


def _start(
    name: str, traceparent: str | None, kind: SpanKind, attributes: Mapping[str, Any]
) -> tuple[Span, Context | None]:
    parent = parse_traceparent(traceparent)
    base = trace.set_span_in_context(NonRecordingSpan(parent)) if parent else None
    known = {key: value for key, value in attributes.items() if value is not None}
    return _state.tracer.start_span(name, context=base, kind=kind, attributes=known), base


def _context() -> SpanContext | None:
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def current_trace_id() -> str | None:
    """32 hex digits, or None outside any span."""
    context = _context()
    return f"{context.trace_id:032x}" if context else None


def current_traceparent() -> str | None:
    """The header to send on (``00-<trace>-<span>-<flags>``), or None outside any span."""
    context = _context()
    return None if context is None else _traceparent(context)


def traceparent_of(current: Span) -> str | None:
    """The header that makes what comes next a child of this span."""
    context = current.get_span_context()
    return _traceparent(context) if context.is_valid else None


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}"
