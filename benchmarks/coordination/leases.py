"""Leases per second: claims of real rows under fair shares, every one committed and synced.

The peer is what one writes oneself: the smallest table that can queue, claimed with SKIP LOCKED in
batches of the same size. It has no shares, no epochs, no record of attempts.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from benchmarks.coordination.servers import database, workspaces
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.ids import uuid7
from mesh.storage.pool import Database
from mesh.storage.tasks import NewTask, TaskRepository

CLAIMERS = 4
"""Statements in flight at once, over two connections pools, as two workers would have."""

_PLAIN_TABLE = """
CREATE TABLE plain_queue (
    id uuid PRIMARY KEY, state text NOT NULL DEFAULT 'queued', request jsonb NOT NULL,
    priority smallint NOT NULL DEFAULT 0, owner text, lease_until timestamptz
);
CREATE INDEX plain_queue_open ON plain_queue (priority DESC, id) WHERE state = 'queued';
"""
_PLAIN_CLAIM = """
WITH best AS (
    SELECT id FROM plain_queue WHERE state = 'queued'
    ORDER BY priority DESC, id LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE plain_queue SET state = 'running', owner = $1, lease_until = now() + interval '3 s'
FROM best WHERE plain_queue.id = best.id RETURNING plain_queue.*
"""


@dataclass(frozen=True, slots=True)
class Leases:
    """Per second."""

    created: float
    claimed: float
    finished: float
    plain: float
    """The peer's claims."""


def new(space: UUID) -> NewTask:
    return NewTask(
        id=uuid7(),
        workspace_id=space,
        kind=TaskKind.WRITE_EMAIL,
        request={"kind": "write_email", "brief": {"goal": "say hello"}},
        deadline_at=datetime.now(UTC) + timedelta(minutes=10),
    )


async def measure_leases(url: str, tasks: int = 4_000, batch: int = 8, spaces: int = 8) -> Leases:
    """``batch``: claimed by one statement (a worker with so many free slots)."""
    async with database(url) as one, database(url) as two:
        owners = await workspaces(one, spaces)
        begin = time.perf_counter()
        numbers = iter(range(tasks))

        async def create() -> None:
            repository = TaskRepository(one)
            for number in numbers:
                await repository.create(new(owners[number % spaces]), queue_limit=tasks)

        await asyncio.gather(*(create() for _ in range(8)))
        created = tasks / (time.perf_counter() - begin)
        held: list[tuple[UUID, int]] = []

        async def claim(db: Database, owner: str) -> None:
            repository = TaskRepository(db)
            while rows := await repository.claim_many(owner, 60.0, batch):
                held.extend((row.id, row.attempt) for row in rows)

        begin = time.perf_counter()
        pools = [(one, "w1"), (two, "w2")]
        await asyncio.gather(
            *(claim(db, owner) for db, owner in pools for _ in range(CLAIMERS // 2))
        )
        claimed = tasks / (time.perf_counter() - begin)
        if len(held) != len(set(held)) or len(held) != tasks:
            raise RuntimeError(f"{len(held)} claims of {tasks} tasks")
        rest = iter(held)

        async def finish(db: Database) -> None:
            repository = TaskRepository(db)
            for task_id, attempt in rest:
                await repository.finish(task_id, attempt, TaskState.SUCCEEDED, result={})

        begin = time.perf_counter()
        await asyncio.gather(*(finish(db) for db, _ in pools for _ in range(CLAIMERS // 2)))
        finished = tasks / (time.perf_counter() - begin)
        return Leases(created, claimed, finished, await _plain(one, two, tasks, batch))


async def _plain(one: Database, two: Database, tasks: int, batch: int) -> float:
    async with one.connection() as connection:
        await connection.execute(_PLAIN_TABLE)
        await connection.executemany(
            "INSERT INTO plain_queue (id, request) VALUES ($1, $2)",
            [(uuid7(), {"kind": "write_email"}) for _ in range(tasks)],
        )
    count = 0

    async def claim(db: Database, owner: str) -> None:
        nonlocal count
        while rows := await db.fetch(_PLAIN_CLAIM, owner, batch):
            count += len(rows)

    begin = time.perf_counter()
    await asyncio.gather(
        *(
            claim(db, owner)
            for db, owner in ((one, "w1"), (two, "w2"))
            for _ in range(CLAIMERS // 2)
        )
    )
    return count / (time.perf_counter() - begin)
