"""How a task ends, and how its stream says so exactly once.

The database decides (``TaskRepository.finish`` commits once); the stream is told afterwards. A
worker may die between the two, so three parties may have to append the terminal event: the
worker that finished the task, the gateway that cancelled a queued one, and the coordinator, which
sweeps ended tasks. ``StreamLog.seal`` lets one of them win.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mesh.contracts.base import Contract
from mesh.contracts.events import EventType
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.errors import Cancelled, Internal, MailyError
from mesh.storage.tasks import TaskRow

EVENT_OF_STATE = {
    TaskState.SUCCEEDED: EventType.TASK_SUCCEEDED,
    TaskState.FAILED: EventType.TASK_FAILED,
    TaskState.CANCELLED: EventType.TASK_CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """What ``finish`` will commit."""

    state: TaskState
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    degraded: bool = False
    outcome: str = field(default="")
    """Label of the metric: succeeded, degraded, cancelled, or the error's code."""

    @classmethod
    def succeeded(cls, result: Contract | dict[str, Any]) -> Ending:
        body = result if isinstance(result, dict) else result.model_dump(mode="json")
        degraded = bool(body.get("degraded", False))
        return cls(
            TaskState.SUCCEEDED,
            result=body,
            degraded=degraded,
            outcome="degraded" if degraded else "succeeded",
        )

    @classmethod
    def failed(cls, error: BaseException) -> Ending:
        """Only our own errors say what happened; of others the caller learns nothing more."""
        known = error if isinstance(error, MailyError) else Internal()
        return cls(TaskState.FAILED, error=error_body(known), outcome=known.code)

    def with_details(self, details: dict[str, Any]) -> Ending:
        """The same ending, its error saying more. A cancelled task gets an error by it."""
        error = self.error or error_body(Cancelled("The task was cancelled."))
        return replace(self, error=error | {"details": error["details"] | details})

    @classmethod
    def cancelled(cls) -> Ending:
        return cls(TaskState.CANCELLED, outcome="cancelled")


def error_body(error: MailyError) -> dict[str, Any]:
    """As the task's row and its terminal event keep it."""
    return {"code": error.code, "message": error.message, "details": error.details}


def terminal_event(row: TaskRow) -> tuple[EventType, dict[str, Any]]:
    """The terminal event of an ended task: a function of its row alone, so that whoever appends
    it says the same. Raises ValueError for a task that has not ended."""
    state = row.state
    if not state.ended:
        raise ValueError(f"task {row.id} has not ended: {state}")
    if state is TaskState.SUCCEEDED:
        data: dict[str, Any] = {"degraded": row.degraded}
        if row.kind is TaskKind.WRITE_EMAIL:
            data["subject"] = (row.result or {}).get("email", {}).get("subject")
    elif state is TaskState.FAILED:
        data = {"error": row.error or error_body(Internal())}
    else:
        data = {}
    return EVENT_OF_STATE[state], data
