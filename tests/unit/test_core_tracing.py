"""One trace from the caller's header to the innermost span."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.core.errors import Overloaded
from mesh.core.tracing import (
    configure_tracing,
    current_trace_id,
    current_traceparent,
    parse_traceparent,
    span,
)

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    configure_tracing("test", exporter=exporter)
    yield exporter
    configure_tracing("test")


def test_nothing_outside_a_span() -> None:
    assert current_trace_id() is None
    assert current_traceparent() is None


def test_ids_flow_without_an_exporter() -> None:
    configure_tracing("test")
    with span("outer", PARENT):
        assert current_trace_id() == PARENT[3:35]
        inner = current_traceparent()
        assert inner is not None
        assert inner[:36] == PARENT[:36]
        assert inner != PARENT
        assert inner.endswith("-01"), "the caller's decision to sample is kept"
    with span("root"):
        own = current_traceparent()
        assert own is not None
        assert own.endswith("-00"), "nobody collects, so nobody downstream need sample"
        assert current_trace_id() not in (None, "0" * 32, PARENT[3:35])


def test_children_nest_across_the_wire(spans: InMemorySpanExporter) -> None:
    with span("gateway", PARENT, route="/v1/models", absent=None):
        header = current_traceparent()
    with span("worker", header):
        pass
    gateway, worker = spans.get_finished_spans()
    assert gateway.context is not None
    assert worker.parent is not None
    assert worker.parent.span_id == gateway.context.span_id
    assert gateway.parent is not None
    assert f"{gateway.parent.span_id:016x}" == PARENT[36:52]
    assert dict(gateway.attributes or {}) == {"route": "/v1/models"}


def test_an_error_marks_the_span_and_goes_on(spans: InMemorySpanExporter) -> None:
    with pytest.raises(Overloaded), span("step"):
        raise Overloaded
    (finished,) = spans.get_finished_spans()
    assert not finished.status.is_ok
    assert finished.status.description == "overloaded"
    assert current_trace_id() is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        PARENT.upper().replace("00-4B", "00-4B"),
        PARENT + "-more",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
    ],
)
def test_a_bad_header_starts_a_new_trace(header: str | None) -> None:
    assert parse_traceparent(header) is None
    with span("x", header):
        assert current_trace_id() not in (None, PARENT[3:35])


def test_a_newer_version_may_say_more() -> None:
    assert parse_traceparent("01" + PARENT[2:] + "-more") is not None


async def test_a_generator_ended_elsewhere_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def items() -> AsyncIterator[int]:
        with span("stream"):
            yield 1
            yield 2

    async def first(source: AsyncIterator[int]) -> int:
        return await anext(source)

    source = items()
    with caplog.at_level(logging.ERROR, logger="opentelemetry.context"):
        assert await asyncio.create_task(first(source)) == 1
        await asyncio.create_task(source.aclose())  # type: ignore[attr-defined]
    assert not caplog.records
