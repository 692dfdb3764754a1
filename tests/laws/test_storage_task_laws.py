"""Laws of the task repository: against a model step by step, and under many workers at once."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import PostgresServer

from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.errors import Conflict, Fenced
from mesh.core.ids import uuid7
from mesh.storage.migrate import migrate
from mesh.storage.pool import Database
from mesh.storage.tasks import NewStep, NewTask, TaskRepository

WORKERS = ("w0", "w1", "w2")
STEPS = ("strategy", "subject", "review")
ENDS = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


async def workspace(database: Database) -> uuid.UUID:
    workspace_id = uuid7()
    await database.fetch(
        "INSERT INTO workspaces (id, name) VALUES ($1, $2)", workspace_id, str(workspace_id)
    )
    return workspace_id


def new(workspace_id: uuid.UUID) -> NewTask:
    return NewTask(
        id=uuid7(),
        workspace_id=workspace_id,
        kind=TaskKind.WRITE_EMAIL,
        request={},
        deadline_at=datetime.now(UTC) + timedelta(minutes=10),
    )


def step(name: str, by: str) -> NewStep:
    return NewStep(
        name=name, position=STEPS.index(name), output={"by": by}, started_at=datetime.now(UTC)
    )


# --- one operation after the other: a model says what must happen ---------------------------


@dataclass
class Model:
    """One task as it must be."""

    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    owner: str | None = None
    live: bool = False
    cancel: bool = False
    steps: dict[str, tuple[int, str]] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    """What each worker believes its attempt is: the last one that it claimed."""

    def holds(self, worker: str) -> bool:
        """Believes in the newest epoch, and it has not ended."""
        return self.state is TaskState.RUNNING and self.known.get(worker) == self.attempt


operations = st.one_of(
    st.tuples(st.just("claim"), st.sampled_from(WORKERS), st.booleans()),
    st.tuples(st.just("lapse"), st.just(""), st.just(None)),
    st.tuples(st.just("release"), st.sampled_from(WORKERS), st.just(None)),
    st.tuples(st.just("renew"), st.sampled_from(WORKERS), st.just(None)),
    st.tuples(st.just("step"), st.sampled_from(WORKERS), st.sampled_from(STEPS)),
    st.tuples(st.just("cancel"), st.just(""), st.just(None)),
    st.tuples(st.just("finish"), st.sampled_from(WORKERS), st.sampled_from(ENDS)),
)


async def apply(
    tasks: TaskRepository,
    database: Database,
    task: NewTask,
    model: Model,
    operation: tuple[str, str, object],
) -> None:
    """Do it to both; the answer must be the one that the model gives."""
    kind, worker, argument = operation
    attempt = model.known.get(worker, 0)
    if kind == "claim":
        row = await tasks.claim(task.id if argument else None, worker, 60)
        free = not model.state.ended and not model.live
        assert (row is not None) == free
        if row is not None:
            model.state, model.owner, model.live = TaskState.RUNNING, worker, True
            model.attempt += 1
            model.known[worker] = row.attempt
            assert (row.attempt, row.cancel_requested) == (model.attempt, model.cancel)
    elif kind == "lapse":
        await database.fetch(
            "UPDATE tasks SET lease_until = now() - interval '1s'"
            " WHERE id = $1 AND state = 'running'",
            task.id,
        )
        model.live = False
    elif kind == "release":
        owned = model.live and model.owner == worker
        assert await tasks.release_owner(worker) == int(owned)
        model.live = model.live and not owned
    elif kind == "renew":
        result = (await tasks.renew_many(worker, [(task.id, attempt)], 60))[task.id]
        assert result.ok == model.holds(worker)
        assert result.cancel_requested == (result.ok and model.cancel)
        model.live = model.live or result.ok
    elif kind == "step":
        name = str(argument)
        if model.holds(worker):
            stored = await tasks.finish_step(task.id, attempt, step(name, worker))
            model.steps.setdefault(name, (attempt, worker))
            assert (stored.attempt, stored.output["by"]) == model.steps[name]
        else:
            with pytest.raises(Fenced):
                await tasks.finish_step(task.id, attempt, step(name, worker))
    elif kind == "cancel":
        if model.state in (TaskState.SUCCEEDED, TaskState.FAILED):
            with pytest.raises(Conflict):
                await tasks.request_cancel(task.id, task.workspace_id)
        else:
            row = await tasks.request_cancel(task.id, task.workspace_id)
            model.cancel = model.cancel or not model.state.ended
            if model.state is TaskState.QUEUED:
                model.state = TaskState.CANCELLED
            assert (row.state, row.cancel_requested) == (model.state, model.cancel)
    elif kind == "finish":
        state = TaskState(str(argument))
        repeat = model.state is state and attempt == model.attempt > 0
        if model.holds(worker) or repeat:
            row = await tasks.finish(task.id, attempt, state)
            model.state, model.live = state, False
            assert row.state is state
        else:
            with pytest.raises(Fenced):
                await tasks.finish(task.id, attempt, state)


@given(script=st.lists(operations, min_size=5, max_size=25))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
async def test_every_sequence_of_operations_does_what_the_model_says(
    database: Database, script: list[tuple[str, str, object]]
) -> None:
    await database.fetch("DELETE FROM tasks")
    tasks = TaskRepository(database)
    task = new(await workspace(database))
    await tasks.create(task)
    model = Model()
    for operation in script:
        await apply(tasks, database, task, model, operation)
        row = await tasks.get(task.id, task.workspace_id)
        assert (row.state, row.attempt) == (model.state, model.attempt)
        assert (row.finished_at is not None) == model.state.ended
        assert row.cancel_requested == model.cancel
    committed = {s.name: (s.attempt, s.output["by"]) for s in await tasks.steps(task.id)}
    assert committed == model.steps


# --- many at once: workers that stall, die, are declared dead and go on regardless ----------


class Storm:
    """Workers on all tasks until each has ended; remembers every answer that they got."""

    def __init__(self, tasks: TaskRepository, seed: int) -> None:
        self.tasks = tasks
        self.random = random.Random(seed)
        self.claims: list[tuple[uuid.UUID, int]] = []
        self.newest: dict[uuid.UUID, int] = defaultdict(int)
        self.commits: dict[tuple[uuid.UUID, str], set[tuple[int, str]]] = defaultdict(set)
        self.ended: Counter[uuid.UUID] = Counter()
        self.ended_by: dict[uuid.UUID, int] = {}

    async def worker(self, name: str) -> None:
        while await self.tasks.open_count():
            # Leases so short that owners lose them while they work.
            row = await self.tasks.claim(None, name, self.random.choice((0.01, 0.05, 0.2)))
            if row is None:
                await asyncio.sleep(0.01)
                continue
            self.claims.append((row.id, row.attempt))
            self.newest[row.id] = max(self.newest[row.id], row.attempt)
            if self.random.random() < 0.15:
                continue  # died: nobody gives the task back
            with suppress(Fenced):
                await self.work(row.id, row.attempt, name)

    async def work(self, task_id: uuid.UUID, attempt: int, name: str) -> None:
        for step_name in STEPS:
            await asyncio.sleep(self.random.choice((0, 0, 0.01, 0.06)))
            stored = await self.tasks.finish_step(task_id, attempt, step(step_name, name))
            self.commits[task_id, step_name].add((stored.attempt, stored.output["by"]))
            if self.random.random() < 0.3:
                await self.tasks.renew(task_id, attempt, name, 0.05)
        await self.tasks.finish(task_id, attempt, TaskState.SUCCEEDED, result={"by": name})
        self.ended[task_id] += 1
        self.ended_by[task_id] = attempt

    async def declare_dead(self) -> None:
        """A coordinator that is often wrong."""
        while await self.tasks.open_count():
            await self.tasks.release_owner(f"s{self.random.randrange(10)}")
            await asyncio.sleep(0.005)

    async def run(self) -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for i in range(10):
                group.create_task(self.worker(f"s{i}"))
            group.create_task(self.declare_dead())

    async def check(self, database: Database, created: set[uuid.UUID]) -> None:
        assert max(Counter(self.claims).values()) == 1  # one owner an epoch
        # Once each; after a crash an end may have been answered only to its owner's repeat.
        assert set(self.ended) == created
        assert set(self.ended.values()) == {1}
        rows = {r["id"]: r for r in await database.fetch("SELECT * FROM tasks")}
        for task_id in created:
            assert rows[task_id]["state"] == "succeeded"
            assert rows[task_id]["attempt"] == self.ended_by[task_id] == self.newest[task_id]
        stored = await database.fetch("SELECT * FROM steps")
        assert len(stored) == len(created) * len(STEPS)
        for record in stored:  # everybody who was told of a step was told the same
            told = self.commits[record["task_id"], record["name"]]
            assert told == {(record["attempt"], record["output"]["by"])}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_in_a_storm_every_task_ends_once_under_its_newest_epoch(
    database: Database, seed: int
) -> None:
    await database.fetch("DELETE FROM tasks")
    tasks = TaskRepository(database)
    workspace_id = await workspace(database)
    created = {(await tasks.create(new(workspace_id)))[0].id for _ in range(25)}
    storm = Storm(tasks, seed)
    await storm.run()
    await storm.check(database, created)
    assert len(storm.claims) > len(created)  # else the storm was none
    by_task = defaultdict(list)
    for task_id, attempt in storm.claims:
        by_task[task_id].append(attempt)
    for attempts in by_task.values():  # epochs grow by one, none is skipped
        assert sorted(attempts) == list(range(1, len(attempts) + 1))


@pytest.fixture
def mortal() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


async def test_in_a_storm_with_kill_9_of_the_server_nothing_acknowledged_is_lost(
    mortal: PostgresServer,
) -> None:
    await migrate(mortal.dsn())
    database = await Database.open(mortal.dsn())
    try:
        tasks = TaskRepository(database)
        workspace_id = await workspace(database)
        created = {(await tasks.create(new(workspace_id)))[0].id for _ in range(60)}
        storm = Storm(tasks, 4)

        async def murder() -> None:
            for goal in (10, 30):
                while len(storm.ended) < goal:  # noqa: ASYNC110 - no event says so
                    await asyncio.sleep(0.002)
                mortal.kill()
                mortal.launch()
                await asyncio.to_thread(mortal.wait_ready)

        async with asyncio.TaskGroup() as group:
            group.create_task(murder())
            group.create_task(storm.run())
        await storm.check(database, created)
        assert database.statistics().retries > 0
    finally:
        await database.aclose()
