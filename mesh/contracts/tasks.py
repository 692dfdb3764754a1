"""Tasks, steps and what callers see of them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from mesh.contracts.base import Contract
from mesh.contracts.email import Brief, Email

VERSION = 1


class TaskKind(StrEnum):
    WRITE_EMAIL = "write_email"


class TaskState(StrEnum):
    """queued → running → succeeded | failed | cancelled. The last three never change again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


class TaskRequest(Contract):
    """Body of ``POST /v1/mesh/tasks``."""

    kind: Literal[TaskKind.WRITE_EMAIL] = TaskKind.WRITE_EMAIL
    brief: Brief
    model: str | None = Field(default=None, max_length=200, description="None: the default model")
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    priority: int = Field(default=0, ge=-10, le=10, description="Higher runs first")
    deadline_s: float = Field(default=600.0, ge=1.0, le=86_400.0, description="Seconds from now")


class Decision(Contract):
    """One thing an agent decided, and what it rests on: the AI Reasoning layer reads these."""

    agent: str
    what: str
    chosen: Any = None
    candidates: list[dict[str, Any]] = Field(default_factory=list, description="With scores")
    reason: str = ""
    repairs: list[str] = Field(default_factory=list, description="What was mended, and how")
    degraded: bool = False


class StepView(Contract):
    """A finished or running step of a task."""

    name: str
    state: Literal["running", "succeeded", "failed"]
    attempt: int = Field(description="The lease epoch under which it ran")
    output: dict[str, Any] | None = None
    decisions: list[Decision] = Field(default_factory=list)
    started_at: datetime
    finished_at: datetime | None = None


class TaskResult(Contract):
    """What ``write_email`` gives."""

    email: Email
    html: str
    text: str
    degraded: bool = Field(description="True when any part is the template fallback")


class TaskView(Contract):
    """What ``GET /v1/mesh/tasks/{id}`` answers."""

    id: UUID
    kind: TaskKind
    state: TaskState
    attempt: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    deadline_at: datetime
    model: str | None = None
    brief: Brief
    degraded: bool = False
    result: TaskResult | None = None
    error: dict[str, Any] | None = Field(default=None, description="code, message, details")
    steps: list[StepView] = Field(default_factory=list)
    events_url: str


class TaskPage(Contract):
    """What ``GET /v1/mesh/tasks`` answers: newest first."""

    items: list[TaskView]
    next_cursor: str | None = None
