"""Run one task to its result: what a worker calls."""

from __future__ import annotations

from mesh.agents.agent import AgentOptions, Journal, TaskInput, TimeLeft
from mesh.agents.write_email.pipeline import assemble, build_pipeline
from mesh.contracts.tasks import TaskResult
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
) -> TaskResult:
    """Run every step that the journal does not hold yet; return the whole result.

    Appends ``task.started``, ``step.*`` and ``tokens`` events. The terminal event is the
    worker's to append, once the result is committed.

    Raises DeadlineExceeded, UnknownModel, InvalidInput (the engine refuses the request for good),
    Fenced, Unavailable (journal or stream log). Whatever else the model does, or if it does
    nothing at all, the task ends with a valid email that says ``degraded``.
    """
    outputs = await build_pipeline().run(task_input, llm, writer, journal, options, clock, deadline)
    return assemble(task_input.request.brief, outputs)
