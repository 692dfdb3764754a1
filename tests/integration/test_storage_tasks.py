"""The task repository, case by case; its laws under concurrency are in laws/."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.errors import Conflict, Fenced, IdempotencyMismatch, NotFound, Overloaded
from mesh.core.ids import uuid7
from mesh.storage import task_sql
from mesh.storage.pool import Database
from mesh.storage.tasks import NewStep, NewTask, TaskRepository, TaskRow

ABSENT = uuid.UUID(int=1)


@pytest.fixture
def tasks(database: Database) -> TaskRepository:
    return TaskRepository(database)


@pytest_asyncio.fixture(loop_scope="session")
async def workspace(database: Database) -> uuid.UUID:
    """A workspace of its own, and no open task of another test."""
    await database.fetch("DELETE FROM tasks")
    workspace_id = uuid7()
    await database.fetch(
        "INSERT INTO workspaces (id, name) VALUES ($1, $2)", workspace_id, str(workspace_id)
    )
    return workspace_id


def new(workspace: uuid.UUID, **changes: Any) -> NewTask:
    task = NewTask(
        id=uuid7(),
        workspace_id=workspace,
        kind=TaskKind.WRITE_EMAIL,
        request={"brief": {"goal": "sell é"}},
        deadline_at=datetime.now(UTC) + timedelta(minutes=10),
    )
    return dataclasses.replace(task, **changes)


async def claimed(tasks: TaskRepository, workspace: uuid.UUID, owner: str = "w") -> TaskRow:
    row, _ = await tasks.create(new(workspace))
    claim = await tasks.claim(row.id, owner, 60)
    assert claim is not None
    return claim


async def lapse(database: Database, task_id: uuid.UUID) -> None:
    await database.fetch(
        "UPDATE tasks SET lease_until = now() - interval '1s' WHERE id = $1", task_id
    )


def step(name: str = "strategy", **changes: Any) -> NewStep:
    values = {"name": name, "position": 0, "output": {"a": 1}, "started_at": datetime.now(UTC)}
    return NewStep(**{**values, **changes})


# --- create ---------------------------------------------------------------------------------


async def test_a_new_task_is_queued_with_all_it_was_given(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    task = new(workspace, priority=3, traceparent="00-a-b-01", idempotency_key="k")
    row, created = await tasks.create(task)
    assert created
    assert row == await tasks.get(task.id, workspace)
    given = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    assert {name: getattr(row, name) for name in given} == given
    assert (row.state, row.attempt, row.owner) == (TaskState.QUEUED, 0, None)
    assert row.finished_at is row.announced_at is row.result is row.error is None


async def test_a_repeat_with_the_same_id_is_the_same_creation(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    task = new(workspace)
    first = await tasks.create(task)
    assert await tasks.create(task) == first == (first[0], True)


async def test_an_idempotency_key_gives_the_first_task_again(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    first, _ = await tasks.create(new(workspace, idempotency_key="k"))
    later = new(
        workspace,
        idempotency_key="k",
        traceparent="other",
        deadline_at=first.deadline_at + timedelta(hours=1),
    )
    again, created = await tasks.create(later, queue_limit=0)  # a full queue does not matter
    assert (again, created) == (first, False)
    for changes in ({"request": {}}, {"priority": 1}):
        with pytest.raises(IdempotencyMismatch):
            await tasks.create(new(workspace, idempotency_key="k", **changes))
    other = uuid7()
    await database.fetch("INSERT INTO workspaces (id, name) VALUES ($1, $2)", other, str(other))
    assert (await tasks.create(new(other, idempotency_key="k", request={})))[1]


async def test_of_many_creators_with_one_key_one_creates(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    made = await asyncio.gather(
        *(tasks.create(new(workspace, idempotency_key="race")) for _ in range(20))
    )
    assert sum(created for _, created in made) == 1
    assert len({row.id for row, _ in made}) == 1


async def test_the_queue_limit_counts_open_tasks_of_this_workspace(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    other = uuid7()
    await database.fetch("INSERT INTO workspaces (id, name) VALUES ($1, $2)", other, str(other))
    await tasks.create(new(other))
    first, _ = await tasks.create(new(workspace), queue_limit=2)
    await tasks.create(new(workspace), queue_limit=2)
    with pytest.raises(Overloaded) as caught:
        await tasks.create(new(workspace), queue_limit=2)
    assert caught.value.retry_after_s == 5.0
    await tasks.request_cancel(first.id, workspace)
    await tasks.create(new(workspace), queue_limit=2)


# --- read -----------------------------------------------------------------------------------


async def test_workspaces_never_see_each_other(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    row, _ = await tasks.create(new(workspace))
    for foreign in (uuid7(), ABSENT):
        with pytest.raises(NotFound):
            await tasks.get(row.id, foreign)
        with pytest.raises(NotFound):
            await tasks.request_cancel(row.id, foreign)
        assert await tasks.list(foreign) == []
    with pytest.raises(NotFound):
        await tasks.get(ABSENT, workspace)
    assert (await tasks.get(row.id, workspace)).cancel_requested is False


async def test_pages_are_newest_first_and_complete(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    ids = [(await tasks.create(new(workspace)))[0].id for _ in range(7)]
    await tasks.request_cancel(ids[3], workspace)
    seen: list[uuid.UUID] = []
    before = None
    while page := await tasks.list(workspace, limit=3, before=before):
        assert len(page) <= 3
        seen += [row.id for row in page]
        before = seen[-1]
    assert seen == sorted(ids, reverse=True)
    cancelled = await tasks.list(workspace, state=TaskState.CANCELLED)
    assert [row.id for row in cancelled] == [ids[3]]


# --- claim and renew ------------------------------------------------------------------------


async def test_the_best_open_task_is_claimed_first(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    order = [(0, 1), (5, 0), (0, 2), (-3, 3)]
    rows = {
        place: (await tasks.create(new(workspace, id=uuid7(ms), priority=priority)))[0].id
        for ms, (priority, place) in enumerate(order)
    }
    got = [await tasks.claim(None, f"w{i}", 60) for i in range(4)]
    assert [row.id for row in got if row] == [rows[place] for place in range(4)]
    assert await tasks.claim(None, "w", 60) is None


async def test_a_claim_is_a_lease_with_the_next_epoch(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    first = await claimed(tasks, workspace, "a")
    assert (first.state, first.attempt, first.owner) == (TaskState.RUNNING, 1, "a")
    assert await tasks.claim(first.id, "b", 60) is None
    assert await tasks.claim(ABSENT, "b", 60) is None
    await lapse(database, first.id)
    second = await tasks.claim(None, "b", 60)
    assert second is not None
    assert (second.id, second.attempt, second.owner) == (first.id, 2, "b")


async def test_overdue_and_cancelled_running_tasks_can_be_claimed_to_be_ended(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    overdue, _ = await tasks.create(
        new(workspace, deadline_at=datetime.now(UTC) - timedelta(seconds=1))
    )
    assert await tasks.claim(overdue.id, "w", 60) is not None
    running = await claimed(tasks, workspace)
    await tasks.request_cancel(running.id, workspace)
    await lapse(database, running.id)
    again = await tasks.claim(running.id, "w2", 60)
    assert again is not None
    assert again.cancel_requested


async def test_renewal_holds_and_tells_of_a_cancel(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    row = await claimed(tasks, workspace)
    await lapse(database, row.id)
    assert await tasks.renew(row.id, 1, "w", 60) is False
    assert await tasks.claim(None, "other", 60) is None
    await tasks.request_cancel(row.id, workspace)
    assert await tasks.renew(row.id, 1, "w", 60) is True
    for attempt, owner in ((2, "w"), (0, "w"), (1, "other")):
        with pytest.raises(Fenced):
            await tasks.renew(row.id, attempt, owner, 60)


async def test_many_renewals_answer_each_on_its_own(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    kept, lost, ended = [await claimed(tasks, workspace) for _ in range(3)]
    await lapse(database, lost.id)
    await tasks.claim(lost.id, "other", 60)
    await tasks.finish(ended.id, 1, TaskState.FAILED)
    results = await tasks.renew_many(
        "w", [(row.id, 1) for row in (kept, lost, ended)] + [(ABSENT, 1)], 60
    )
    assert {i: r.ok for i, r in results.items()} == {
        kept.id: True,
        lost.id: False,
        ended.id: False,
        ABSENT: False,
    }
    assert await tasks.renew_many("w", [], 60) == {}


async def test_a_dead_owners_tasks_are_free_at_once(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    rows = [await claimed(tasks, workspace, "dead") for _ in range(3)]
    kept = await claimed(tasks, workspace, "alive")
    await tasks.finish(rows[0].id, 1, TaskState.SUCCEEDED)
    assert await tasks.expired_owners() == []
    assert await tasks.release_owner("dead") == 2
    assert await tasks.release_owner("dead") == 0
    assert await tasks.expired_owners() == ["dead"]
    again = [await tasks.claim(None, "w", 60) for _ in range(3)]
    assert {row.id for row in again if row} == {rows[1].id, rows[2].id}
    assert (await tasks.get(kept.id, workspace)).owner == "alive"


# --- steps and the end ----------------------------------------------------------------------


async def test_steps_are_committed_once_and_outlive_their_attempt(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    row = await claimed(tasks, workspace)
    decisions = [{"agent": "strategist", "what": "angle"}]
    first = await tasks.finish_step(row.id, 1, step(decisions=decisions, degraded=True))
    assert (first.attempt, first.decisions, first.degraded) == (1, decisions, True)
    assert await tasks.finish_step(row.id, 1, step(output={"other": 2})) == first
    await lapse(database, row.id)
    await tasks.claim(row.id, "w2", 60)
    assert await tasks.finish_step(row.id, 2, step(output={"other": 3})) == first
    second = await tasks.finish_step(row.id, 2, step("subject", position=1))
    assert await tasks.steps(row.id) == [first, second]


async def test_a_fenced_writer_commits_nothing(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    row = await claimed(tasks, workspace)
    await lapse(database, row.id)
    await tasks.claim(row.id, "w2", 60)
    with pytest.raises(Fenced):
        await tasks.finish_step(row.id, 1, step())
    with pytest.raises(Fenced):
        await tasks.finish(row.id, 1, TaskState.SUCCEEDED)
    assert await tasks.steps(row.id) == []
    await tasks.finish(row.id, 2, TaskState.FAILED, error={"code": "internal"})
    with pytest.raises(Fenced):
        await tasks.finish_step(row.id, 2, step())


async def test_a_claimer_never_misses_a_step_that_is_being_committed(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    """The step's transaction holds the task: a claim passes by until it is committed."""
    row = await claimed(tasks, workspace)
    await lapse(database, row.id)
    s = step()
    values = (s.name, s.position, s.output, s.decisions, s.degraded, s.started_at)
    values += (s.error, s.tries, s.input_hash, s.hand_to, s.reads, s.calls, s.agent)
    async with database.transaction() as connection:
        assert await connection.fetchrow(task_sql.FINISH_STEP, row.id, 1, *values) is not None
        assert await tasks.claim(row.id, "w2", 60) is None
        assert await tasks.claim(None, "w2", 60) is None
    assert await tasks.claim(None, "w2", 60) is not None
    assert [s.name for s in await tasks.steps(row.id)] == ["strategy"]


@pytest.mark.parametrize("write", ["step", "end", "renewal"])
async def test_a_writer_that_meets_a_claim_half_way_waits_and_is_fenced(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database, write: str
) -> None:
    row = await claimed(tasks, workspace)
    await lapse(database, row.id)
    async with database.transaction() as connection:
        assert await connection.fetchrow(task_sql.CLAIM_ONE, "w2", 60, {"": {}}, row.id)
        writing: asyncio.Task[Any] = asyncio.create_task(
            {
                "step": lambda: tasks.finish_step(row.id, 1, step()),
                "end": lambda: tasks.finish(row.id, 1, TaskState.SUCCEEDED),
                "renewal": lambda: tasks.renew(row.id, 1, "w", 60),
            }[write]()
        )
        blocked = "SELECT FROM pg_locks WHERE NOT granted"
        while not await database.fetch(blocked):  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.002)
    with pytest.raises(Fenced):
        await writing
    assert await tasks.steps(row.id) == []
    assert (await tasks.get(row.id, workspace)).owner == "w2"


async def test_a_task_ends_once_and_its_owner_may_repeat_it(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    row = await claimed(tasks, workspace)
    result = {"email": {"subject": "é"}}
    ended = await tasks.finish(row.id, 1, TaskState.SUCCEEDED, result=result, degraded=True)
    assert (ended.state, ended.result, ended.degraded) == (TaskState.SUCCEEDED, result, True)
    assert ended.finished_at is not None
    assert ended.lease_until is None
    assert await tasks.finish(row.id, 1, TaskState.SUCCEEDED, result={"other": 1}) == ended
    for state in (TaskState.FAILED, TaskState.CANCELLED):
        with pytest.raises(Fenced):
            await tasks.finish(row.id, 1, state)
    assert await tasks.claim(row.id, "w", 60) is None
    with pytest.raises(ValueError):
        await tasks.finish(row.id, 1, TaskState.RUNNING)


async def test_cancelling(tasks: TaskRepository, workspace: uuid.UUID) -> None:
    queued, _ = await tasks.create(new(workspace))
    cancelled = await tasks.request_cancel(queued.id, workspace)
    assert cancelled.state is TaskState.CANCELLED
    assert cancelled.finished_at is not None
    assert await tasks.request_cancel(queued.id, workspace) == cancelled
    assert await tasks.claim(queued.id, "w", 60) is None

    running = await claimed(tasks, workspace)
    asked = await tasks.request_cancel(running.id, workspace)
    assert (asked.state, asked.cancel_requested) == (TaskState.RUNNING, True)
    await tasks.finish(running.id, 1, TaskState.CANCELLED)
    assert (await tasks.request_cancel(running.id, workspace)).state is TaskState.CANCELLED

    done = await claimed(tasks, workspace)
    await tasks.finish(done.id, 1, TaskState.SUCCEEDED)
    with pytest.raises(Conflict) as caught:
        await tasks.request_cancel(done.id, workspace)
    assert caught.value.details["state"] == "succeeded"


async def test_open_tasks_are_counted(tasks: TaskRepository, workspace: uuid.UUID) -> None:
    assert await tasks.open_count() == 0
    await tasks.create(new(workspace))
    running = await claimed(tasks, workspace)
    assert await tasks.queue_depth() == {TaskState.QUEUED: 1, TaskState.RUNNING: 1}
    await tasks.finish(running.id, 1, TaskState.FAILED)
    assert await tasks.open_count() == 1


async def test_ended_tasks_are_owed_their_terminal_event_until_it_is_marked(
    tasks: TaskRepository, workspace: uuid.UUID
) -> None:
    running = await claimed(tasks, workspace)
    await tasks.mark_announced([running.id])  # has not ended: stays owed
    await tasks.finish(running.id, 1, TaskState.SUCCEEDED)
    queued, _ = await tasks.create(new(workspace))
    await tasks.request_cancel(queued.id, workspace)
    assert await tasks.unannounced(older_than_s=3600) == []
    owed = await tasks.unannounced(older_than_s=0)
    assert [row.id for row in owed] == [running.id, queued.id]
    assert await tasks.unannounced(older_than_s=0, limit=1) == owed[:1]
    await tasks.mark_announced([running.id])
    first = (await tasks.get(running.id, workspace)).announced_at
    await tasks.mark_announced([running.id, queued.id])
    assert (await tasks.get(running.id, workspace)).announced_at == first
    assert await tasks.unannounced(older_than_s=0) == []


async def test_a_claim_reads_open_tasks_alone(
    tasks: TaskRepository, workspace: uuid.UUID, database: Database
) -> None:
    """With a long history behind it a claim touches a handful of pages, not the table."""
    await database.fetch(
        """
        INSERT INTO tasks (id, workspace_id, kind, state, request, deadline_at, finished_at)
        SELECT gen_random_uuid(), $1, 'write_email', 'succeeded', '{}', now(), now()
        FROM generate_series(1, 20000)
        """,
        workspace,
    )
    for _ in range(5):
        await tasks.create(new(workspace))
    await database.fetch("ANALYZE tasks")
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
    async with database.connection() as connection:
        plan = await connection.fetchval(
            explain + task_sql.CLAIM_TURNS, "w", 60.0, {"": {}}, 3, [], None, ["write_email:1:x"]
        )
    root = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    nodes = list(_nodes(root))
    assert {"tasks_turn", "tasks_best"} <= {node.get("Index Name") for node in nodes}
    scanned = [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] == "tasks"]
    assert scanned == []
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < 200


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)
