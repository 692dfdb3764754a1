"""Replay: walk a task's graph again over what its journal recorded, without a model or a tool.

The walk must take the same path: every recorded step is reached, was given the same input (by
digest), by the same agent, at the same place, and the result is the one that was kept. Where it
does not, the graph (or the code under it) is not deterministic, or somebody changed it without
raising its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mesh.agents.agent import AgentOptions, Asked, StepContext, StepOutput, TaskInput
from mesh.agents.graph.durable import FlowRun, Inner, StepPlan
from mesh.agents.graph.graph import Graph
from mesh.agents.graph.outcome import FAILED, Parking, failure
from mesh.agents.graph.undo import UNDO
from mesh.agents.registry import KindSpec
from mesh.agents.services import NO_SERVICES
from mesh.contracts.base import Contract
from mesh.contracts.events import Event, EventType
from mesh.core.clock import SystemClock
from mesh.core.errors import MailyError
from mesh.core.tracing import span


class Difference(Contract):
    """Where the replay did not do what the journal says."""

    step: str
    what: str


class Replay(Contract):
    """What a replay found."""

    same: bool = Field(description="Whether the same path was taken")
    graph: str
    path: list[str] = Field(description="Steps in the order in which they were reached")
    ended: str = Field(description="completed, or the step (and why) at which the record ends")
    differences: list[Difference] = Field(default_factory=list)


class _Ends(Exception):
    """The record goes no further."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


class _Silent:
    """A writer that nobody reads."""

    async def append(self, type: EventType, data: dict[str, Any]) -> Event:
        return Event(stream="replay", attempt=0, sequence=1, type=type, at=0.0)

    async def token(self, step: str, text: str) -> None:
        return None

    async def aclose(self) -> None:
        return None


class _Record:
    """A journal that takes nothing."""

    def __init__(self, rows: Mapping[str, StepOutput]) -> None:
        self._rows = rows

    async def finished(self) -> Mapping[str, StepOutput]:
        return self._rows

    async def commit(self, step: StepOutput) -> StepOutput:
        raise _Ends(step.name)

    async def ask(self, step: str, question: Any, timeout_s: float) -> Asked:
        raise _Ends(step)


class _NoModel:
    async def chat(self, body: Any, *, timeout_s: float, traceparent: str | None = None) -> Any:
        raise _Ends("a model was asked")

    def stream_chat(self, body: Any, *, timeout_s: float, traceparent: str | None = None) -> Any:
        raise _Ends("a model was asked")


class _Always:
    def remaining(self) -> float:
        return 3_600.0


class ReplayRun(FlowRun):
    """Gives recorded outputs, and notes what is not as it was."""

    def __init__(self, task: TaskInput, rows: Mapping[str, StepOutput]) -> None:
        super().__init__(
            task, _NoModel(), _Silent(), _Record(rows), AgentOptions(), SystemClock(), _Always()
        )
        self.held = dict(rows)
        self.path: list[str] = []
        self.differences: list[Difference] = []

    def derive(self, task: TaskInput) -> FlowRun:
        inner = ReplayRun(task, self.held)
        inner.path, inner.differences = self.path, self.differences
        return inner

    def differs(self, step: str, what: str) -> None:
        self.differences.append(Difference(step=step, what=what))

    async def step(self, plan: StepPlan) -> StepOutput:
        kept = self.held.get(plan.name)
        if kept is None:
            raise _Ends(plan.name)
        self.path.append(plan.name)
        if kept.input_hash and kept.input_hash != plan.input_hash():
            self.differs(plan.name, "its input is not the one that was recorded")
        if kept.agent and kept.agent != plan.agent.name:
            self.differs(plan.name, f"{kept.agent} did it, now it would be {plan.agent.name}")
        if kept.position != plan.position:
            self.differs(plan.name, f"was at {kept.position}, is at {plan.position}")
        if kept.error is not None:
            raise failure(plan.name, kept.error)
        if getattr(plan.agent, "replays", False):
            await self._again(plan, kept)
        return kept

    async def _again(self, plan: StepPlan, kept: StepOutput) -> None:
        """An agent that only puts steps together is run: its steps are recorded, too."""
        context = StepContext(
            task=self.task,
            step=plan.name,
            previous=plan.previous,
            llm=self.llm,
            writer=self.writer,
            options=self.options,
            clock=self.clock,
            deadline=self.deadline,
            services=NO_SERVICES,
            input=plan.input,
            steps=Inner(self, plan),
        )
        if (await plan.agent.run(context)).output != kept.output:
            self.differs(plan.name, "its steps give another output")


async def replay(
    spec: KindSpec,
    task: TaskInput,
    rows: Mapping[str, StepOutput],
    *,
    succeeded: bool,
    result: Mapping[str, Any] | None = None,
) -> Replay:
    """``succeeded``: the task did, so the record must be whole and give ``result``."""
    run = ReplayRun(task, rows)
    graph = spec.build(task)
    ended = "completed"
    with span("task.replay", task=str(task.task_id)):
        try:
            assert isinstance(graph, Graph)
            outputs = await graph.walk(run)
            made = spec.assemble(task, outputs)
            body = made if isinstance(made, dict) else made.model_dump(mode="json")
            if succeeded and result is not None and body != result:
                run.differs("", "the result is not the one that was kept")
        except _Ends as end:
            ended = end.step
            if succeeded:
                run.differs(end.step, "the task succeeded, but the record does not hold this")
        except Parking as parking:
            ended = f"{parking.waits[0].step}: waits for a person"
        except MailyError as error:
            ended = f"{error.code}: {error.message}"
            if succeeded:
                run.differs("", f"the task succeeded, but this fails: {error.message}")
    if ended == "completed" or succeeded:
        for name in _unreached(rows, run.path):
            run.differs(name, "was recorded, but is not reached")
    return Replay(
        same=not run.differences,
        graph=spec.graph,
        path=run.path,
        ended=ended,
        differences=run.differences,
    )


def _unreached(rows: Mapping[str, StepOutput], path: list[str]) -> list[str]:
    reached = set(path)

    def covered(name: str) -> bool:
        parents = name.split("/")[:-1]
        above = ("/".join(parents[: depth + 1]) for depth in range(len(parents)))
        return name in reached or any(parent in reached for parent in above)

    return sorted(
        name
        for name, row in rows.items()
        if name != FAILED
        and not name.startswith(UNDO)
        and "approved" not in row.output
        and not covered(name)
    )
