"""Run one task to its result: what a worker calls."""

from __future__ import annotations

from typing import Any

from mesh.agents.agent import AgentOptions, Journal, TaskInput, TimeLeft
from mesh.agents.registry import spec_for
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.base import Contract
from mesh.core.clock import Clock
from mesh.llm.engine import LLMClient
from mesh.streams.log import StreamWriter


async def run_task(
    task_input: TaskInput,
    llm: LLMClient,
    writer: StreamWriter,
    journal: Journal,
    options: AgentOptions,
    clock: Clock,
    deadline: TimeLeft,
    services: AgentServices = NO_SERVICES,
) -> Contract | dict[str, Any]:
    """Run every step that the journal does not hold yet; return the whole result: what the
    kind's ``assemble`` makes (``TaskResult`` of write_email).

    Appends ``task.started``, ``step.*`` and ``tokens`` events. The terminal event is the
    worker's to append, once the result is committed.

    Raises DeadlineExceeded, UnknownModel, InvalidInput (the engine refuses the request for good),
    Fenced, Unavailable (journal or stream log). Whatever else the model does, or if it does
    nothing at all, a write_email task ends with a valid email that says ``degraded``.
    """
    spec = spec_for(task_input.request.kind)
    flow = spec.build(task_input)
    outputs = await flow.run(task_input, llm, writer, journal, options, clock, deadline, services)
    return spec.assemble(task_input, outputs)
