"""What every run of a task needs, and its limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.patience import PatienceOptions
from mesh.agents import AgentOptions, Journal, TaskInput, TimeLeft
from mesh.agents.run import Parked, undo_task
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.base import Contract
from mesh.core.clock import Clock
from mesh.llm.engine import LLMClient
from mesh.storage.tasks import TaskRepository
from mesh.storage.waits import WaitRepository
from mesh.streams.log import StreamLog, StreamWriter

Undo = Callable[..., Awaitable[list[str]]]
"""``mesh.agents.run.undo_task``."""

Outcome = Contract | dict[str, Any] | Parked


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
    ) -> Awaitable[Contract | dict[str, Any] | Parked]: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Limits of one run."""

    max_attempts: int = 25
    """Claims of one task. A task that brings down worker after worker ends as failed."""
    settle_s: float = 5.0
    """How long cancelled work may take to let go before it is left behind."""
    undo_s: float = 120.0
    """How long a task that failed or was cancelled may take to take back what it has done."""
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
    waits: WaitRepository | None = None
    """Questions to people; None: no task of these asks any."""
    undo: Undo = undo_task
    graphs: frozenset[str] | None = None
    """Graphs that this release knows: others' tasks are not claimed. None: all."""
