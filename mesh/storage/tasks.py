"""Tasks and their steps: create, claim, renew, commit steps, end once.

A claim raises ``attempt`` by one: the epoch. Everything that a worker writes later names its epoch
and is checked against the row in the same statement, so a worker that was paused, cut off or
declared dead can't write once another has claimed. All times are the database's, never a
worker's. Every method may be repeated after a lost answer (the pool does so by itself); a claim
whose answer was lost comes back when its lease runs out.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from mesh.contracts.tasks import TaskState
from mesh.core.errors import Conflict, Fenced, IdempotencyMismatch, NotFound, Overloaded
from mesh.storage.pool import Connection, Database
from mesh.storage.task_rows import NewStep, NewTask, RenewResult, StepRow, TaskRow

__all__ = ["NewStep", "NewTask", "RenewResult", "StepRow", "TaskRepository", "TaskRow"]

OVERLOADED_RETRY_S = 5.0

# Admission and insertion in one round trip. The count stops at the limit, so a full queue costs no
# more than a nearly full one. It is not locked: n callers at once may overshoot by n - 1.
_CREATE = """
WITH room AS (
    SELECT count(*) < $10 AS free FROM (
        SELECT FROM tasks
        WHERE workspace_id = $2 AND state IN ('queued', 'running') LIMIT $10
    ) AS open
)
INSERT INTO tasks (id, workspace_id, kind, request, priority, idempotency_key, request_hash,
                   traceparent, deadline_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM room WHERE free
ON CONFLICT DO NOTHING
RETURNING *
"""
_CREATED_BEFORE = """
SELECT * FROM tasks WHERE workspace_id = $2 AND (id = $1 OR idempotency_key = $3)
"""
_GET = "SELECT * FROM tasks WHERE id = $1 AND workspace_id = $2"
# coalesce to the greatest uuid keeps one range condition that the index can use.
_LIST = """
SELECT * FROM tasks
WHERE workspace_id = $1
  AND id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND ($3::text IS NULL OR state = $3)
ORDER BY id DESC LIMIT $4
"""
_STEPS = "SELECT * FROM steps WHERE task_id = $1 ORDER BY position"

# SKIP LOCKED: claimers never wait for each other, each takes the best row that is free. The state
# condition is spelt as in the partial index tasks_open, which gives the order too.
_CLAIM = """
WITH best AS (
    SELECT id FROM tasks
    WHERE state IN ('queued', 'running') AND (lease_until IS NULL OR lease_until <= now())
      {only}
    ORDER BY priority DESC, id
    LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE tasks SET state = 'running', attempt = attempt + 1, owner = $1,
    lease_until = now() + make_interval(secs => $2), updated_at = now()
FROM best WHERE tasks.id = best.id
RETURNING tasks.*
"""
_CLAIM_BEST = _CLAIM.format(only="")
_CLAIM_ONE = _CLAIM.format(only="AND id = $3")

# Rows are locked in the order of their ids first: two statements over many tasks of one owner
# (its renewal and the coordinator's release) can't deadlock.
_RENEW = """
WITH held AS (
    SELECT tasks.id FROM tasks
    JOIN unnest($1::uuid[], $2::int[]) AS lease (id, attempt) USING (id, attempt)
    WHERE tasks.owner = $3 AND tasks.state = 'running'
    ORDER BY tasks.id FOR NO KEY UPDATE OF tasks
)
UPDATE tasks SET lease_until = now() + make_interval(secs => $4)
FROM held WHERE tasks.id = held.id
RETURNING tasks.id, tasks.attempt, tasks.cancel_requested
"""
_RELEASE_OWNER = """
WITH held AS (
    SELECT id FROM tasks
    WHERE owner = $1 AND state IN ('queued', 'running') AND lease_until > now()
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE tasks SET lease_until = now() FROM held WHERE tasks.id = held.id
RETURNING tasks.id
"""
_EXPIRED_OWNERS = """
SELECT DISTINCT owner FROM tasks
WHERE state IN ('queued', 'running') AND owner IS NOT NULL AND lease_until <= now()
ORDER BY owner
"""

# The lock on the task makes a claimer wait or pass by until the step is committed: either it sees
# the step, or we see its epoch and write nothing.
_FINISH_STEP = """
WITH held AS (
    SELECT id FROM tasks
    WHERE id = $1 AND attempt = $2 AND state = 'running' FOR NO KEY UPDATE
)
INSERT INTO steps (task_id, name, position, attempt, output, decisions, degraded, started_at)
SELECT id, $3, $4, $2, $5, $6, $7, $8 FROM held
ON CONFLICT (task_id, name) DO NOTHING
RETURNING *
"""
_FINISHED_STEP_BEFORE = """
SELECT steps.* FROM steps JOIN tasks ON tasks.id = steps.task_id
WHERE tasks.id = $1 AND tasks.attempt = $2 AND tasks.state = 'running' AND steps.name = $3
"""
_FINISH = """
UPDATE tasks SET state = $3, result = $4, error = $5, degraded = $6, lease_until = NULL,
    finished_at = now(), updated_at = now()
WHERE id = $1 AND attempt = $2 AND state = 'running'
RETURNING *
"""
# Epoch 0 has no owner: a task that was cancelled in the queue was not ended by a worker.
_FINISHED_BEFORE = """
SELECT * FROM tasks WHERE id = $1 AND attempt = $2 AND attempt > 0 AND state = $3
"""
_REQUEST_CANCEL = """
UPDATE tasks SET cancel_requested = true, updated_at = now(),
    state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END,
    finished_at = CASE state WHEN 'queued' THEN now() END
WHERE id = $1 AND workspace_id = $2 AND state IN ('queued', 'running')
RETURNING *
"""
_OPEN_COUNT = """
SELECT state, count(*) AS n FROM tasks WHERE state IN ('queued', 'running') GROUP BY state
"""
_UNANNOUNCED = """
SELECT * FROM tasks
WHERE announced_at IS NULL AND state IN ('succeeded', 'failed', 'cancelled')
  AND finished_at <= now() - make_interval(secs => $1)
ORDER BY finished_at LIMIT $2
"""
_MARK_ANNOUNCED = """
UPDATE tasks SET announced_at = now()
WHERE id = ANY($1::uuid[]) AND announced_at IS NULL
  AND state IN ('succeeded', 'failed', 'cancelled')
"""


class TaskRepository:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(
        self, task: NewTask, *, queue_limit: int | None = None
    ) -> tuple[TaskRow, bool]:
        """The task, and whether this call (or a repeat of it with the same id) made it.

        Raises IdempotencyMismatch (the key was used for another request) and Overloaded (the
        workspace has ``queue_limit`` open tasks; None: no limit). A repeat is answered even then.
        """
        limit = 2**31 - 1 if queue_limit is None else queue_limit
        hashed = task.request_hash()

        async def work(connection: Connection) -> tuple[TaskRow, bool]:
            record = await connection.fetchrow(
                _CREATE,
                task.id,
                task.workspace_id,
                task.kind,
                task.request,
                task.priority,
                task.idempotency_key,
                hashed,
                task.traceparent,
                task.deadline_at,
                limit,
            )
            if record is not None:
                return TaskRow.from_record(record), True
            record = await connection.fetchrow(
                _CREATED_BEFORE, task.id, task.workspace_id, task.idempotency_key
            )
            if record is None:
                raise Overloaded(
                    "This workspace has too many open tasks.",
                    {"limit": queue_limit},
                    OVERLOADED_RETRY_S,
                )
            if record["request_hash"] != hashed:
                raise IdempotencyMismatch(details={"task_id": str(record["id"])})
            return TaskRow.from_record(record), record["id"] == task.id

        return await self._db.transact(work)

    async def get(self, task_id: UUID, workspace_id: UUID) -> TaskRow:
        """Raises NotFound, also when it belongs to another workspace."""
        record = await self._db.fetchrow(_GET, task_id, workspace_id)
        if record is None:
            raise NotFound("There is no such task.", {"task_id": str(task_id)})
        return TaskRow.from_record(record)

    async def list(
        self,
        workspace_id: UUID,
        *,
        limit: int = 50,
        before: UUID | None = None,
        state: TaskState | None = None,
    ) -> builtins.list[TaskRow]:
        """Newest first; ``before``: the last id of the page before."""
        records = await self._db.fetch(_LIST, workspace_id, before, state, limit)
        return [TaskRow.from_record(record) for record in records]

    async def steps(self, task_id: UUID) -> builtins.list[StepRow]:
        """Committed steps in their order. The caller has checked whose task it is."""
        return [StepRow.from_record(record) for record in await self._db.fetch(_STEPS, task_id)]

    async def claim(self, task_id: UUID | None, owner: str, lease_s: float) -> TaskRow | None:
        """Take this task, or the best open one (None), for ``lease_s`` seconds; epoch + 1.

        Free is what is queued, or running with a lease that ran out. None: nothing is free. Tasks
        past their deadline and those to be cancelled are given too: the owner ends them.
        """
        if task_id is None:
            record = await self._db.fetchrow(_CLAIM_BEST, owner, lease_s)
        else:
            record = await self._db.fetchrow(_CLAIM_ONE, owner, lease_s, task_id)
        return None if record is None else TaskRow.from_record(record)

    async def renew(self, task_id: UUID, attempt: int, owner: str, lease_s: float) -> bool:
        """Hold it for ``lease_s`` more seconds from now; gives ``cancel_requested``.

        Raises Fenced. A lease that ran out is renewed as long as nobody else has claimed.
        """
        result = (await self.renew_many(owner, [(task_id, attempt)], lease_s))[task_id]
        if not result.ok:
            raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
        return result.cancel_requested

    async def renew_many(
        self, owner: str, held: Sequence[tuple[UUID, int]], lease_s: float
    ) -> dict[UUID, RenewResult]:
        """``renew`` of many (task, attempt) in one statement; answers for each."""
        if not held:
            return {}
        ids, attempts = [i for i, _ in held], [a for _, a in held]
        records = await self._db.fetch(_RENEW, ids, attempts, owner, lease_s)
        renewed = {r["id"]: RenewResult(True, r["cancel_requested"]) for r in records}
        return {i: renewed.get(i, RenewResult(False, False)) for i in ids}

    async def finish_step(self, task_id: UUID, attempt: int, step: NewStep) -> StepRow:
        """Commit a step under this epoch; a step of that name that is there already is given back.

        Raises Fenced when the task has another epoch or has ended.
        """

        async def work(connection: Connection) -> StepRow:
            record = await connection.fetchrow(
                _FINISH_STEP,
                task_id,
                attempt,
                step.name,
                step.position,
                step.output,
                step.decisions,
                step.degraded,
                step.started_at,
            )
            if record is None:
                record = await connection.fetchrow(
                    _FINISHED_STEP_BEFORE, task_id, attempt, step.name
                )
            if record is None:
                raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
            return StepRow.from_record(record)

        return await self._db.transact(work)

    async def finish(
        self,
        task_id: UUID,
        attempt: int,
        state: TaskState,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        degraded: bool = False,
    ) -> TaskRow:
        """End the task, once. The same owner's repeat with the same state gives the first ending.

        Raises Fenced when another epoch runs it or it has ended otherwise.
        """
        if not state.ended:
            raise ValueError(f"{state} is no end")

        async def work(connection: Connection) -> TaskRow:
            record = await connection.fetchrow(
                _FINISH, task_id, attempt, state, result, error, degraded
            ) or await connection.fetchrow(_FINISHED_BEFORE, task_id, attempt, state)
            if record is None:
                raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
            return TaskRow.from_record(record)

        return await self._db.transact(work)

    async def request_cancel(self, task_id: UUID, workspace_id: UUID) -> TaskRow:
        """Queued: cancelled at once. Running: its owner is asked to (``cancel_requested``).

        Raises NotFound, and Conflict when it succeeded or failed before.
        """
        record = await self._db.fetchrow(_REQUEST_CANCEL, task_id, workspace_id)
        if record is not None:
            return TaskRow.from_record(record)
        row = await self.get(task_id, workspace_id)
        if row.state is not TaskState.CANCELLED:
            raise Conflict("The task has ended.", {"task_id": str(task_id), "state": row.state})
        return row

    async def open_count(self) -> int:
        """Tasks of all workspaces that are queued or running."""
        return sum((await self.queue_depth()).values())

    async def queue_depth(self) -> dict[TaskState, int]:
        """Open tasks of all workspaces by state: for metrics."""
        counts = dict.fromkeys((TaskState.QUEUED, TaskState.RUNNING), 0)
        for record in await self._db.fetch(_OPEN_COUNT):
            counts[TaskState(record["state"])] = record["n"]
        return counts

    async def expired_owners(self) -> builtins.list[str]:
        """Owners that hold a running task whose lease ran out."""
        return [record["owner"] for record in await self._db.fetch(_EXPIRED_OWNERS)]

    async def release_owner(self, owner: str) -> int:
        """A dead (or draining) owner's leases end now; gives how many tasks are free by it."""
        return len(await self._db.fetch(_RELEASE_OWNER, owner))

    async def unannounced(
        self, *, older_than_s: float = 2.0, limit: int = 100
    ) -> builtins.list[TaskRow]:
        """Tasks that ended over ``older_than_s`` ago and whose stream is owed the terminal event.

        Their worker (or the gateway, for a cancelled one) died between commit and append.
        """
        records = await self._db.fetch(_UNANNOUNCED, older_than_s, limit)
        return [TaskRow.from_record(record) for record in records]

    async def mark_announced(self, task_ids: Iterable[UUID]) -> None:
        """The terminal events of these tasks are in their streams. Open tasks stay as they are."""
        await self._db.fetch(_MARK_ANNOUNCED, [*task_ids])
