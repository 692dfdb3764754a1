"""Tasks, steps and what callers see of them."""

from __future__ import annotations

import math
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, field_validator

from mesh.contracts.base import Contract
from mesh.contracts.email import Brief, Email

VERSION = 1


class TaskKind(StrEnum):
    """What may be asked for; ``GET /v1/mesh/kinds`` describes each."""

    WRITE_EMAIL = "write_email"
    GENERATE = "generate"
    CLASSIFY = "classify"
    PERSONALISE = "personalise"
    OPTIMISE = "optimise"
    TRANSLATE = "translate"
    WORKFLOW = "workflow"


class TaskState(StrEnum):
    """queued → running → succeeded | failed | cancelled. The last three never change again.

    running → waiting → queued: a person has to decide before it goes on.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


class TaskRequest(Contract):
    """Body of ``POST /v1/mesh/tasks``."""

    kind: TaskKind = TaskKind.WRITE_EMAIL
    brief: Brief | None = Field(default=None, description="What write_email needs")
    input: dict[str, Any] | None = Field(
        default=None, description="What other kinds need; GET /v1/mesh/kinds gives the schemas"
    )
    model: str | None = Field(default=None, max_length=200, description="None: the default model")
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    priority: int = Field(default=0, ge=-10, le=10, description="Higher runs first")
    deadline_s: float = Field(default=600.0, ge=1.0, le=86_400.0, description="Seconds from now")
    use_memory: bool = Field(default=True, description="Whether agents may read the memory")

    @field_validator("input")
    @classmethod
    def _plain(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        stack: list[Any] = [value]
        while stack:
            part = stack.pop()
            if isinstance(part, dict):
                stack.extend(part.values())
            elif isinstance(part, list):
                stack.extend(part)
            elif isinstance(part, float) and not math.isfinite(part):
                raise ValueError("holds a number that is not finite")
            elif isinstance(part, int) and not -(2**63) <= part < 2**63:
                raise ValueError("holds an integer of more than 64 bits")
        return value

    def stored(self) -> dict[str, Any]:
        """As the task's row keeps it. Fields that are younger than the first release are left
        out while they hold their default, so that a repeat of an older request hashes alike."""
        body = self.model_dump(mode="json")
        for name, default in (("input", None), ("use_memory", True)):
            if body[name] == default:
                del body[name]
        if body["brief"] is not None and body["brief"]["contact"] is None:
            del body["brief"]["contact"]
        return body


class Decision(Contract):
    """One thing an agent decided, and what it rests on: the AI Reasoning layer reads these."""

    agent: str
    what: str
    chosen: Any = None
    candidates: list[dict[str, Any]] = Field(default_factory=list, description="With scores")
    reason: str = ""
    repairs: list[str] = Field(default_factory=list, description="What was mended, and how")
    prompt: str = Field(default="", description="Prompt file that asked for it: agent/v1#sum")
    cites: list[str] = Field(default_factory=list, description="Memories that it rests on")
    degraded: bool = False


class StepView(Contract):
    """A finished or running step of a task."""

    name: str
    state: Literal["running", "succeeded", "failed"]
    attempt: int = Field(description="The lease epoch under which it ran")
    output: dict[str, Any] | None = None
    error: dict[str, Any] | None = Field(default=None, description="code, message, details")
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
    brief: Brief | None = None
    input: dict[str, Any] | None = None
    degraded: bool = False
    result: TaskResult | dict[str, Any] | None = Field(
        default=None, description="An email of write_email; other kinds: see GET /v1/mesh/kinds"
    )
    error: dict[str, Any] | None = Field(default=None, description="code, message, details")
    steps: list[StepView] = Field(default_factory=list)
    events_url: str


class TaskPage(Contract):
    """What ``GET /v1/mesh/tasks`` answers: newest first."""

    items: list[TaskView]
    next_cursor: str | None = None
