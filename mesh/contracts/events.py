"""Events of the stream log. One cursor, ``attempt-sequence``, outlives every disconnect.

A cursor reads ``"3-17"``: attempt 3 (the lease epoch of the writer), event 17 of that attempt.
Cursors compare as pairs of integers; a later attempt is greater than any event of an earlier
one, so a fenced writer's events are refused by the log itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from mesh.contracts.base import Contract

VERSION = 1

_CURSOR = re.compile(r"^(\d{1,15})-(\d{1,15})$")


class EventType(StrEnum):
    TASK_ACCEPTED = "task.accepted"
    TASK_STARTED = "task.started"  # data: worker, resumed_from (step name or null)
    STEP_STARTED = "step.started"  # data: step, agent
    TOKENS = "tokens"  # data: step, text
    STEP_RETRIED = "step.retried"  # data: step, reason, n  (tokens so far of this step are void)
    STEP_FINISHED = "step.finished"  # data: step, output, decisions, degraded
    STEP_CONTINUED = "step.continued"  # data: step, agent, chars  (its tokens so far stand)
    STEP_WAITING = "step.waiting"  # data: step, question, expires_at  (Unix seconds)
    STEP_APPROVED = "step.approved"  # data: step, approved, comment, by, timed_out
    TASK_SUCCEEDED = "task.succeeded"  # data: degraded, subject
    TASK_FAILED = "task.failed"  # data: error
    TASK_CANCELLED = "task.cancelled"
    ERROR = "error"  # data: code, message, details, traceId; the stream ends
    ROOM_MESSAGE = "room.message"  # data: room, sender, data
    TRUST_BATCH = "trust.batch"  # data: contracts.trust.TrustEvent: a batch's new state
    TRUST_CERTIFICATE = "trust.certificate"  # data: TrustEvent: one was revoked or forgotten

    @property
    def terminal(self) -> bool:
        return self in (
            EventType.TASK_SUCCEEDED,
            EventType.TASK_FAILED,
            EventType.TASK_CANCELLED,
            EventType.ERROR,
        )

    @property
    def lifecycle(self) -> bool:
        """Whether the workspace's stream of all tasks tells of it too."""
        return self.value.startswith("task.")


@dataclass(frozen=True, order=True, slots=True)
class Cursor:
    """A position in a stream: everything up to and including it has been seen."""

    attempt: int = 0
    sequence: int = 0

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises ValueError unless ``text`` looks like ``3-17``."""
        match = _CURSOR.match(text)
        if match is None:
            raise ValueError(f"not a cursor: {text[:40]!r}; it looks like 3-17")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.attempt}-{self.sequence}"


class Event(Contract):
    """One event. ``stream`` is the task's id (or another stream's name)."""

    stream: str
    attempt: int = Field(ge=0)
    sequence: int = Field(ge=1)
    type: EventType
    at: float = Field(description="Unix seconds when it was made")
    data: dict[str, Any] = Field(default_factory=dict)

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.attempt, self.sequence)
