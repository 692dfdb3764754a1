"""Run one task to its result, or take back what it has done: what a worker calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.agents.agent import AgentOptions, Journal, TaskInput, TimeLeft
from mesh.agents.graph.durable import FlowRun
from mesh.agents.graph.graph import Graph
from mesh.agents.graph.outcome import Parking
from mesh.agents.graph.undo import take_back
from mesh.agents.registry import KindSpec, Registry, registry
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.base import Contract
from mesh.core.clock import Clock
from mesh.llm.engine import LLMClient
from mesh.streams.log import StreamWriter


@dataclass(frozen=True, slots=True)
class Parked:
    """The task can't go on before people decide; ``run_task`` goes on from here then."""

    steps: tuple[str, ...]
    """Those that wait."""


async def run_task(
    task_input: TaskInput,
    llm: LLMClient,
    writer: StreamWriter,
    journal: Journal,
    options: AgentOptions,
    clock: Clock,
    deadline: TimeLeft,
    services: AgentServices = NO_SERVICES,
    *,
    kinds: Registry | None = None,
) -> Contract | dict[str, Any] | Parked:
    """Run every step that the journal does not hold yet; return the whole result: what the
    kind's ``assemble`` makes (``TaskResult`` of write_email).

    Appends ``task.started``, ``step.*`` and ``tokens`` events. The terminal event is the
    worker's to append, once the result is committed.

    Raises DeadlineExceeded, UnknownModel, InvalidInput (the engine refuses the request for good),
    StepFailed, Fenced, Unavailable (journal or stream log). Whatever else the model does, or if
    it does nothing at all, a write_email task ends with a valid email that says ``degraded``.
    ``kinds``: None: those that this release offers.
    """
    spec = _spec(task_input, kinds)
    flow = spec.build(task_input)
    try:
        outputs = await flow.run(
            task_input, llm, writer, journal, options, clock, deadline, services
        )
    except Parking as parking:
        return Parked(tuple(wait.step for wait in parking.waits))
    return spec.assemble(task_input, outputs)


async def undo_task(
    task_input: TaskInput,
    llm: LLMClient,
    writer: StreamWriter,
    journal: Journal,
    options: AgentOptions,
    clock: Clock,
    deadline: TimeLeft,
    services: AgentServices,
    error: Mapping[str, Any],
    *,
    kinds: Registry | None = None,
) -> list[str]:
    """Take back every finished step that says how, in reverse; steps whose undo failed for good.

    ``error``: why, as code, message and details. Costs nothing for graphs that take nothing
    back. Raises Fenced, Unavailable and whatever an undo meets that is away.
    """
    flow = _spec(task_input, kinds).build(task_input)
    if not isinstance(flow, Graph) or not flow.takes_back:
        return []
    run = FlowRun(task_input, llm, writer, journal, options, clock, deadline, services)
    try:
        await run.read()
        return await take_back(flow, run, error)
    finally:
        await run.close()


def _spec(task: TaskInput, kinds: Registry | None) -> KindSpec:
    return (kinds or registry()).spec_of(task.request.kind, task.graph)
