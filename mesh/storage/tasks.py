"""Tasks and their steps: create, claim, renew, commit steps, end once.

A claim raises ``attempt`` by one: the epoch. Everything that a worker writes later names its epoch
and is checked against the row in the same statement, so a worker that was paused, cut off or
declared dead can't write once another has claimed. All times are the database's, never a
worker's. Every method may be repeated after a lost answer (the pool does so by itself); a claim
whose answer was lost comes back when its lease runs out.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from mesh.contracts.tasks import TaskState
from mesh.core.errors import Conflict, Fenced, IdempotencyMismatch, NotFound, Overloaded
from mesh.storage import task_sql as sql
from mesh.storage.grouped import Grouped
from mesh.storage.pool import Connection, Database
from mesh.storage.task_rows import (
    AttemptRow,
    ClaimFilter,
    NewStep,
    NewTask,
    QueueDepth,
    RenewResult,
    StepRow,
    TaskRow,
)

__all__ = [
    "AttemptRow",
    "ClaimFilter",
    "NewStep",
    "NewTask",
    "QueueDepth",
    "RenewResult",
    "StepRow",
    "TaskRepository",
    "TaskRow",
]

OVERLOADED_RETRY_S = 5.0
ANY = ClaimFilter()
UNEXPLAINED: dict[str, Any] = {"": {}}
"""The decision of an attempt that nobody explained."""


class TaskRepository:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._marks: Grouped[UUID] = Grouped(lambda ids: db.fetch(sql.MARK_ANNOUNCED, ids))

    async def create(
        self, task: NewTask, *, queue_limit: int | None = None
    ) -> tuple[TaskRow, bool]:
        """The task, and whether this call (or a repeat of it with the same id) made it.

        Raises IdempotencyMismatch (the key was used for another request) and Overloaded (the
        workspace has exactly ``queue_limit`` open tasks; None: no limit). A repeat is answered
        even then.
        """
        hashed = task.request_hash()

        async def work(connection: Connection) -> tuple[TaskRow, bool]:
            record = await connection.fetchrow(
                sql.CREATE,
                task.id,
                task.workspace_id,
                task.kind,
                task.request,
                task.priority,
                task.idempotency_key,
                hashed,
                task.traceparent,
                task.deadline_at,
                queue_limit,
                task.cost,
                task.key_id,
                task.graph,
            )
            if record is not None:
                return TaskRow.from_record(record), True
            record = await connection.fetchrow(
                sql.CREATED_BEFORE, task.id, task.workspace_id, task.idempotency_key
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
        record = await self._db.fetchrow(sql.GET, task_id, workspace_id)
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
        records = await self._db.fetch(sql.LIST, workspace_id, before, state, limit)
        return [TaskRow.from_record(record) for record in records]

    async def steps(self, task_id: UUID) -> builtins.list[StepRow]:
        """Committed steps in their order. The caller has checked whose task it is."""
        return [StepRow.from_record(record) for record in await self._db.fetch(sql.STEPS, task_id)]

    async def claim(self, task_id: UUID | None, owner: str, lease_s: float) -> TaskRow | None:
        """Take this task, or the next one (None), for ``lease_s`` seconds; epoch + 1.

        Free is what is queued, or running with a lease that ran out. None: nothing is free. Tasks
        past their deadline and those to be cancelled are given too: the owner ends them.
        """
        if task_id is None:
            rows = await self.claim_many(owner, lease_s, 1)
            return rows[0] if rows else None
        record = await self._db.fetchrow(sql.CLAIM_ONE, owner, lease_s, UNEXPLAINED, task_id)
        return None if record is None else TaskRow.from_record(record)

    async def claim_many(
        self,
        owner: str,
        lease_s: float,
        n: int,
        take: ClaimFilter = ANY,
        decision: dict[str, Any] | None = None,
    ) -> builtins.list[TaskRow]:
        """Up to ``n`` tasks in one statement: what a lost owner had begun, then fair shares.

        Between workspaces the turn decides (see ``take_turn`` in the schema), within one the
        priority. ``decision``: kept with each attempt, as what led to it.
        """
        records = await self._db.fetch(
            sql.CLAIM_TURNS,
            owner,
            lease_s,
            {"": decision} if decision is not None else UNEXPLAINED,
            n,
            [*take.full],
            None if take.kinds is None else [*take.kinds],
            None if take.graphs is None else [*take.graphs],
        )
        return [TaskRow.from_record(record) for record in records]

    async def claim_offered(
        self,
        owner: str,
        lease_s: float,
        offers: Mapping[UUID, dict[str, Any]],
        n: int,
        take: ClaimFilter = ANY,
        *,
        slack: float = 8.0,
    ) -> builtins.list[TaskRow]:
        """Up to ``n`` of the tasks that were offered, each with the decision that led here.

        Left alone: a task that a better one of its workspace waits before, and one whose turn is
        more than ``slack`` behind the first that waits: ``claim_many`` then takes whose turn it
        is. (The kind was looked at by whoever offered.)
        """
        decisions = {str(task_id): decision for task_id, decision in offers.items()}
        records = await self._db.fetch(
            sql.CLAIM_OFFERED,
            owner,
            lease_s,
            UNEXPLAINED | decisions,
            [*offers],
            [*take.full],
            slack,
            n,
            None if take.graphs is None else [*take.graphs],
        )
        return [TaskRow.from_record(record) for record in records]

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
        records = await self._db.fetch(sql.RENEW, ids, attempts, owner, lease_s)
        renewed = {r["id"]: RenewResult(True, r["cancel_requested"]) for r in records}
        return {i: renewed.get(i, RenewResult(False, False)) for i in ids}

    async def finish_step(self, task_id: UUID, attempt: int, step: NewStep) -> StepRow:
        """Commit a step under this epoch; a step of that name that is there already is given back.

        Raises Fenced when the task has another epoch or has ended.
        """

        # One statement is its own transaction: no round trips for its begin and its end.
        record = await self._db.fetchrow(
            sql.FINISH_STEP,
            task_id,
            attempt,
            step.name,
            step.position,
            step.output,
            step.decisions,
            step.degraded,
            step.started_at,
            step.error,
            step.tries,
            step.input_hash,
            step.hand_to,
            step.reads,
            step.calls,
            step.agent,
        ) or await self._db.fetchrow(sql.FINISHED_STEP_BEFORE, task_id, attempt, step.name)
        if record is None:
            raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
        return StepRow.from_record(record)

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

        record = await self._db.fetchrow(
            sql.FINISH, task_id, attempt, state, result, error, degraded
        ) or await self._db.fetchrow(sql.FINISHED_BEFORE, task_id, attempt, state)
        if record is None:
            raise Fenced(details={"task_id": str(task_id), "attempt": attempt})
        return TaskRow.from_record(record)

    async def request_cancel(self, task_id: UUID, workspace_id: UUID) -> TaskRow:
        """Queued: cancelled at once. Running: its owner is asked to (``cancel_requested``).
        Waiting: queued once more, so that a worker takes back what it has done.

        Raises NotFound, and Conflict when it succeeded or failed before.
        """
        record = await self._db.fetchrow(sql.REQUEST_CANCEL, task_id, workspace_id)
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
        for record in await self._db.fetch(sql.OPEN_COUNT):
            counts[TaskState(record["state"])] = record["n"]
        return counts

    async def expired_owners(self) -> builtins.list[str]:
        """Owners that hold a running task whose lease ran out."""
        return [record["owner"] for record in await self._db.fetch(sql.EXPIRED_OWNERS)]

    async def release_owner(self, owner: str, outcome: str = "lost") -> int:
        """A dead (or draining) owner's leases end now; gives how many tasks are free by it.

        ``outcome``: what its attempts are noted to have come to.
        """
        return len(await self._db.fetch(sql.RELEASE_OWNER, outcome, owner))

    async def release(self, task_id: UUID, attempt: int, outcome: str) -> bool:
        """Give one lease back at once. False: it was no longer ours, or the task has ended."""
        return bool(await self._db.fetch(sql.RELEASE_ONE, outcome, task_id, attempt))

    async def unannounced(
        self,
        *,
        older_than_s: float = 2.0,
        limit: int = 100,
        buckets: Iterable[int] | None = None,
    ) -> builtins.list[TaskRow]:
        """Tasks that ended over ``older_than_s`` ago and whose stream is owed the terminal event.

        Their worker (or the gateway, for a cancelled one) died between commit and append.
        ``buckets``: of these workspaces alone (see ``bucket_of``).
        """
        wanted = None if buckets is None else [*buckets]
        records = await self._db.fetch(sql.UNANNOUNCED, older_than_s, limit, wanted)
        return [TaskRow.from_record(record) for record in records]

    async def queues(self, buckets: Iterable[int]) -> dict[UUID, QueueDepth]:
        """Open tasks by workspace, of the workspaces in these buckets that have any."""
        return {
            record["workspace_id"]: QueueDepth(record["queued"], record["running"])
            for record in await self._db.fetch(sql.QUEUES, [*buckets])
        }

    async def active_workspaces(self, within_s: float) -> int:
        """How many queued a task in the last ``within_s`` seconds."""
        record = await self._db.fetchrow(sql.ACTIVE_WORKSPACES, within_s)
        return 0 if record is None else int(record["n"])

    async def attempts(self, task_id: UUID) -> builtins.list[AttemptRow]:
        """Every claim of the task, the first first. The caller has checked whose task it is."""
        return [AttemptRow.from_record(r) for r in await self._db.fetch(sql.ATTEMPTS, task_id)]

    async def set_weight(self, workspace_id: UUID, weight: float) -> None:
        """The workspace's share relative to others (1: as everybody). Counts for tasks queued
        from now on. Raises ValueError unless it is positive."""
        if not weight > 0:
            raise ValueError(f"a weight must be positive: {weight}")
        await self._db.fetch(sql.SET_WEIGHT, workspace_id, weight)

    async def mark_announced(self, task_ids: Iterable[UUID]) -> None:
        """The terminal events of these tasks are in their streams. Open tasks stay as they are."""
        await self._marks.add(task_ids)
