"""The one durable step: what is committed is never done again.

``FlowRun`` is one execution of a flow under one attempt. A step that the journal holds is given
back as it is; any other is started (its ``step.started`` voids what an earlier attempt streamed of
it), tried as its policy says, committed, and told to the stream.

Two round trips a step: its commit, and its ``step.started``, with which the ``step.finished`` of
the step before travels. So of a step that has a successor the event is surely in the stream; the
last ones (``frontier``) are said again by the next attempt, marked ``replayed``.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from mesh.agents.agent import (
    Agent,
    AgentOptions,
    Journal,
    StepContext,
    StepOutput,
    StepResult,
    TaskInput,
    TimeLeft,
)
from mesh.agents.graph.limits import Sooner, within
from mesh.agents.graph.nodes import Retry
from mesh.agents.graph.outcome import (
    AWAY,
    FAILED,
    base_name,
    failure,
    finished_event,
    rebuilt,
)
from mesh.agents.ledger import ledger
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.events import EventType
from mesh.contracts.trace import ReadKind, ReadRecord
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import (
    DeadlineExceeded,
    Fenced,
    MailyError,
)
from mesh.core.genai import agent_span
from mesh.llm.engine import LLMClient
from mesh.streams.log import StreamWriter

T = TypeVar("T")


@dataclass(slots=True)
class StepPlan:
    """One step of one execution, with its place in the journal."""

    name: str
    position: int
    agent: Agent
    previous: Mapping[str, Mapping[str, Any]]
    input: Mapping[str, Any]
    retry: Retry | None = None
    timeout_s: float | None = None
    keep_failure: bool = False
    """Its failure is committed, too: the graph goes on without it."""
    bound: bool = False
    """The input was made by bindings: the step reads nothing else."""
    room: int = 0
    """Positions for steps within it."""
    reads: tuple[str, ...] = ()
    """Names of the earlier steps whose outputs it is given."""

    def input_hash(self) -> str:
        """Digest of what it reads: the same in every attempt and in a replay."""
        read: Any = {"agent": self.agent.name, "input": self.input}
        if not self.bound:
            read["previous"] = self.previous
        packed = orjson.dumps(read, default=str, option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(packed, digest_size=12).hexdigest()


class FlowRun:
    """Belongs to one event loop; ``await open()`` first, ``await close()`` at the end."""

    def __init__(
        self,
        task: TaskInput,
        llm: LLMClient,
        writer: StreamWriter,
        journal: Journal,
        options: AgentOptions,
        clock: Clock,
        deadline: TimeLeft,
        services: AgentServices = NO_SERVICES,
        rng: random.Random | None = None,
    ) -> None:
        self.task = task
        self.llm = llm
        self.writer = writer
        self.journal = journal
        self.options = options
        self.clock = clock
        self.deadline = deadline
        self.services = services
        self.rng = rng or random.Random(task.task_id.int)  # noqa: S311 (jitter, not a secret)
        self.held: dict[str, StepOutput] = {}
        """What is committed, by name."""
        self.ran = 0
        """Steps that this execution ran itself."""
        self._owed: list[asyncio.Task[Any]] = []

    def derive(self, task: TaskInput) -> FlowRun:
        """The same execution, for a task within it: one journal, one stream, another request."""
        inner = FlowRun(
            task,
            self.llm,
            self.writer,
            self.journal,
            self.options,
            self.clock,
            self.deadline,
            self.services,
            self.rng,
        )
        inner.held = self.held
        inner._owed = self._owed
        return inner

    async def open(self) -> None:
        """Read the journal. Raises the error of a task that has begun to fail."""
        await self.read()
        failed = self.held.get(FAILED)
        if failed is not None and failed.error is not None:
            raise rebuilt(failed.error)

    async def read(self) -> None:
        """Read the journal, whatever it says."""
        self.held = dict(await self.journal.finished())

    async def begin(self, frontier: Sequence[str]) -> None:
        """Tell the stream who works now, and again what may not have reached it."""
        last = max(
            (step for step in self.held.values() if step.error is None),
            key=lambda step: (step.position, step.started_at),
            default=None,
        )
        await self.writer.append(
            EventType.TASK_STARTED,
            {"worker": self.task.worker, "resumed_from": None if last is None else last.name},
        )
        for name in frontier:
            await self.writer.append(
                EventType.STEP_FINISHED, finished_event(self.held[name], replayed=True)
            )

    async def say(self, type: EventType, data: dict[str, Any]) -> None:
        """Append an event, and wait until all that was said before is acknowledged, too."""
        owed = self._take_owed()
        if owed:
            # Shielded: a branch that is cancelled here takes no other's event with it.
            await asyncio.gather(
                self.writer.append(type, data), *(asyncio.shield(task) for task in owed)
            )
        else:
            await self.writer.append(type, data)

    async def say_soon(self, type: EventType, data: dict[str, Any]) -> None:
        """Append an event that the next ``say`` (or ``close``) waits for."""
        self._owed.append(asyncio.create_task(self.writer.append(type, data)))
        await asyncio.sleep(0)  # it takes its place in the queue now: nothing overtakes it

    def _take_owed(self) -> list[asyncio.Task[Any]]:
        """In place: flows within flows share the list."""
        owed = self._owed[:]
        self._owed.clear()
        return owed

    async def settle(self) -> None:
        """Wait for what ``say_soon`` has left."""
        owed = self._take_owed()
        if owed:
            await asyncio.gather(*owed)

    async def close(self) -> None:
        """Let go of what is still being said: the run has failed or was cancelled."""
        owed = self._take_owed()
        for task in owed:
            task.cancel()
        await asyncio.gather(*owed, return_exceptions=True)

    async def step(self, plan: StepPlan) -> StepOutput:
        """The step's output, run or recorded. Raises StepFailed when it failed for good, else
        what the agent, the journal and the stream raise."""
        finished = self.held.get(plan.name)
        if finished is None:
            finished = await self._run(plan)
        if finished.error is not None:
            raise failure(plan.name, finished.error)
        return finished

    async def _run(self, plan: StepPlan) -> StepOutput:
        if self.deadline.remaining() <= 0:
            raise DeadlineExceeded(details={"step": plan.name})
        self.ran += 1
        started = datetime.fromtimestamp(self.clock.now(), UTC)
        if not getattr(plan.agent, "continues", False):
            await self.say(EventType.STEP_STARTED, {"step": plan.name, "agent": plan.agent.name})
        error: dict[str, Any] | None = None
        step = base_name(plan.name)
        with agent_span(plan.agent.name, step, str(self.task.task_id)), ledger() as notes:
            for name in plan.reads:
                notes.add_read(ReadRecord(kind=ReadKind.STEP, ref=name))
            try:
                result, tries = await self._try(plan)
            except _Final as final:
                result, tries, error = StepResult({}), final.tries, final.body
        kept = await self.commit(
            StepOutput(
                name=plan.name,
                position=plan.position,
                output=result.output,
                decisions=result.decisions,
                reads=notes.reads,
                calls=notes.calls,
                degraded=result.degraded,
                started_at=started,
                error=error,
                tries=tries,
                input_hash=plan.input_hash(),
                hand_to=result.hand_to,
                agent=plan.agent.name,
            )
        )
        await self.say_soon(EventType.STEP_FINISHED, finished_event(kept))
        return kept

    async def commit(self, step: StepOutput) -> StepOutput:
        kept = await self.journal.commit(step)
        self.held[kept.name] = kept
        if kept.degraded:
            metrics.DEGRADED.labels(step=metrics.bounded("step", base_name(kept.name))).inc()
        return kept

    async def _try(self, plan: StepPlan) -> tuple[StepResult, int]:
        tries = 0
        while True:
            tries += 1
            try:
                return await self._once(plan), tries
            except Fenced:
                raise
            except MailyError as error:
                if isinstance(error, DeadlineExceeded) and self.deadline.remaining() <= 0:
                    raise
                if isinstance(error, AWAY) and plan.retry is None:
                    raise
                policy = plan.retry or Retry()
                if tries < policy.attempts and policy.applies(error):
                    wait = policy.pause_s(tries, self.rng.random(), error.retry_after_s)
                    if wait < self.deadline.remaining():
                        metrics.STEP_RETRIES.labels(
                            step=metrics.bounded("step", base_name(plan.name))
                        ).inc()
                        await self.say(
                            EventType.STEP_RETRIED,
                            {"step": plan.name, "reason": error.code, "n": tries},
                        )
                        await self.clock.sleep(wait)
                        continue
                if plan.keep_failure or plan.retry is not None:
                    raise _Final(error, tries) from error
                raise

    async def _once(self, plan: StepPlan) -> StepResult:
        deadline = self.deadline
        if plan.timeout_s is not None:
            deadline = Sooner(deadline, plan.timeout_s, self.clock)
        context = StepContext(
            task=self.task,
            step=plan.name,
            previous=plan.previous,
            llm=self.llm,
            writer=self.writer,
            options=self.options,
            clock=self.clock,
            deadline=deadline,
            services=self.services,
            input=plan.input,
            steps=Inner(self, plan),
        )
        if plan.timeout_s is None:
            return await plan.agent.run(context)
        return await within(
            plan.agent.run(context), plan.timeout_s, self.clock, {"step": plan.name}
        )


class _Final(Exception):
    """The step has failed for good, and its row shall say so."""

    def __init__(self, error: MailyError, tries: int) -> None:
        super().__init__(error.code)
        self.tries = tries
        self.body = {"code": error.code, "message": error.message, "details": error.details}


class Inner:
    """``SubSteps`` of one step: named ``parent/name``, at positions after its own."""

    def __init__(self, run: FlowRun, plan: StepPlan) -> None:
        self._run = run
        self._plan = plan
        self._next = plan.position

    def kept(self, name: str) -> StepOutput | None:
        return self._run.held.get(f"{self._plan.name}/{name}")

    async def run(
        self,
        name: str,
        agent: Agent,
        input: Mapping[str, Any],
        *,
        timeout_s: float | None = None,
    ) -> StepOutput:
        plan = self._plan
        self._next = min(self._next + 1, plan.position + plan.room)
        return await self._run.step(
            StepPlan(
                name=f"{plan.name}/{name}",
                position=self._next,
                agent=agent,
                previous={},
                input=input,
                timeout_s=timeout_s,
                bound=True,
            )
        )

    async def flow(self, flow: Any, task: TaskInput) -> Mapping[str, StepOutput]:
        inner: Mapping[str, StepOutput] = await flow.inside(
            self._run, task, f"{self._plan.name}/", self._plan.position + 1
        )
        return inner
