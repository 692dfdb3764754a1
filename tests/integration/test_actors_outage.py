"""PostgreSQL or Valkey goes away under running tasks: they go on when it is back.

Servers of the tests' own. The outage outlasts the leases and every retry inside the storage, so
the workers do see Unavailable, lose their leases and have to claim again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from uuid import UUID

import pytest
import pytest_asyncio
from actors_support import (
    CLOCK,
    STEPS,
    EchoRunner,
    EngineClient,
    check_stream,
    ended,
    events,
    new_task,
    until,
    workspace,
)
from services import PostgresServer, Server, ValkeyServer

from actors.coordinator_loop import CoordinatorLoop, CoordinatorOptions, CoordinatorParts
from actors.nudges import NudgeListener
from actors.task_run import RunOptions, RunParts
from actors.worker_loop import WorkerLoop, WorkerOptions
from mesh.contracts.tasks import TaskState
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.storage.leases import Leases
from mesh.storage.migrate import migrate
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository
from mesh.streams.connect import connect
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog

AWAY_S = 4.0
OPTIONS = WorkerOptions(slots=8, lease_s=1.0, heartbeat_s=0.1, poll_s=0.05, database_s=2.0)


@dataclass
class Runtime:
    """Two workers and a coordinator in this process, over servers that may be killed."""

    postgres: PostgresServer
    valkey: ValkeyServer
    tasks: TaskRepository
    streams: ValkeyStreamLog
    space: UUID
    runner: EchoRunner
    client: EngineClient
    workers: list[WorkerLoop]
    coordinator: CoordinatorLoop
    loops: list[asyncio.Task[None]]


@pytest_asyncio.fixture
async def runtime() -> AsyncIterator[Runtime]:
    postgres, valkey = PostgresServer(), ValkeyServer(append_only=True)
    try:
        postgres.start()
        valkey.start()
        await migrate(postgres.dsn())
        db = await Database.open(postgres.dsn(), command_timeout_s=1.0, retry_s=0.5)
        redis = connect(valkey.url, timeout_s=1.0)
        streams = ValkeyStreamLog(redis, StreamOptions(append_timeout_s=1.0))
        tasks = TaskRepository(db)
        runner, client = EchoRunner(), EngineClient(FakeEngine(slots=64, queue_limit=100))
        coordinator = CoordinatorLoop(
            CoordinatorParts(
                tasks=tasks,
                leases=Leases(db),
                redis=redis,
                streams=streams,
                clock=CLOCK,
                options=CoordinatorOptions(heartbeat_s=0.1, lease_s=1.0, owed_after_s=0.5),
            )
        )
        workers, loops = [], [asyncio.create_task(coordinator.run())]
        for name in ("w1", "w2"):
            parts = RunParts(name, tasks, streams, client, runner, CLOCK, RunOptions(settle_s=0.5))

            async def heartbeat(info: object) -> None:
                coordinator.heartbeat(info)  # type: ignore[arg-type]

            worker = WorkerLoop(name, parts, OPTIONS, heartbeat=heartbeat)
            listener = NudgeListener(
                redis,
                name,
                on_work=worker.work_is_there,
                on_offer=worker.offer,
                on_cancel=worker.cancel_requested,
                clock=CLOCK,
            )
            loops += [asyncio.create_task(worker.run()), asyncio.create_task(listener.run())]
            workers.append(worker)
        opened = Runtime(
            postgres, valkey, tasks, streams, await workspace(db), runner, client,
            workers, coordinator, loops,
        )  # fmt: skip
        yield opened
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await streams.aclose()
        await redis.aclose()
        await db.aclose()
    finally:
        postgres.close()
        valkey.close()


async def outage(server: Server) -> None:
    server.kill()
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(server.start)


CHOICES: list[Callable[[Runtime], Server]] = [lambda r: r.postgres, lambda r: r.valkey]


@pytest.mark.parametrize("server_of", CHOICES, ids=["postgres", "valkey"])
async def test_tasks_outlive_a_server_that_is_away(
    runtime: Runtime, server_of: Callable[[Runtime], Server]
) -> None:
    engine = runtime.client.engine
    assert isinstance(engine, FakeEngine)
    engine.faults = FaultPlan(token_delay_s=0.02)
    rows = [(await runtime.tasks.create(new_task(runtime.space)))[0] for _ in range(12)]
    await until(lambda: len(runtime.runner.ran) >= 16)  # in their second steps
    await outage(server_of(runtime))
    done = await asyncio.gather(*(ended(runtime.tasks, row) for row in rows))
    assert [(row.state, row.error) for row in done] == [(TaskState.SUCCEEDED, None)] * 12
    for row in done:
        assert [step.name for step in await runtime.tasks.steps(row.id)] == list(STEPS)
        check_stream(await events(runtime.streams, row.id))
    assert not any(loop.done() for loop in runtime.loops)  # nobody crashed
    await until(lambda: not any(w.unhealthy() for w in runtime.workers))
    await until(lambda: runtime.coordinator.unhealthy() is None)
    # New work flows as before.
    engine.faults = FaultPlan()
    row, _ = await runtime.tasks.create(new_task(runtime.space))
    assert (await ended(runtime.tasks, row)).attempt == 1


async def test_a_lease_that_ran_out_while_the_database_was_away_is_dropped(
    runtime: Runtime,
) -> None:
    """Without an answer a worker can't know that it still owns the task, so it lets go."""
    engine = runtime.client.engine
    assert isinstance(engine, FakeEngine)
    engine.faults = FaultPlan(hang_at_token=1)
    row, _ = await runtime.tasks.create(new_task(runtime.space))
    await until(lambda: engine.statistics()["active"] == 1)
    runtime.postgres.kill()
    await until(lambda: engine.statistics()["active"] == 0)
    await until(lambda: sum(w.statistics()["dropped"] for w in runtime.workers) == 1)
    await until(lambda: all(worker.unhealthy() for worker in runtime.workers))
    engine.faults = FaultPlan()
    await asyncio.to_thread(runtime.postgres.start)
    done = await ended(runtime.tasks, row)
    assert (done.state, done.attempt) == (TaskState.SUCCEEDED, 2)


async def test_a_task_whose_deadline_passes_during_the_outage_fails_with_it(
    runtime: Runtime,
) -> None:
    engine = runtime.client.engine
    assert isinstance(engine, FakeEngine)
    engine.faults = FaultPlan(hang_at_token=1)
    task = new_task(runtime.space)
    soon = task.deadline_at.fromtimestamp(CLOCK.now() + 1.5, task.deadline_at.tzinfo)
    row, _ = await runtime.tasks.create(replace(task, deadline_at=soon))
    await until(lambda: engine.statistics()["active"] == 1)
    runtime.postgres.kill()
    await asyncio.sleep(1.5)
    await asyncio.to_thread(runtime.postgres.start)
    done = await ended(runtime.tasks, row)
    assert done.state is TaskState.FAILED
    assert done.error is not None
    assert done.error["code"] == "deadline_exceeded"
