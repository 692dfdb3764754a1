"""What the task repository takes and gives: one frozen dataclass a table, columns as fields."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from mesh.contracts.tasks import TaskKind, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to create. ``id`` is the caller's own UUIDv7: it makes ``create`` repeatable."""

    id: UUID
    workspace_id: UUID
    kind: TaskKind
    request: dict[str, Any]
    deadline_at: datetime
    priority: int = 0
    idempotency_key: str | None = None
    traceparent: str | None = None
    key_id: str | None = None
    """Of the API key that asked: it pays beside its workspace."""
    cost: float = 1.0
    """What it takes of its workspace's share, relative to other kinds of task."""
    graph: str | None = None
    """``kind:version:hash`` of the graph that runs it: only who knows it may claim it."""

    def request_hash(self) -> bytes:
        """SHA-256 of what was asked for: the deadline and the trace differ between repeats."""
        asked = {"kind": self.kind, "priority": self.priority, "request": self.request}
        return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    id: UUID
    workspace_id: UUID
    kind: TaskKind
    state: TaskState
    request: dict[str, Any]
    priority: int
    idempotency_key: str | None
    traceparent: str | None
    attempt: int
    """The lease's epoch: grows by one with each claim, 0 before the first."""
    owner: str | None
    """Who claimed it last; kept when the task has ended."""
    lease_until: datetime | None
    cancel_requested: bool
    degraded: bool
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    deadline_at: datetime
    announced_at: datetime | None
    """When its stream got the terminal event; None on an ended task: the event is owed."""
    key_id: str | None = None
    cost: float = 1.0
    turn: float = 0.0
    """Its place in virtual time: between workspaces the earliest goes first."""
    graph: str | None = None
    """Of the task's acceptance; None: accepted by a release without versions."""
    wake_at: datetime | None = None
    """Of a waiting task: when it is queued again without an answer."""
    parks: int = 0
    """How often it has waited: so many of its attempts are no failures."""

    @classmethod
    def from_record(cls, record: asyncpg.Record) -> TaskRow:
        values = {name: record[name] for name in _TASK_FIELDS}
        values["kind"] = TaskKind(values["kind"])
        values["state"] = TaskState(values["state"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStep:
    """A step that has finished and is about to be committed."""

    name: str
    position: int
    output: dict[str, Any]
    started_at: datetime
    decisions: list[dict[str, Any]] = field(default_factory=list)
    degraded: bool = False
    error: dict[str, Any] | None = None
    """code, message and details of a step that failed for good."""
    tries: int = 1
    input_hash: str = ""
    hand_to: str | None = None
    reads: list[dict[str, Any]] = field(default_factory=list)
    """What it read, as ``mesh.contracts.trace.ReadRecord`` …"""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """… and which models it asked, as ``CallRecord``."""
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    task_id: UUID
    name: str
    position: int
    attempt: int
    """The epoch under which it was committed."""
    output: dict[str, Any]
    decisions: list[dict[str, Any]]
    degraded: bool
    started_at: datetime
    finished_at: datetime
    error: dict[str, Any] | None = None
    tries: int = 1
    input_hash: str = ""
    hand_to: str | None = None
    reads: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    agent: str = ""

    @classmethod
    def from_record(cls, record: asyncpg.Record) -> StepRow:
        return cls(**{name: record[name] for name in _STEP_FIELDS})


@dataclass(frozen=True, slots=True)
class RenewResult:
    ok: bool
    """False: fenced. Stop working on it, write nothing more."""
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class ClaimFilter:
    """What a claimer takes."""

    kinds: frozenset[str] | None = None
    """None: every kind."""
    full: frozenset[UUID] = frozenset()
    """Workspaces that hold their share of the claimer already: their queued tasks wait."""
    graphs: frozenset[str] | None = None
    """Graphs that the claimer knows; None: all. Tasks without one are taken always."""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Open tasks of one workspace."""

    queued: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One claim of a task."""

    task_id: UUID
    attempt: int
    worker: str
    """The owner: the worker's name and its incarnation."""
    decision: dict[str, Any]
    """Why this worker: candidates with every part of their scores. Empty: nobody said."""
    claimed_at: datetime
    ended_at: datetime | None
    outcome: str | None
    """A task's final state, ``lost`` or ``handed_over``; None: it runs (or nobody noticed yet)."""

    @classmethod
    def from_record(cls, record: asyncpg.Record) -> AttemptRow:
        return cls(**{f.name: record[f.name] for f in fields(cls)})


BUCKETS = 64
"""Workspaces fall into so many buckets; coordinators share these out among themselves."""


def bucket_of(workspace_id: UUID) -> int:
    """The last bits of the id: random in a UUIDv7, and cheap to say in SQL as well."""
    return workspace_id.int % BUCKETS


_TASK_FIELDS = tuple(f.name for f in fields(TaskRow))
_STEP_FIELDS = tuple(f.name for f in fields(StepRow))
