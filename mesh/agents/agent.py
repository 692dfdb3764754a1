"""What an agent is: one durable step of a task, with everything that it needs passed in.

An agent reads the brief and the outputs of earlier steps, may ask the model, streams what it
writes, and gives one output with the decisions that led to it. It holds no state of its own, so
a worker process hosts as many as it likes, and another may take over between any two steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.base import Contract
from mesh.contracts.email import Brief
from mesh.contracts.tasks import Decision, TaskRequest
from mesh.contracts.trace import CallRecord, ReadRecord
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import InvalidInput
from mesh.llm.engine import LLMClient
from mesh.streams.log import StreamWriter


class StepOutput(Contract):
    """A finished step, as the journal keeps it."""

    name: str
    position: int
    output: dict[str, Any]
    decisions: tuple[Decision, ...] = ()
    reads: tuple[ReadRecord, ...] = ()
    """What it read, and …"""
    calls: tuple[CallRecord, ...] = ()
    """… which models it asked (``mesh.agents.ledger``)."""
    degraded: bool = False
    started_at: datetime
    error: dict[str, Any] | None = None
    """code, message and details of a step that failed for good; its output is empty then."""
    tries: int = 1
    """How many it took, in the attempt that committed it."""
    input_hash: str = ""
    """Digest of what the step was given: a replay must give it the same."""
    hand_to: str | None = None
    """Which agent the work was handed to."""
    agent: str = ""
    """Who did it."""


class Verdict(Contract):
    """What a person (or time) decided about a step that waits."""

    approved: bool
    comment: str = ""
    by: str | None = None
    """Id of the key; None: time was up."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was put to a person, once."""

    expires_at: float
    """Unix seconds."""
    verdict: Verdict | None = None
    expired: bool = False
    """By the journal's own clock: no verdict is taken any more."""
    new: bool = False
    """Whether this call put it."""


class Journal(Protocol):
    """Where finished steps are kept: what is committed here is never done again."""

    async def finished(self) -> Mapping[str, StepOutput]:
        """Every committed step by name."""
        ...

    async def commit(self, step: StepOutput) -> StepOutput:
        """Keep the step and return what is kept: the first commit of a name wins.

        Raises Fenced when a newer owner holds the task, Unavailable when the store stays away.
        """
        ...

    async def ask(self, step: str, question: Any, timeout_s: float) -> Asked:
        """Put a question to people, unless it was put before; how it stands. Raises as above."""
        ...


class MemoryJournal:
    """A journal in memory: for tests, and for tasks that need not outlive their process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._steps: dict[str, StepOutput] = {}
        self._clock = clock or SystemClock()
        self._asked: dict[str, Asked] = {}

    async def finished(self) -> Mapping[str, StepOutput]:
        return dict(self._steps)

    async def commit(self, step: StepOutput) -> StepOutput:
        return self._steps.setdefault(step.name, step)

    async def ask(self, step: str, question: Any, timeout_s: float) -> Asked:
        now = self._clock.now()
        before = self._asked.get(step)
        if before is None:
            before = self._asked[step] = Asked(now + timeout_s)
            return replace(before, new=True)
        return replace(before, expired=now >= before.expires_at)

    def decide(self, step: str, verdict: Verdict) -> None:
        """Answer a question. Raises KeyError when it was not put."""
        self._asked[step] = replace(self._asked[step], verdict=verdict)


class TimeLeft(Protocol):
    """What a deadline has to say here (``mesh.resilience.deadline.Deadline`` does)."""

    def remaining(self) -> float:
        """Seconds left; zero or less when it has passed."""
        ...


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How agents use the model."""

    max_tries: int = 3
    """Calls of the model per piece of text before the template answers."""
    default_model: str | None = None
    """Model id for tasks that name none; None: the service's own default."""
    call_timeout_s: float = 60.0
    """Longest time for one call of the model."""
    reserve_s: float = 0.5
    """With less time than this left the template answers, so that the task still ends well."""
    temperature: float = 0.1
    """Of the first try; each further one adds ``temperature_step``."""
    temperature_step: float = 0.25
    grounding: float = 1.0
    """Factor on the share of a text's words that the brief must hold. The default suits models
    that invent much; strong ones write better with 0.5."""


@dataclass(frozen=True, slots=True)
class TaskInput:
    """What a worker hands to ``run_task``."""

    task_id: UUID
    request: TaskRequest
    worker: str = ""
    """Name of the worker, for the ``task.started`` event."""
    traceparent: str | None = None
    workspace_id: UUID | None = None
    """Whose task it is; None only in tests and demonstrations without workspaces."""
    graph: str | None = None
    """``kind:version:hash``: what it was accepted under; None: the newest version."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """Everything that one step may use."""

    task: TaskInput
    step: str
    previous: Mapping[str, Mapping[str, Any]]
    """Outputs of earlier steps by name."""
    llm: LLMClient
    writer: StreamWriter
    options: AgentOptions
    clock: Clock
    deadline: TimeLeft
    services: AgentServices = NO_SERVICES
    input: Mapping[str, Any] = field(default_factory=dict)
    """What the step was given: the task's ``input``, or what the graph's bindings made."""
    steps: SubSteps | None = None
    """For durable steps within this one."""
    scratch: dict[str, Any] = field(default_factory=dict)
    """Shared by the pieces of one step; never stored."""

    @property
    def brief(self) -> Brief:
        """The task's brief. Raises InvalidInput for a task that has none."""
        if self.task.request.brief is None:
            raise InvalidInput("This step needs a brief.", {"field": "brief"})
        return self.task.request.brief

    @property
    def model(self) -> str | None:
        return self.task.request.model or self.options.default_model

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt: hand it to whatever the step changes outside."""
        return f"{self.task.task_id}/{self.step}"

    def seed(self, piece: str, n: int) -> int:
        """The same for the same task, step, piece and try: a resumed task samples alike."""
        base = self.task.request.seed
        root = self.task.task_id.int & 0x7FFFFFFF if base is None else base
        return (root ^ zlib.crc32(f"{self.step}/{piece}/{n}".encode())) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an agent gives back."""

    output: dict[str, Any]
    decisions: tuple[Decision, ...] = ()
    degraded: bool = False
    hand_to: str | None = None
    """The agent that shall take over; its step's ``handoffs`` must allow it."""


class SubSteps(Protocol):
    """Durable steps within a step: a tool's call, the steps of another kind of task."""

    async def run(
        self,
        name: str,
        agent: Agent,
        input: Mapping[str, Any],
        *,
        timeout_s: float | None = None,
    ) -> StepOutput:
        """Run it, unless it is committed; ``parent/name`` in the journal. Raises as steps do."""
        ...

    def kept(self, name: str) -> StepOutput | None:
        """What is committed of it."""
        ...

    async def flow(self, flow: Any, task: TaskInput) -> Mapping[str, StepOutput]:
        """Run a whole graph within this step; its steps' outputs by their own names."""
        ...


class Agent(Protocol):
    """One kind of step."""

    @property
    def name(self) -> str: ...

    @property
    def step(self) -> str: ...

    async def run(self, context: StepContext) -> StepResult:
        """Errors: DeadlineExceeded, UnknownModel, Fenced and Unavailable (stream log).

        Other failures of the model are the agent's to handle: it degrades instead of failing.
        """
        ...
