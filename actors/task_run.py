"""One claimed task, from its claim to its end: run, finish once, tell the stream once.

The lease decides what may happen. ``drop`` (the lease is lost, or may be) ends the work without a
trace: whoever claims the task next goes on from its last finished step. ``cancel`` and the
deadline end the work and commit that ending, however deep in a model call the work hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from actors.ending import Ending, error_body, terminal_event
from actors.journal import PostgresJournal
from actors.patience import (
    AWAY,
    PatientLLM,
    PatientWriter,
    pause,
    persist,
    settle,
)
from actors.run_parts import Outcome, RunOptions, RunParts
from mesh.agents import TaskInput
from mesh.agents.run import Parked
from mesh.contracts.tasks import TaskRequest, TaskState
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Cancelled, DeadlineExceeded, Fenced, Internal, MailyError, Unavailable
from mesh.core.genai import workflow_span
from mesh.core.logging import get_logger
from mesh.core.tracing import current_traceparent
from mesh.llm.call import TASKS, Call, calling
from mesh.resilience.deadline import Deadline
from mesh.storage.tasks import TaskRepository, TaskRow
from mesh.streams.log import StreamLog

__all__ = ["HANDED_OVER", "RunOptions", "RunParts", "TaskRun", "announce"]

log = get_logger("task")

T = TypeVar("T")
_OPTIONS = RunOptions()
HANDED_OVER = "handed_over"
"""Why a task was dropped whose next step another worker does."""


class TaskRun:
    """Runs one claimed task. Make one per claim and await ``run`` once."""

    def __init__(self, task: TaskRow, parts: RunParts, lease_until: float) -> None:
        self.task = task
        self.lease_until = lease_until
        """The clock's monotonic seconds until which the lease is surely ours."""
        self.ending: Ending | None = None
        """How it ended, once that is committed."""
        self._parts = parts
        self._work: asyncio.Task[Outcome] | None = None
        self._cancel_requested = task.cancel_requested
        self._dropped: str | None = None
        self._handing_over = False
        self._interrupted = asyncio.Event()
        self._journal: PostgresJournal | None = None

    @property
    def cost_micros(self) -> float | None:
        """What the steps that ran here have cost; None: no model said."""
        return None if self._journal is None else self._journal.cost_micros

    @property
    def dropped(self) -> str | None:
        """Why the task was given up without ending it; None: it was not."""
        return self._dropped

    def cancel(self) -> None:
        """Its cancel was requested: end it as cancelled."""
        self._cancel_requested = True
        self._interrupted.set()

    def drop(self, reason: str) -> None:
        """Give it up without ending it: the lease is lost or handed back."""
        if self.ending is None and self._dropped is None:
            self._dropped = reason
            self._interrupted.set()

    def hand_over(self) -> None:
        """Give it up when its present step is committed: another goes on with the next one."""
        self._handing_over = True

    async def _border(self) -> None:
        """A step was committed. Handing over ends the work here, so this doesn't come back."""
        if self._handing_over:
            self.drop(HANDED_OVER)
            await asyncio.Event().wait()

    async def run(self) -> None:
        """Never raises for what happens to the task; only when it is cancelled itself."""
        row, clock = self.task, self._parts.clock
        call = Call(row.workspace_id, row.key_id, row.id, row.priority + TASKS)
        with (
            workflow_span(
                row.kind,
                str(row.id),
                row.traceparent,
                **{"maily.attempt": row.attempt, "maily.worker": self._parts.worker},
            ),
            calling(call),
        ):
            started = clock.monotonic()
            try:
                ending = await self._decide()
                if ending is not None and ending.state is not TaskState.SUCCEEDED:
                    ending = await self._take_back(ending)
                ended = await self._finish(ending) if ending is not None else None
            finally:
                # Also when run() itself is cancelled: the work must not go on without a lease.
                if self._work is not None and not self._work.done():
                    self._work.cancel()
            if ended is None or ending is None:
                log.info("task.dropped", task=str(row.id), attempt=row.attempt, why=self._dropped)
                return
            self.ending = ending
            seconds = clock.monotonic() - started
            self._count(ending, ended)
            log.info(
                "task.ended",
                task=str(row.id),
                attempt=row.attempt,
                outcome=ending.outcome,
                seconds=round(seconds, 3),
            )
            parts = self._parts
            await announce(parts.tasks, parts.streams, ended, clock, parts.options)

    async def _decide(self) -> Ending | None:
        """How the task ends; None: not by us."""
        row, options = self.task, self._parts.options
        if self._dropped:
            return None
        if self._cancel_requested:
            return Ending.cancelled()
        if self._seconds_left() <= 0:
            return Ending.failed(DeadlineExceeded("The deadline passed before the task was done."))
        if row.attempt - row.parks > options.max_attempts:
            log.error("task.attempts_exhausted", task=str(row.id), attempt=row.attempt)
            return Ending.failed(
                Internal("The task was given up: every worker that ran it was lost.")
            )
        while True:
            judged = await self._work_and_judge()
            if not isinstance(judged, Parked):
                return judged
            if await self._park(judged):
                return None
            if self._cancel_requested:
                return Ending.cancelled()

    async def _work_and_judge(self) -> Ending | Parked | None:
        row, options = self.task, self._parts.options
        self._work = asyncio.create_task(self._work_until_done(), name=f"task-{row.id}")
        interrupted = asyncio.create_task(self._interrupted.wait())
        try:
            await asyncio.wait(
                {self._work, interrupted},
                timeout=max(0.0, self._seconds_left()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            interrupted.cancel()
        if not self._work.done() and not await settle(self._work, options.settle_s):
            log.warning("task.work_hangs", task=str(row.id), attempt=row.attempt)
        return self._judge(self._work)

    def _judge(self, work: asyncio.Task[Outcome]) -> Ending | Parked | None:
        if self._dropped:
            return None
        if not work.done() or work.cancelled():
            # Interrupted by cancel or by the deadline.
            if self._cancel_requested:
                return Ending.cancelled()
            return Ending.failed(DeadlineExceeded("The deadline passed before the task was done."))
        error = work.exception()
        if error is None:
            result = work.result()
            return result if isinstance(result, Parked) else Ending.succeeded(result)
        if isinstance(error, Fenced):
            metrics.FENCED.labels(what="task").inc()
            self._dropped = "fenced"
            return None
        if self._cancel_requested:
            return Ending.cancelled()
        if not isinstance(error, MailyError):
            log.error("task.crashed", task=str(self.task.id), exc_info=error)
        if isinstance(error, AWAY):
            return Ending.failed(
                DeadlineExceeded(
                    "The deadline passed while a part that the task needs was away.",
                    {"code": error.code, "message": error.message},
                )
            )
        return Ending.failed(error)

    async def _work_until_done(self) -> Outcome:
        """Run the agents, again while something is away: finished steps are not done twice."""
        deadline = Deadline.after(self._seconds_left(), self._parts.clock)
        return await self._persistently(self._parts.runner, deadline)

    async def _persistently(
        self, work: Callable[..., Awaitable[T]], deadline: Deadline, *more: Any
    ) -> T:
        """``work`` with everything that a run needs, again while a part is away."""
        row, parts = self.task, self._parts
        patience = parts.options.patience
        task_input = TaskInput(
            task_id=row.id,
            request=TaskRequest.model_validate(row.request),
            worker=parts.worker,
            traceparent=current_traceparent(),
            workspace_id=row.workspace_id,
            graph=row.graph,
        )
        journal = PostgresJournal(
            parts.tasks,
            row.id,
            row.attempt,
            parts.clock,
            deadline,
            patience,
            parts.waits,
            border=self._border,
        )
        self._journal = journal
        llm = PatientLLM(parts.llm, parts.clock, deadline, patience)
        writer = parts.streams.writer(str(row.id), row.attempt, workspace=row.workspace_id)
        failures = 0
        try:
            while True:
                try:
                    return await work(
                        task_input,
                        llm,
                        PatientWriter(writer, parts.clock, deadline, patience),
                        journal,
                        parts.options.agents,
                        parts.clock,
                        deadline,
                        parts.services,
                        *more,
                    )
                except AWAY as error:
                    failures += 1
                    wait = pause(failures, patience, error.retry_after_s)
                    if wait >= deadline.remaining():
                        raise
                    log.warning("task.waits", task=str(row.id), code=error.code)
                    await parts.clock.sleep(wait)
        finally:
            try:
                await writer.aclose()
            except MailyError as error:  # its tokens are void now, or its successor writes them
                log.info("task.stream_not_flushed", task=str(row.id), code=error.code)

    async def _take_back(self, ending: Ending) -> Ending | None:
        """Undo what the task has done, as far as its graph says how. None: the lease was lost,
        and whoever claims the task goes on with it."""
        row, parts = self.task, self._parts
        error = ending.error or error_body(Cancelled("The task was cancelled."))
        deadline = Deadline.after(parts.options.undo_s, parts.clock)
        undoing = asyncio.create_task(self._persistently(parts.undo, deadline, error))
        dropped = asyncio.create_task(self._until_dropped())
        try:
            await asyncio.wait({undoing, dropped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            dropped.cancel()
            if not undoing.done():
                await settle(undoing, parts.options.settle_s)
        if not undoing.done() or undoing.cancelled():
            return None
        wrong = undoing.exception()
        if isinstance(wrong, Fenced):
            metrics.FENCED.labels(what="task").inc()
            self._dropped = "fenced"
            return None
        if wrong is not None:
            log.error("task.not_taken_back", task=str(row.id), exc_info=wrong)
            return ending.with_details({"not_taken_back": "see the task's steps"})
        failed = undoing.result()
        return ending.with_details({"not_taken_back": failed}) if failed else ending

    async def _until_dropped(self) -> None:
        while self._dropped is None:
            self._interrupted.clear()
            await self._interrupted.wait()

    async def _park(self, parked: Parked) -> bool:
        """Give the task up until people have decided. False: they have, or want it cancelled."""
        row, parts = self.task, self._parts
        if parts.waits is None:
            raise ValueError("a task waits for people, but nothing here can ask them")
        failures = 0
        while self._dropped is None:
            try:
                now = await parts.waits.park(row.id, row.attempt, parked.steps)
            except Fenced:
                metrics.FENCED.labels(what="task").inc()
                self._dropped = "fenced"
            except Unavailable as error:
                failures += 1
                await parts.clock.sleep(
                    pause(failures, parts.options.patience, error.retry_after_s)
                )
            else:
                if now.state is TaskState.WAITING:
                    self._dropped = "it waits for people"
                self._cancel_requested = self._cancel_requested or now.cancel_requested
                return self._dropped is not None
        return True

    async def _finish(self, ending: Ending) -> TaskRow | None:
        """Commit the ending; the ended row, or None when the lease was lost meanwhile.

        Waits for a database that is away for as long as the lease holds. A repeat after a lost
        answer gives the row as it ended.
        """
        row, parts = self.task, self._parts
        failures = 0
        while self._dropped is None:
            try:
                return await parts.tasks.finish(
                    row.id,
                    row.attempt,
                    ending.state,
                    result=ending.result,
                    error=ending.error,
                    degraded=ending.degraded,
                )
            except Fenced:
                metrics.FENCED.labels(what="task").inc()
                self._dropped = "fenced"
            except Unavailable as error:
                failures += 1
                await parts.clock.sleep(
                    pause(failures, parts.options.patience, error.retry_after_s)
                )
        return None

    def _count(self, ending: Ending, ended: TaskRow) -> None:
        labels = {"kind": ended.kind.value, "outcome": ending.outcome}
        metrics.TASKS.labels(**labels).inc()
        if ended.finished_at is not None:
            seconds = (ended.finished_at - ended.created_at).total_seconds()
            metrics.TASK_SECONDS.labels(**labels).observe(seconds)

    def _seconds_left(self) -> float:
        return self.task.deadline_at.timestamp() - self._parts.clock.now()


async def announce(
    tasks: TaskRepository,
    streams: StreamLog,
    row: TaskRow,
    clock: Clock,
    options: RunOptions = _OPTIONS,
) -> bool:
    """Append the ended task's terminal event unless its stream has one, and note that it is
    there. False: the log is away (or a later attempt wrote), so the coordinator's sweep has to.
    """
    type, data = terminal_event(row)
    patience = Deadline.after(options.announce_s, clock)
    try:
        await persist(
            lambda: streams.seal(str(row.id), row.attempt, type, data, workspace=row.workspace_id),
            clock,
            patience,
            options.patience,
        )
        await tasks.mark_announced([row.id])
    except (Unavailable, Fenced) as error:
        log.warning("task.not_announced", task=str(row.id), code=error.code)
        return False
    return True
