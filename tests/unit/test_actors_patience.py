"""Waiting for what is away, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.patience import (
    PatienceOptions,
    PatientLLM,
    PatientWriter,
    pause,
    persist,
)
from mesh.contracts.events import Event, EventType
from mesh.core.clock import VirtualClock
from mesh.core.errors import (
    EngineError,
    Fenced,
    InvalidInput,
    MailyError,
    Overloaded,
    Unavailable,
)
from mesh.llm.engine import Wire
from mesh.resilience.deadline import Deadline


class Model:
    """Away until a moment of the clock; then it answers."""

    def __init__(self, clock: VirtualClock, back_at: float, error: MailyError) -> None:
        self.clock = clock
        self.back_at = back_at
        self.error = error
        self.calls = 0
        self.closed = 0
        self.dies_after = 0

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        self.calls += 1
        if self.clock.now() < self.back_at:
            raise self.error
        return {"answer": body}

    async def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        self.calls += 1
        try:
            if self.clock.now() < self.back_at:
                raise self.error
            for n in range(3):
                if self.dies_after and n == self.dies_after:
                    raise self.error
                yield {"n": n}
        finally:
            self.closed += 1


async def collect(stream: AsyncIterator[Wire]) -> list[Wire]:
    return [chunk async for chunk in stream]


async def finish(clock: VirtualClock, task: asyncio.Task[Any], limit_s: float = 500.0) -> None:
    """Move time on until the task is done."""
    while not task.done() and limit_s > 0:
        await asyncio.sleep(0)
        await clock.advance(0.5)
        limit_s -= 0.5
    assert task.done()


@pytest.mark.parametrize("error", [Unavailable(), EngineError(), Overloaded(retry_after_s=1.0)])
async def test_a_model_that_comes_back_in_time_answers(error: MailyError) -> None:
    clock = VirtualClock()
    model = Model(clock, clock.now() + 10, error)
    llm = PatientLLM(model, clock, Deadline.after(600, clock))
    chat = asyncio.create_task(llm.chat({"q": 1}, timeout_s=60))
    await finish(clock, chat)
    assert chat.result() == {"answer": {"q": 1}}
    model.back_at = clock.now() + 10
    stream = asyncio.create_task(collect(llm.stream_chat({}, timeout_s=60)))
    await finish(clock, stream)
    assert stream.result() == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert llm.waits > 5
    assert model.closed >= 2  # every stream that failed was closed too


async def test_patience_is_of_the_outage_not_of_the_call() -> None:
    clock = VirtualClock()
    start = clock.now()
    model = Model(clock, start + 10_000, Unavailable("away"))
    llm = PatientLLM(model, clock, Deadline.after(600, clock), PatienceOptions(model_s=60))
    first = asyncio.create_task(llm.chat({}, timeout_s=60))
    await finish(clock, first)
    assert isinstance(first.exception(), Unavailable)
    assert 55 <= clock.now() - start <= 62
    calls = model.calls
    with pytest.raises(Unavailable):
        await llm.chat({}, timeout_s=60)
    assert model.calls == calls + 1  # at once: the agent may degrade now
    model.back_at = 0.0
    assert await llm.chat({}, timeout_s=60) == {"answer": {}}
    model.back_at = clock.now() + 10  # a new outage is waited for again
    again = asyncio.create_task(llm.chat({}, timeout_s=60))
    await finish(clock, again)
    assert again.result() == {"answer": {}}


async def test_the_deadline_ends_the_wait() -> None:
    clock = VirtualClock()
    start = clock.now()
    model = Model(clock, start + 10_000, Unavailable())
    llm = PatientLLM(model, clock, Deadline.after(5, clock))
    call = asyncio.create_task(llm.chat({}, timeout_s=60))
    await finish(clock, call)
    assert isinstance(call.exception(), Unavailable)
    assert clock.now() - start <= 5.5


async def test_what_was_streamed_is_not_streamed_again() -> None:
    clock = VirtualClock()
    model = Model(clock, 0.0, EngineError())
    model.dies_after = 2
    llm = PatientLLM(model, clock, Deadline.after(600, clock))
    stream = llm.stream_chat({}, timeout_s=60)
    assert [await anext(stream), await anext(stream)] == [{"n": 0}, {"n": 1}]
    with pytest.raises(EngineError):
        await anext(stream)
    assert model.calls == 1


async def test_an_error_of_the_request_is_not_waited_for() -> None:
    clock = VirtualClock()
    model = Model(clock, clock.now() + 10, InvalidInput("no"))
    llm = PatientLLM(model, clock, Deadline.after(600, clock))
    with pytest.raises(InvalidInput):
        await llm.chat({}, timeout_s=60)
    assert model.calls == 1


async def test_closing_the_stream_closes_the_engines() -> None:
    clock = VirtualClock()
    model = Model(clock, 0.0, EngineError())
    llm = PatientLLM(model, clock, Deadline.after(600, clock))
    stream = llm.stream_chat({}, timeout_s=60)
    assert await anext(stream) == {"n": 0}
    await stream.aclose()  # type: ignore[attr-defined]
    assert model.closed == 1


class Log:
    """A stream writer whose log is away for the first calls."""

    def __init__(self, errors: list[MailyError]) -> None:
        self.errors = errors
        self.written: list[EventType] = []

    async def append(self, type: EventType, data: dict[str, Any]) -> Event:
        if self.errors:
            raise self.errors.pop(0)
        self.written.append(type)
        return Event(stream="s", attempt=1, sequence=1, type=type, at=0.0, data=data)

    async def token(self, step: str, text: str) -> None:
        if self.errors:
            raise self.errors.pop(0)

    async def aclose(self) -> None:
        self.written.append(EventType.ERROR)


async def test_a_log_that_is_away_does_not_fail_the_task() -> None:
    clock = VirtualClock()
    log = Log([Unavailable(), Unavailable()])
    writer = PatientWriter(log, clock, Deadline.after(60, clock))
    call = asyncio.create_task(writer.append(EventType.STEP_STARTED, {}))
    await finish(clock, call)
    assert log.written == [EventType.STEP_STARTED]
    log.errors = [Unavailable()]
    token = asyncio.create_task(writer.token("s", "t"))
    await finish(clock, token)
    assert token.exception() is None


async def test_fenced_is_never_waited_for() -> None:
    clock = VirtualClock()
    writer = PatientWriter(Log([Fenced()]), clock, Deadline.after(60, clock))
    with pytest.raises(Fenced):
        await writer.append(EventType.STEP_STARTED, {})


async def test_persist_gives_up_at_the_deadline() -> None:
    clock = VirtualClock()
    calls = 0

    async def away() -> None:
        nonlocal calls
        calls += 1
        raise Unavailable

    task = asyncio.create_task(persist(away, clock, Deadline.after(3, clock)))
    await finish(clock, task)
    assert isinstance(task.exception(), Unavailable)
    assert calls > 3


@given(
    failures=st.integers(1, 10_000),
    hint=st.one_of(st.none(), st.floats(0, 1e6)),
    first=st.floats(0.001, 1),
    longest=st.floats(1, 60),
)
def test_pauses_are_bounded_and_positive(
    failures: int, hint: float | None, first: float, longest: float
) -> None:
    options = PatienceOptions(first_pause_s=first, longest_pause_s=longest)
    wait = pause(failures, options, hint)
    assert 0 < wait <= longest
    assert wait >= min(first, longest) / 2
