"""What the tests of the actors share: a tiny pipeline over a fake model, and rows to run it on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from mesh.agents import AgentOptions, Journal, Pipeline, StepContext, StepResult, TaskInput
from mesh.agents.agent import TimeLeft
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.email import Block, Brief, Email, Review, Strategy
from mesh.contracts.events import Event
from mesh.contracts.tasks import TaskKind, TaskResult
from mesh.core.clock import Clock, SystemClock
from mesh.core.ids import uuid7
from mesh.core.tracing import current_traceparent
from mesh.llm.engine import Engine, LLMClient, Wire
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.storage.pool import Database
from mesh.storage.tasks import NewTask, TaskRepository, TaskRow
from mesh.streams.log import StreamLog, StreamWriter

STEPS = ("one", "two", "three", "four")


class EngineClient:
    """An engine of this process as the LLM service."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or FakeEngine(slots=64, queue_limit=1_000)
        self.traceparents: list[str | None] = []

    async def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        self.traceparents.append(traceparent)
        async for chunk in self.engine.stream_chat(body, timeout_s=timeout_s):
            yield chunk

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        self.traceparents.append(traceparent)
        return await self.engine.chat(body, timeout_s=timeout_s)


@dataclass
class EchoAgent:
    """One model call, streamed. ``ran`` notes each execution of a step across workers."""

    step: str
    ran: list[tuple[UUID, str]] = field(default_factory=list)
    name: str = "echo"

    async def run(self, context: StepContext) -> StepResult:
        self.ran.append((context.task.task_id, self.step))
        said = ""
        body = {"model": "fake", "messages": [{"role": "user", "content": self.step}]}
        async for chunk in context.llm.stream_chat(
            body | {"stream": True},
            timeout_s=max(0.1, context.deadline.remaining()),
            traceparent=current_traceparent(),
        ):
            for choice in chunk["choices"]:
                text = choice["delta"].get("content") or ""
                said += text
                if text:
                    await context.writer.token(self.step, text)
        return StepResult(output={"text": said})


class EchoRunner:
    """Four durable steps; the result is a fixed email."""

    def __init__(self) -> None:
        self.ran: list[tuple[UUID, str]] = []

    async def __call__(
        self,
        task_input: TaskInput,
        llm: LLMClient,
        writer: StreamWriter,
        journal: Journal,
        options: AgentOptions,
        clock: Clock,
        deadline: TimeLeft,
        services: AgentServices = NO_SERVICES,
    ) -> TaskResult:
        pipeline = Pipeline([EchoAgent(step, self.ran) for step in STEPS])
        await pipeline.run(task_input, llm, writer, journal, options, clock, deadline)
        assert task_input.request.brief is not None
        return result_of(task_input.request.brief)


def result_of(brief: Brief) -> TaskResult:
    email = Email(
        subject="Hello",
        subject_candidates=["Hello"],
        preheader="There",
        blocks=[Block(kind="paragraph", text=brief.goal)],
        strategy=Strategy(objective="o", angle="a", call_to_action="c"),
        review=Review(approved=True, spam_score=0.0),
        language="en",
    )
    return TaskResult(email=email, html="<p></p>", text=brief.goal, degraded=False)


async def workspace(db: Database) -> UUID:
    """A workspace of the test's own."""
    identity = uuid7()
    async with db.connection() as connection:
        await connection.execute(
            "INSERT INTO workspaces (id, name) VALUES ($1, $2)", identity, identity.hex
        )
    return identity


def new_task(workspace_id: UUID, **changes: Any) -> NewTask:
    task = NewTask(
        id=uuid7(),
        workspace_id=workspace_id,
        kind=TaskKind.WRITE_EMAIL,
        request={"kind": "write_email", "brief": {"goal": "say hello"}},
        deadline_at=datetime.now(UTC) + timedelta(seconds=60),
    )
    return replace(task, **changes)


async def until(condition: Callable[[], Awaitable[bool] | bool], limit_s: float = 30.0) -> None:
    """Wait for it; the limit is only there to end a test that fails."""
    async with asyncio.timeout(limit_s):
        while True:
            answer = condition()
            if not isinstance(answer, bool):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.02)


async def ended(tasks: TaskRepository, row: TaskRow, limit_s: float = 30.0) -> TaskRow:
    """The task once it has ended and its stream was told."""
    latest = row

    async def look() -> bool:
        nonlocal latest
        latest = await tasks.get(row.id, row.workspace_id)
        return latest.announced_at is not None

    await until(look, limit_s)
    return latest


async def events(streams: StreamLog, task_id: UUID) -> list[Event]:
    """The whole stream of a task that has ended."""
    found: list[Event] = []
    async with asyncio.timeout(10):
        found.extend([e async for e in streams.read(str(task_id)) if e is not None])
    return found


def check_stream(found: list[Event]) -> None:
    """What every ended task's stream must look like, whatever happened meanwhile."""
    assert [e.type for e in found if e.type.terminal] == [found[-1].type]
    cursors = [e.cursor for e in found]
    assert cursors == sorted(set(cursors))


CLOCK = SystemClock()


class FakeClient(EngineClient):
    """An ``EngineClient`` that can be pickled: its engine is made where it is first used."""

    def __init__(self, faults: FaultPlan) -> None:
        self.faults = faults
        self.traceparents = []
        self._engine: FakeEngine | None = None

    @property
    def engine(self) -> FakeEngine:  # type: ignore[override]
        if self._engine is None:
            self._engine = FakeEngine(faults=self.faults, slots=64, queue_limit=1_000)
        return self._engine

    def __reduce__(self) -> tuple[type[FakeClient], tuple[FaultPlan]]:
        return FakeClient, (self.faults,)
