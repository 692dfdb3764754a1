"""One claimed task, from its claim to its end: run, finish once, tell the stream once.

The lease decides what may happen. ``drop`` (the lease is lost, or may be) ends the work without a
trace: whoever claims the task next goes on from its last finished step. ``cancel`` and the
deadline end the work and commit that ending, however deep in a model call the work hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.ending import Ending, terminal_event
from actors.journal import PostgresJournal
from actors.patience import (
    AWAY,
    PatienceOptions,
    PatientLLM,
    PatientWriter,
    pause,
    persist,
    settle,
)
from mesh.agents import AgentOptions, Journal, TaskInput, TimeLeft
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.base import Contract
from mesh.contracts.tasks import TaskRequest
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded, Fenced, Internal, MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.core.tracing import current_traceparent, span
from mesh.llm.engine import LLMClient
from mesh.resilience.deadline import Deadline
from mesh.storage.tasks import TaskRepository, TaskRow
from mesh.streams.log import StreamLog, StreamWriter

log = get_logger("task")


class Runner(Protocol):
    """What does a task's work: ``mesh.agents.run_task``."""

    def __call__(
        self,
        task_input: TaskInput,
        llm: LLMClient,
        writer: StreamWriter,
        journal: Journal,
        options: AgentOptions,
        clock: Clock,
        deadline: TimeLeft,
        services: AgentServices,
    ) -> Awaitable[Contract | dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Limits of one run."""

    max_attempts: int = 25
    """Claims of one task. A task that brings down worker after worker ends as failed."""
    settle_s: float = 5.0
    """How long cancelled work may take to let go before it is left behind."""
    announce_s: float = 30.0
    """How long to try to append the terminal event; after that it is the sweep's."""
    agents: AgentOptions = field(default_factory=AgentOptions)
    patience: PatienceOptions = field(default_factory=PatienceOptions)


@dataclass(frozen=True, slots=True)
class RunParts:
    """What every run of a process shares."""

    worker: str
    tasks: TaskRepository
    streams: StreamLog
    llm: LLMClient
    runner: Runner
    clock: Clock
    options: RunOptions = field(default_factory=RunOptions)
    services: AgentServices = NO_SERVICES


class TaskRun:
    """Runs one claimed task. Make one per claim and await ``run`` once."""

    def __init__(self, task: TaskRow, parts: RunParts, lease_until: float) -> None:
        self.task = task
        self.lease_until = lease_until
        """The clock's monotonic seconds until which the lease is surely ours."""
        self.ending: Ending | None = None
        """How it ended, once that is committed."""
        self._parts = parts
        self._work: asyncio.Task[Contract | dict[str, Any]] | None = None
        self._cancel_requested = task.cancel_requested
        self._dropped: str | None = None
        self._interrupted = asyncio.Event()

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

    async def run(self) -> None:
        """Never raises for what happens to the task; only when it is cancelled itself."""
        row, clock = self.task, self._parts.clock
        with span(
            "task.run",
            traceparent=row.traceparent,
            task=str(row.id),
            kind=row.kind,
            attempt=row.attempt,
            worker=self._parts.worker,
        ):
            started = clock.monotonic()
            try:
                ending = await self._decide()
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
        if row.attempt > options.max_attempts:
            log.error("task.attempts_exhausted", task=str(row.id), attempt=row.attempt)
            return Ending.failed(
                Internal("The task was given up: every worker that ran it was lost.")
            )
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

    def _judge(self, work: asyncio.Task[Contract | dict[str, Any]]) -> Ending | None:
        if self._dropped:
            return None
        if not work.done() or work.cancelled():
            # Interrupted by cancel or by the deadline.
            if self._cancel_requested:
                return Ending.cancelled()
            return Ending.failed(DeadlineExceeded("The deadline passed before the task was done."))
        error = work.exception()
        if error is None:
            return Ending.succeeded(work.result())
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

    async def _work_until_done(self) -> Contract | dict[str, Any]:
        """Run the agents, again while something is away: finished steps are not done twice."""
        row, parts = self.task, self._parts
        deadline = Deadline.after(self._seconds_left(), parts.clock)
        patience = parts.options.patience
        task_input = TaskInput(
            task_id=row.id,
            request=TaskRequest.model_validate(row.request),
            worker=parts.worker,
            traceparent=current_traceparent(),
            workspace_id=row.workspace_id,
        )
        journal = PostgresJournal(parts.tasks, row.id, row.attempt, parts.clock, deadline, patience)
        llm = PatientLLM(parts.llm, parts.clock, deadline, patience)
        writer = parts.streams.writer(str(row.id), row.attempt, workspace=row.workspace_id)
        failures = 0
        try:
            while True:
                try:
                    return await parts.runner(
                        task_input,
                        llm,
                        PatientWriter(writer, parts.clock, deadline, patience),
                        journal,
                        parts.options.agents,
                        parts.clock,
                        deadline,
                        parts.services,
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
    options: RunOptions = RunOptions(),
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
