"""What a step asked the models and what it read, and the tree that explains a task by it.

A record never holds what was read, only where it is (``ref``): a memory that is forgotten later
is gone from the trace, too.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from mesh.contracts.base import Contract
from mesh.contracts.tasks import Decision, TaskKind, TaskState

VERSION = 1


class TryKind(StrEnum):
    """Why an engine was asked."""

    FIRST = "first"
    RETRY = "retry"
    FALLBACK = "fallback"
    HEDGE = "hedge"
    RESUME = "resume"
    """The answer broke off and was continued by its prefix."""


class CallTry(Contract):
    """One engine that was asked for one call."""

    engine: str
    kind: TryKind = TryKind.FIRST
    outcome: Literal["ok", "failed", "cancelled"] = "ok"
    error: str = Field(default="", description="Code of the error, where it failed")
    seconds: float = Field(default=0.0, ge=0)
    ttft_s: float | None = Field(default=None, ge=0, description="Seconds to the first token")


class CallRecord(Contract):
    """One call of a model, as the step that made it sees it."""

    operation: Literal["chat", "completion", "embeddings"] = "chat"
    requested: str = Field(default="", description="Route or model that was asked for")
    route: str = ""
    engine: str = Field(default="", description="Which one answered; empty: none did")
    model: str = Field(default="", description="Which model answered")
    outcome: Literal["ok", "failed", "cancelled", "cached"] = "ok"
    error: str = Field(default="", description="Code of the error, where it failed")
    started_at: datetime
    seconds: float = Field(default=0.0, ge=0)
    ttft_s: float | None = Field(default=None, ge=0, description="Seconds to the first token")
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    cost_micros: float | None = Field(
        default=None, ge=0, description="Millionths of the budgets' currency; null: no price known"
    )
    finish_reason: str = ""
    tries: list[CallTry] = Field(default_factory=list)
    folded: int = Field(default=1, ge=1, description="Calls that this record stands for")


class ReadKind(StrEnum):
    """What a step can read."""

    MEMORY = "memory"
    """``ref`` is the item's id."""
    TOOL = "tool"
    """``ref`` is the tool's name; what it gave is the step's own to keep."""
    STEP = "step"
    """``ref`` is the name of an earlier step."""


class ReadRecord(Contract):
    """One thing that a step read. ``label`` says what for, never what it said."""

    kind: ReadKind
    ref: str = Field(max_length=200)
    label: str = Field(default="", max_length=200)
    outcome: Literal["ok", "failed", "refused"] = "ok"
    error: str = ""
    score: float | None = None
    seconds: float | None = Field(default=None, ge=0)
    at: datetime | None = None
    details: dict[str, Any] = Field(default_factory=dict, description="Small and never personal")
    folded: int = Field(default=1, ge=1, description="Reads that this record stands for")


class ReadTrace(ReadRecord):
    """What was read, as it stands now."""

    text: str | None = Field(
        default=None, description="Of a memory that is still there, for who may read memories"
    )
    erased: bool = Field(default=False, description="A memory that was forgotten since")


class Totals(Contract):
    """Of a task, or of a step and all within it."""

    steps: int = 0
    calls: int = 0
    failed_calls: int = Field(default=0, description="No engine answered")
    extra_tries: int = Field(default=0, description="Retries, fallbacks, hedges, resumptions")
    cached_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_micros: float | None = Field(
        default=None, description="Millionths of the budgets' currency; null: no price is known"
    )
    unpriced_calls: int = 0
    model_seconds: float = Field(default=0.0, description="In calls, overlaps counted twice")
    reads: int = 0
    repairs: int = 0
    degraded_steps: int = 0


class Retried(Contract):
    """A model's answer that was thrown away, as the stream told it."""

    n: int
    reason: str
    at: datetime


class StepTrace(Contract):
    """One step, or a group of them: the items of a map, the hops of a handoff."""

    name: str
    kind: Literal["step", "group"] = "step"
    state: Literal["running", "waiting", "succeeded", "failed"]
    agent: str = ""
    prompts: list[str] = Field(default_factory=list, description="Prompt files by version")
    attempt: int = Field(description="The lease epoch under which it ran")
    started_at: datetime
    finished_at: datetime | None = None
    offset_s: float = Field(description="From when the task was accepted to when it started")
    seconds: float
    tries: int = 1
    reads: list[ReadTrace] = Field(default_factory=list)
    decisions: list[Decision] = Field(default_factory=list)
    calls: list[CallRecord] = Field(default_factory=list)
    retried: list[Retried] = Field(default_factory=list)
    degraded: bool = False
    handed_to: str | None = None
    error: dict[str, Any] | None = None
    totals: Totals = Totals()
    children: list[StepTrace] = Field(default_factory=list)


class WorkerCandidate(Contract):
    """A worker that was looked at, with the parts of its score. Lower is better."""

    worker: str
    score: float | None = None
    parts: dict[str, Any] = Field(default_factory=dict)


class WorkerChoice(Contract):
    """Why this worker."""

    reason: str = ""
    candidates: list[WorkerCandidate] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)


class AttemptTrace(Contract):
    """One claim of the task: who ran it, why, how far it came."""

    attempt: int
    worker: str
    choice: WorkerChoice | None = Field(default=None, description="null: nobody wrote it down")
    claimed_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str | None = Field(
        default=None, description="The task's final state, lost or handed_over; null: it runs"
    )
    seconds: float | None = None
    steps: list[StepTrace] = Field(default_factory=list)


class TaskTrace(Contract):
    """What ``GET /v1/mesh/tasks/{id}/trace`` answers."""

    id: UUID
    kind: TaskKind
    state: TaskState
    trace_id: str | None = Field(default=None, description="Of its OpenTelemetry trace")
    created_at: datetime
    finished_at: datetime | None = None
    seconds: float = Field(description="From acceptance to its end, or until now")
    queued_s: float | None = Field(default=None, description="From acceptance to the first claim")
    degraded: bool = False
    error: dict[str, Any] | None = None
    totals: Totals = Totals()
    attempts: list[AttemptTrace] = Field(default_factory=list)
    incomplete: list[str] = Field(
        default_factory=list, description="Sources that did not answer: stream, memory"
    )
