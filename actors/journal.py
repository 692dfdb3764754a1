"""The journal of one claimed task: its steps in PostgreSQL, fenced by the task's attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from actors.patience import PatienceOptions, persist
from mesh.agents.agent import Asked, StepOutput, TimeLeft, Verdict
from mesh.agents.graph.outcome import base_name
from mesh.contracts.tasks import Decision
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Internal
from mesh.storage.tasks import NewStep, StepRow, TaskRepository
from mesh.storage.waits import WaitRepository


class PostgresJournal:
    """Waits for a database that is away, until the deadline; raises Fenced at once."""

    def __init__(
        self,
        tasks: TaskRepository,
        task_id: UUID,
        attempt: int,
        clock: Clock,
        deadline: TimeLeft,
        patience: PatienceOptions,
        waits: WaitRepository | None = None,
        border: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``waits``: None for tasks that never ask people. ``border``: awaited after each step
        that was committed; the task may end here by it."""
        self._tasks = tasks
        self._task_id = task_id
        self._attempt = attempt
        self._clock = clock
        self._deadline = deadline
        self._patience = patience
        self._waits = waits
        self._border = border
        self.cost_micros: float | None = None
        """What the steps that were committed here have cost; None: no model said."""

    async def finished(self) -> Mapping[str, StepOutput]:
        rows = await persist(
            lambda: self._tasks.steps(self._task_id), self._clock, self._deadline, self._patience
        )
        return {row.name: output_of(row) for row in rows}

    async def commit(self, step: StepOutput) -> StepOutput:
        """A repeat (its first answer was lost) gives the step that is kept."""
        new = NewStep(
            name=step.name,
            position=step.position,
            output=step.output,
            decisions=[decision.model_dump(mode="json") for decision in step.decisions],
            degraded=step.degraded,
            started_at=step.started_at,
            error=step.error,
            tries=step.tries,
            input_hash=step.input_hash,
            hand_to=step.hand_to,
            reads=[read.model_dump(mode="json", exclude_defaults=True) for read in step.reads],
            calls=[call.model_dump(mode="json", exclude_defaults=True) for call in step.calls],
            agent=step.agent,
        )
        row = await persist(
            lambda: self._tasks.finish_step(self._task_id, self._attempt, new),
            self._clock,
            self._deadline,
            self._patience,
        )
        metrics.STEP_SECONDS.labels(
            step=metrics.bounded("step", base_name(row.name)),
            outcome="failed" if row.error else "degraded" if row.degraded else "succeeded",
        ).observe(max(0.0, self._clock.now() - step.started_at.timestamp()))
        for call in step.calls:
            if call.cost_micros is not None:
                self.cost_micros = (self.cost_micros or 0.0) + call.cost_micros
        if self._border is not None:
            await self._border()
        return output_of(row)

    async def ask(self, step: str, question: Any, timeout_s: float) -> Asked:
        """The question as the database has it: put once, whichever attempt asks."""
        if self._waits is None:
            raise Internal("This journal can't put questions to people.")
        waits = self._waits
        row, new = await persist(
            lambda: waits.ask(self._task_id, self._attempt, step, question, timeout_s),
            self._clock,
            self._deadline,
            self._patience,
        )
        verdict = None
        if row.approved is not None:
            verdict = Verdict(approved=row.approved, comment=row.comment, by=row.decided_by)
        return Asked(row.expires_at.timestamp(), verdict, row.expired, new)


def output_of(row: StepRow) -> StepOutput:
    return StepOutput(
        name=row.name,
        position=row.position,
        output=row.output,
        decisions=tuple(Decision.model_validate(d) for d in row.decisions),
        degraded=row.degraded,
        started_at=row.started_at,
        error=row.error,
        tries=row.tries,
        input_hash=row.input_hash,
        hand_to=row.hand_to,
        agent=row.agent,
    )
