"""What the tests of the agents share: a scripted model, a recording writer, briefs."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from mesh.agents import AgentOptions, Journal, MemoryJournal, TaskInput, run_task
from mesh.agents.registry import registry
from mesh.agents.samples import load_brief
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.email import Brief
from mesh.contracts.events import Event, EventType
from mesh.contracts.tasks import TaskKind, TaskRequest, TaskResult
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import MailyError
from mesh.resilience.deadline import Deadline

GOOD = {
    "angle": "You can get 20% off all house plants at Fern & Oak until Sunday.",
    "line 1": "Spring sale: 20% off all house plants",
    "line 2": "Fern & Oak: fresh stock from local growers",
    "line 3": "Every plant comes with a care card",
    "preheader": "Fresh stock from local growers, and every plant comes with a care card.",
    "opening": (
        "Our spring sale is here: 20% off all house plants until Sunday. "
        "Every plant comes with a care card."
    ),
    "closing": "Come and see the spring plants, we look forward to meeting you.",
}
"""Answers that pass every check for the sample brief."""

Answer = str | MailyError | list[dict[str, Any]]
Script = Callable[[str, int], Answer]


def piece_of(body: dict[str, Any]) -> str:
    """Which piece a request asks for, seen from its instruction."""
    system = body["messages"][0]["content"]
    question = body["messages"][-1]["content"]
    if "subject line" in system:
        known = {"20% off": "line 1", "Fresh": "line 2", "Every": "line 3"}
        return next((name for mark, name in known.items() if mark in question), "line 1")
    for mark, name in (
        ("invites the reader", "closing"),
        ("two ", "opening"),
        ("one short", "preheader"),
        ("one sentence", "angle"),
    ):
        if mark in system:
            return name
    raise AssertionError(system)


class ScriptedModel:
    """An LLMClient. The script sees the piece and how often it was asked for before."""

    def __init__(self, script: Script | None = None, chunk: int = 7) -> None:
        self.script = script or (lambda piece, n: GOOD[piece])
        self.chunk = chunk
        self.bodies: list[dict[str, Any]] = []
        self.asked: dict[str, int] = {}
        self.open = 0

    async def stream_chat(
        self, body: dict[str, Any], *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        assert timeout_s > 0
        self.bodies.append(body)
        piece = piece_of(body)
        n = self.asked.get(piece, 0)
        self.asked[piece] = n + 1
        answer = self.script(piece, n)
        if isinstance(answer, MailyError):
            raise answer
        self.open += 1
        try:
            if isinstance(answer, list):
                for raw in answer:
                    yield raw
                return
            text = json.dumps({"text": answer})
            for i in range(0, len(text), self.chunk):
                delta = {"content": text[i : i + self.chunk]}
                yield {"choices": [{"delta": delta, "finish_reason": None}]}
            yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        finally:
            self.open -= 1

    async def chat(
        self, body: dict[str, Any], *, timeout_s: float, traceparent: str | None = None
    ) -> dict[str, Any]:
        raise AssertionError("agents stream")


class Recorder:
    """A StreamWriter that keeps its events; one attempt."""

    def __init__(self, attempt: int = 1, events: list[Event] | None = None) -> None:
        self.attempt = attempt
        self.events: list[Event] = [] if events is None else events
        self._sequence = 0

    async def append(self, type: EventType, data: dict[str, Any]) -> Event:
        self._sequence += 1
        event = Event(
            stream="s",
            attempt=self.attempt,
            sequence=self._sequence,
            type=type,
            at=0.0,
            data=json.loads(json.dumps(data)),
        )
        self.events.append(event)
        return event

    async def token(self, step: str, text: str) -> None:
        await self.append(EventType.TOKENS, {"step": step, "text": text})

    async def aclose(self) -> None:
        return None


def shown(events: list[Event]) -> dict[str, str]:
    """What a reader who honours step.started and step.retried has on the screen, by step."""
    screen: dict[str, str] = {}
    for event in events:
        if event.type in (EventType.STEP_STARTED, EventType.STEP_RETRIED):
            screen[event.data["step"]] = ""
        elif event.type is EventType.TOKENS:
            screen[event.data["step"]] = screen.get(event.data["step"], "") + event.data["text"]
    return screen


def task(brief: Brief | None = None, **request: Any) -> TaskInput:
    body = {"brief": brief or load_brief(), "seed": 7, **request}
    return TaskInput(
        uuid.UUID(int=5),
        TaskRequest(**body),
        worker="agent-worker-0",
        workspace_id=uuid.UUID(int=9),
    )


async def write(
    llm: Any,
    brief: Brief | None = None,
    *,
    writer: Recorder | None = None,
    journal: Journal | None = None,
    options: AgentOptions | None = None,
    clock: Clock | None = None,
    seconds: float = 60.0,
    services: AgentServices = NO_SERVICES,
    **request: Any,
) -> TaskResult:
    clock = clock or SystemClock()
    result = await run_task(
        task(brief, **request),
        llm,
        writer or Recorder(),
        journal or MemoryJournal(),
        options or AgentOptions(),
        clock,
        Deadline.after(seconds, clock),
        services,
    )
    assert isinstance(result, TaskResult)
    return result


async def run_kind(
    kind: TaskKind,
    given: dict[str, Any],
    llm: Any = None,
    *,
    services: AgentServices = NO_SERVICES,
    writer: Recorder | None = None,
    journal: Journal | None = None,
    options: AgentOptions | None = None,
    seconds: float = 60.0,
    **request: Any,
) -> Any:
    """The result of a task that reads ``input``."""
    asked = TaskRequest(kind=kind, input=given, seed=7, **request)
    registry().check(asked)
    clock = SystemClock()
    return await run_task(
        TaskInput(uuid.UUID(int=5), asked, worker="w", workspace_id=uuid.UUID(int=9)),
        llm or ScriptedModel(),
        writer or Recorder(),
        journal or MemoryJournal(),
        options or AgentOptions(),
        clock,
        Deadline.after(seconds, clock),
        services,
    )
