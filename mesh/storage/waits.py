"""Tasks that wait for people: questions, answers, parking and waking.

A waiting task has no lease and no worker. It is queued again by the answer, by a cancel, or when
time is up; then any worker goes on with it. An answer and the parking of its task may happen at
once: both lock the task's row first, so either the task sees the answer or the answer wakes it.
All times are the database's.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mesh.contracts.tasks import TaskState
from mesh.core.errors import Conflict, Fenced, NotFound, Overloaded
from mesh.storage.pool import Connection, Database
from mesh.storage.task_rows import TaskRow

OPEN_LIMIT = 10_000
"""Questions that may wait in one workspace."""
_RETRY_S = 30.0

_LOCK = "SELECT * FROM tasks WHERE id = $1 FOR NO KEY UPDATE"
_ASK = """
INSERT INTO approvals (task_id, step, workspace_id, question, expires_at)
SELECT id, $3, workspace_id, $4,
       least(now() + make_interval(secs => $5), deadline_at)
FROM tasks WHERE id = $1 AND attempt = $2 AND state = 'running'
  AND (SELECT count(*) FROM (
        SELECT FROM approvals AS open
        WHERE open.workspace_id = tasks.workspace_id AND decided_at IS NULL LIMIT $6
      ) AS bounded) < $6
ON CONFLICT (task_id, step) DO NOTHING
RETURNING *, false AS expired
"""
_ASKED = """
SELECT approvals.*, approvals.expires_at <= now() AS expired
FROM approvals JOIN tasks ON tasks.id = approvals.task_id
WHERE task_id = $1 AND step = $3 AND tasks.attempt = $2 AND tasks.state = 'running'
"""
_ANSWERED = """
SELECT EXISTS (SELECT FROM approvals
               WHERE task_id = $1 AND step = ANY($2::text[]) AND decided_at IS NOT NULL)
"""
# An answer that is there already, or a cancel, is no time to park.
_PARK = """
WITH parked AS (
    UPDATE tasks SET state = 'waiting', lease_until = NULL, parks = parks + 1, updated_at = now(),
        wake_at = (SELECT min(expires_at) FROM approvals
                   WHERE task_id = $1 AND step = ANY($3::text[]))
    WHERE id = $1 AND attempt = $2 AND state = 'running' AND NOT cancel_requested
    RETURNING *
), noted AS (
    UPDATE attempts SET ended_at = now(), outcome = 'waiting' FROM parked
    WHERE attempts.task_id = parked.id AND attempts.attempt = parked.attempt
)
SELECT * FROM parked
"""
_DECIDE = """
UPDATE approvals SET approved = $3, comment = $4, decided_by = $5, decided_at = now()
WHERE task_id = $1 AND step = $2 AND decided_at IS NULL AND expires_at > now()
RETURNING *, false AS expired
"""
_ONE = """
SELECT *, expires_at <= now() AS expired FROM approvals WHERE task_id = $1 AND step = $2
"""
_WAKE = """
UPDATE tasks SET state = 'queued', wake_at = NULL, updated_at = now()
WHERE id = $1 AND state = 'waiting'
"""
_WAKE_DUE = """
WITH due AS (
    SELECT id FROM tasks WHERE state = 'waiting' AND wake_at <= now()
    ORDER BY wake_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE tasks SET state = 'queued', wake_at = NULL, updated_at = now()
FROM due WHERE tasks.id = due.id
RETURNING tasks.id
"""
_OF_TASK = """
SELECT *, expires_at <= now() AS expired FROM approvals WHERE task_id = $1 ORDER BY asked_at, step
"""
_STRANGE = """
SELECT graph, count(*) AS n FROM tasks
WHERE state = 'queued' AND graph IS NOT NULL AND graph <> ALL($1::text[])
GROUP BY graph ORDER BY graph LIMIT 20
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRow:
    task_id: UUID
    step: str
    workspace_id: UUID
    question: Any
    asked_at: datetime
    expires_at: datetime
    approved: bool | None
    """None: nobody has decided."""
    comment: str
    decided_by: str | None
    """Id of the key."""
    decided_at: datetime | None
    expired: bool
    """Time is up: no answer is taken any more."""

    @classmethod
    def from_record(cls, record: asyncpg.Record) -> ApprovalRow:
        return cls(**{name: record[name] for name in _FIELDS})


_FIELDS = tuple(f.name for f in fields(ApprovalRow))


class WaitRepository:
    def __init__(self, db: Database, open_limit: int = OPEN_LIMIT) -> None:
        self._db = db
        self._open_limit = open_limit

    async def ask(
        self, task_id: UUID, attempt: int, step: str, question: Any, timeout_s: float
    ) -> tuple[ApprovalRow, bool]:
        """Put a question under this epoch; the question as it stands, and whether it is new.

        Raises Fenced, and Overloaded when the workspace's people have too many to answer.
        """

        async def work(connection: Connection) -> tuple[ApprovalRow, bool]:
            before = await connection.fetchrow(_ASKED, task_id, attempt, step)
            if before is not None:
                return ApprovalRow.from_record(before), False
            record = await connection.fetchrow(
                _ASK, task_id, attempt, step, question, timeout_s, self._open_limit
            )
            if record is not None:
                return ApprovalRow.from_record(record), True
            row = await connection.fetchrow(_LOCK, task_id)
            if row is None or row["attempt"] != attempt or row["state"] != TaskState.RUNNING:
                raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
            raise Overloaded(
                "Too many questions wait in this workspace.",
                {"limit": self._open_limit},
                _RETRY_S,
            )

        return await self._db.transact(work)

    async def park(self, task_id: UUID, attempt: int, steps: Sequence[str]) -> TaskRow:
        """Let the task wait for one of these steps. It still runs where there is an answer by
        now, or a cancel was requested: look at its state.

        Raises Fenced. A repeat after a lost answer gives the waiting task.
        """

        async def work(connection: Connection) -> TaskRow:
            row = await connection.fetchrow(_LOCK, task_id)
            if row is None or row["attempt"] != attempt:
                raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
            if row["state"] == TaskState.WAITING:
                return TaskRow.from_record(row)
            if row["state"] != TaskState.RUNNING:
                raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
            if await connection.fetchval(_ANSWERED, task_id, list(steps)):
                return TaskRow.from_record(row)
            parked = await connection.fetchrow(_PARK, task_id, attempt, list(steps))
            return TaskRow.from_record(row if parked is None else parked)

        return await self._db.transact(work)

    async def decide(
        self,
        task_id: UUID,
        workspace_id: UUID,
        step: str,
        *,
        approved: bool,
        comment: str = "",
        by: str | None = None,
    ) -> tuple[ApprovalRow, TaskRow]:
        """Answer a question, once; its task is queued again if it waits. The same answer again
        is the first one's.

        Raises NotFound (no such task or question in this workspace), Conflict (it was answered
        otherwise, time is up, or the task has ended).
        """

        async def work(connection: Connection) -> tuple[ApprovalRow, TaskRow]:
            task = await connection.fetchrow(_LOCK, task_id)
            if task is None or task["workspace_id"] != workspace_id:
                raise NotFound("There is no such task.", {"task_id": str(task_id)})
            found = await connection.fetchrow(_ONE, task_id, step)
            if found is None:
                raise NotFound("This step has asked nothing.", {"step": step})
            if found["decided_at"] is None:
                if TaskState(task["state"]).ended:
                    raise Conflict("The task has ended.", {"state": task["state"]})
                found = await connection.fetchrow(_DECIDE, task_id, step, approved, comment, by)
                if found is None:
                    raise Conflict("Time is up: nobody had decided.", {"step": step})
                await connection.execute(_WAKE, task_id)
                task = await connection.fetchrow(_LOCK, task_id)
            elif found["approved"] != approved:
                raise Conflict(
                    "It was decided otherwise.", {"step": step, "approved": found["approved"]}
                )
            if task is None:
                raise NotFound("There is no such task.", {"task_id": str(task_id)})
            return ApprovalRow.from_record(found), TaskRow.from_record(task)

        return await self._db.transact(work)

    async def of_task(self, task_id: UUID) -> builtins.list[ApprovalRow]:
        """Every question of a task, oldest first. The caller has checked whose task it is."""
        return [ApprovalRow.from_record(r) for r in await self._db.fetch(_OF_TASK, task_id)]

    async def wake_due(self, limit: int = 100) -> int:
        """Queue waiting tasks whose time is up; how many there were."""
        return len(await self._db.fetch(_WAKE_DUE, limit))

    async def strange_graphs(self, known: Sequence[str]) -> dict[str, int]:
        """Queued tasks by graph that is none of these: a newer release has to run them."""
        records = await self._db.fetch(_STRANGE, list(known))
        return {record["graph"]: record["n"] for record in records}
