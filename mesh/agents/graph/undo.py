"""Take back what a task has done when it fails or is cancelled: the saga's other half.

Finished steps that have an ``undo`` are taken back in reverse order, each by a durable step of
its own (``undo:STEP``), so that a worker that dies on the way is followed by one that goes on.
Before the first of them a row says that the task is failing: no attempt may go forward again. An
undo that fails for good is recorded, told, and does not keep the others from being done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mesh.agents.agent import StepOutput
from mesh.agents.graph.durable import FlowRun, StepPlan
from mesh.agents.graph.graph import Graph
from mesh.agents.graph.nodes import Undo
from mesh.agents.graph.outcome import FAILED
from mesh.agents.graph.refs import INPUT, fill
from mesh.core.errors import MailyError, StepFailed

UNDO = "undo:"
_POSITION = 32_001
"""Rows of what is taken back lie after all others."""


@dataclass(frozen=True, slots=True)
class _Back:
    step: StepOutput
    undo: Undo


async def take_back(graph: Graph, run: FlowRun, error: Mapping[str, Any]) -> list[str]:
    """Undo every finished step that can be, unless it is; names of undos that failed for good.

    ``run`` must hold the journal. ``error``: why, as code, message and details. Raises Fenced,
    Unavailable (journal or stream) and whatever an undo meets that is away.
    """
    todo = [back for back in _finished(graph, run.held) if UNDO + back.step.name not in run.held]
    if todo and FAILED not in run.held:
        await run.commit(
            StepOutput(
                name=FAILED,
                position=_POSITION,
                output={},
                started_at=datetime.fromtimestamp(run.clock.now(), UTC),
                error=dict(error),
            )
        )
    outputs = {name: step.output for name, step in run.held.items() if step.error is None}
    given = graph.given_of(run.task)
    for back in todo:
        values: dict[str, Any] = {INPUT: given, **outputs}
        values[_base(back.step.name)] = back.step.output
        try:
            await run.step(
                StepPlan(
                    name=UNDO + back.step.name,
                    position=_POSITION + 1,
                    agent=back.undo.agent,
                    previous=outputs,
                    input=fill(back.undo.input, values) or {},
                    retry=back.undo.retry,
                    bound=True,
                )
            )
        except StepFailed:
            continue  # its row says so
        except MailyError as wrong:
            if wrong.retryable or wrong.code == "fenced":
                raise
            await _note_failure(run, back, wrong)
    await run.settle()
    return sorted(
        name.removeprefix(UNDO)
        for name, step in run.held.items()
        if name.startswith(UNDO) and step.error is not None
    )


async def _note_failure(run: FlowRun, back: _Back, wrong: MailyError) -> None:
    """The undo could not even begin: its input refers to nothing."""
    await run.commit(
        StepOutput(
            name=UNDO + back.step.name,
            position=_POSITION + 1,
            output={},
            started_at=datetime.fromtimestamp(run.clock.now(), UTC),
            error={"code": wrong.code, "message": wrong.message, "details": wrong.details},
        )
    )


def _finished(graph: Graph, held: Mapping[str, StepOutput]) -> list[_Back]:
    undos = {step.name: step.undo for step in graph.steps() if step.undo is not None}
    found = [
        _Back(step, undos[_base(name)])
        for name, step in held.items()
        if step.error is None and "/" not in name and ":" not in name and _base(name) in undos
    ]
    return sorted(found, key=lambda back: (back.step.position, back.step.name), reverse=True)


def _base(name: str) -> str:
    return name.split("[", 1)[0]
