"""What the tests of graphs share: agents that count what they do, a journal that can die, runs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agents_support import Recorder

from mesh.agents import AgentOptions, MemoryJournal, StepContext, StepOutput, StepResult, TaskInput
from mesh.agents.graph import Graph, Parking
from mesh.agents.graph.durable import FlowRun
from mesh.agents.graph.undo import take_back
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.agents.tools.tool import ToolCaller
from mesh.contracts.tasks import TaskKind, TaskRequest
from mesh.contracts.tools import SideEffects
from mesh.core.errors import MailyError
from mesh.resilience.deadline import Deadline


class QuickClock:
    """Sleeping takes no time of the test's, only of the clock's."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds)
        await asyncio.sleep(0)


class Killed(BaseException):
    """The process is gone: nothing of ours may catch this."""


@dataclass
class World:
    """Outlives workers: what was committed, and what was done outside."""

    journal: MortalJournal
    done: dict[str, int] = field(default_factory=dict)
    """How often each step's agent ran to its end."""
    log: list[str] = field(default_factory=list)


class MortalJournal(MemoryJournal):
    """Dies at the n-th commit: before it took effect, or after."""

    def __init__(self, clock: QuickClock | None = None) -> None:
        super().__init__(clock)
        self.order: list[str] = []
        self.left = -1
        self.after = False

    def die_at(self, commit: int, *, after: bool) -> None:
        self.left, self.after = commit, after

    async def commit(self, step: StepOutput) -> StepOutput:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        if step.name not in self._steps:
            self.order.append(step.name)
        kept = await super().commit(StepOutput.model_validate_json(step.model_dump_json()))
        if self.left == 0 and self.after:
            raise Killed
        return kept


@dataclass
class Agent:
    """Does what its script says: the output from the input, or errors first."""

    name: str
    world: World | None = None
    errors: list[MailyError] = field(default_factory=list)
    always: MailyError | None = None
    gives: Any = None
    hand_to: str | None = None
    step: str = "step"

    async def run(self, context: StepContext) -> StepResult:
        if self.always is not None:
            raise self.always
        if self.errors:
            raise self.errors.pop(0)
        if self.world is not None:
            self.world.done[context.step] = self.world.done.get(context.step, 0) + 1
            self.world.log.append(context.step)
        await context.writer.token(context.step, f"<{context.step}>")
        seen = {name: value.get("value") for name, value in sorted(context.previous.items())}
        value = self.gives if self.gives is not None else [self.name, dict(context.input), seen]
        return StepResult({"value": value}, hand_to=self.hand_to)


def task(given: Mapping[str, Any] | None = None) -> TaskInput:
    request = TaskRequest(kind=TaskKind.WORKFLOW, input=dict(given or {}))
    return TaskInput(uuid.UUID(int=7), request, worker="w")


async def run(
    graph: Graph,
    journal: MemoryJournal,
    *,
    given: Mapping[str, Any] | None = None,
    writer: Recorder | None = None,
    clock: Any = None,
    seconds: float = 1e6,
    services: AgentServices = NO_SERVICES,
    llm: Any = None,
) -> dict[str, Any] | Parking:
    """Outputs by row; Parking when people have to decide."""
    clock = clock or QuickClock()
    try:
        steps = await graph.run(
            task(given),
            llm,
            writer or Recorder(),
            journal,
            AgentOptions(),
            clock,
            Deadline.after(seconds, clock),
            services,
        )
    except Parking as parking:
        return parking
    return {name: step.output for name, step in sorted(steps.items())}


async def undo(
    graph: Graph,
    journal: MemoryJournal,
    *,
    given: Mapping[str, Any] | None = None,
    writer: Recorder | None = None,
) -> list[str]:
    clock = QuickClock()
    flow = FlowRun(
        task(given),
        None,  # type: ignore[arg-type]
        writer or Recorder(),
        journal,
        AgentOptions(),
        clock,
        Deadline.after(1e6, clock),
    )
    try:
        await flow.read()
        error = {"code": "engine_error", "message": "it failed", "details": {}}
        return await take_back(graph, flow, error)
    finally:
        await flow.close()


@dataclass
class Echo:
    name: str = "test.echo"
    description: str = "Says it back."
    input_schema: Mapping[str, Any] = field(
        default_factory=lambda: {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        }
    )
    side_effects: SideEffects = "none"
    scopes: frozenset[str] = frozenset()
    timeout_s: float = 5.0
    source: str = "maily"
    error: MailyError | None = None
    stuck: bool = False
    calls: list[Any] = field(default_factory=list)

    async def call(self, arguments: Mapping[str, Any], caller: ToolCaller) -> Any:
        self.calls.append((dict(arguments), caller.idempotency_key))
        if self.error is not None:
            raise self.error
        if self.stuck:
            await asyncio.Event().wait()
        return arguments["text"]
