"""The worker's loop on a real PostgreSQL and a real Valkey, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

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

from actors.dispatch import Dispatcher
from actors.nudges import NudgeListener
from actors.patience import PatienceOptions
from actors.task_run import RunOptions, RunParts, TaskRun
from actors.worker_loop import WorkerLoop, WorkerOptions
from mesh.contracts.events import EventType
from mesh.contracts.mesh import WorkerInfo
from mesh.contracts.tasks import TaskState
from mesh.core.errors import EngineError
from mesh.core.tracing import span
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository, TaskRow
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog

OPTIONS = WorkerOptions(slots=8, lease_s=1.5, heartbeat_s=0.1, poll_s=0.05)
RUN = RunOptions(
    settle_s=0.5, patience=PatienceOptions(model_s=20.0, first_pause_s=0.02, longest_pause_s=0.1)
)


@dataclass
class Bench:
    """Repositories, a stream log and a workspace of the test's own."""

    tasks: TaskRepository
    streams: ValkeyStreamLog
    redis: Any
    workspace: UUID

    async def create(self, **changes: Any) -> TaskRow:
        row, _ = await self.tasks.create(new_task(self.workspace, **changes))
        return row

    def parts(self, client: EngineClient, runner: Any, run: RunOptions = RUN) -> RunParts:
        return RunParts("w", self.tasks, self.streams, client, runner, CLOCK, run)

    def worker(
        self,
        name: str = "w",
        client: EngineClient | None = None,
        runner: Any = None,
        *,
        options: WorkerOptions = OPTIONS,
        run: RunOptions = RUN,
        heartbeat: Any = None,
    ) -> WorkerLoop:
        parts = self.parts(client or EngineClient(), runner or EchoRunner(), run)
        return WorkerLoop(name, replace(parts, worker=name), options, heartbeat=heartbeat)

    @asynccontextmanager
    async def running(self, *workers: WorkerLoop) -> AsyncIterator[None]:
        loops = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)


@pytest_asyncio.fixture
async def bench(database: Database, valkey_url: str) -> AsyncIterator[Bench]:
    redis = connect(valkey_url)
    streams = ValkeyStreamLog(redis)
    yield Bench(TaskRepository(database), streams, redis, await workspace(database))
    async with database.connection() as connection:
        await connection.execute("DELETE FROM tasks")  # the next test's worker takes what is open
    await streams.aclose()
    await redis.aclose()


async def test_a_task_runs_to_its_end_and_says_so_once(bench: Bench) -> None:
    row = await bench.create()
    async with bench.running(bench.worker()):
        done = await ended(bench.tasks, row)
    assert (done.state, done.attempt, done.degraded) == (TaskState.SUCCEEDED, 1, False)
    assert done.result is not None
    assert done.result["email"]["subject"] == "Hello"
    found = await events(bench.streams, row.id)
    check_stream(found)
    assert found[-1].type is EventType.TASK_SUCCEEDED
    assert found[-1].data == {"degraded": False, "subject": "Hello"}
    assert [step.name for step in await bench.tasks.steps(row.id)] == list(STEPS)


async def test_twenty_tasks_over_two_workers_all_end_each_step_once(bench: Bench) -> None:
    runner = EchoRunner()
    rows = [await bench.create() for _ in range(20)]
    one, two = bench.worker("w1", runner=runner), bench.worker("w2", runner=runner)
    async with bench.running(one, two):
        done = [await ended(bench.tasks, row) for row in rows]
    assert {row.state for row in done} == {TaskState.SUCCEEDED}
    assert {row.attempt for row in done} == {1}
    assert sorted(runner.ran) == sorted((row.id, step) for row in rows for step in STEPS)
    assert one.statistics()["ended"] + two.statistics()["ended"] == 20


async def test_higher_priority_goes_first(bench: Bench) -> None:
    runner = EchoRunner()
    low, high, middle = [await bench.create(priority=p) for p in (-5, 7, 0)]
    async with bench.running(bench.worker(runner=runner, options=replace(OPTIONS, slots=1))):
        await ended(bench.tasks, low)
    order = [task_id for task_id, step in runner.ran if step == STEPS[0]]
    assert order == [high.id, middle.id, low.id]


async def test_a_task_cancelled_while_queued_is_never_claimed(bench: Bench) -> None:
    row = await bench.create()
    cancelled = await bench.tasks.request_cancel(row.id, bench.workspace)
    assert cancelled.state is TaskState.CANCELLED
    worker = bench.worker()
    async with bench.running(worker):
        other = await bench.create()
        await ended(bench.tasks, other)
    assert worker.statistics()["claimed"] == 1


async def test_cancel_ends_a_task_that_hangs_in_a_model_call(bench: Bench) -> None:
    client = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=3)))
    row = await bench.create()
    worker = bench.worker(client=client)
    async with bench.running(worker):
        await until(lambda: client.engine.statistics()["active"] == 1)
        await bench.tasks.request_cancel(row.id, bench.workspace)
        worker.cancel_requested(row.id)
        done = await ended(bench.tasks, row)
    assert done.state is TaskState.CANCELLED
    assert done.result is None
    assert client.engine.statistics()["active"] == 0
    found = await events(bench.streams, row.id)
    check_stream(found)
    assert found[-1].type is EventType.TASK_CANCELLED


async def test_cancel_ends_work_that_will_not_let_go(bench: Bench) -> None:
    began = asyncio.Event()

    async def stubborn(*_: Any) -> Any:
        began.set()
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling() > 1:  # type: ignore[union-attr]
                    raise

    row = await bench.create()
    async with bench.running(bench.worker(runner=stubborn)):
        await began.wait()
        await bench.tasks.request_cancel(row.id, bench.workspace)
        done = await ended(bench.tasks, row)
    assert done.state is TaskState.CANCELLED


async def test_a_cancel_is_seen_without_any_nudge(bench: Bench) -> None:
    client = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=1)))
    row = await bench.create()
    async with bench.running(bench.worker(client=client)):
        await until(lambda: client.engine.statistics()["active"] == 1)
        await bench.tasks.request_cancel(row.id, bench.workspace)
        assert (await ended(bench.tasks, row)).state is TaskState.CANCELLED


async def test_a_passed_deadline_ends_queued_and_hanging_tasks(bench: Bench) -> None:
    client = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=1)))
    now = datetime.now(UTC)
    late = await bench.create(deadline_at=now - timedelta(seconds=1))
    hangs = await bench.create(deadline_at=now + timedelta(seconds=1))
    async with bench.running(bench.worker(client=client)):
        for row in (late, hangs):
            done = await ended(bench.tasks, row)
            assert done.state is TaskState.FAILED
            assert done.error is not None
            assert done.error["code"] == "deadline_exceeded"
            found = await events(bench.streams, row.id)
            check_stream(found)
            assert found[-1].type is EventType.TASK_FAILED
            assert found[-1].data["error"]["code"] == "deadline_exceeded"


async def test_a_defect_in_the_work_fails_the_task_and_tells_nothing(bench: Bench) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("the secret inside")

    row = await bench.create()
    async with bench.running(bench.worker(runner=broken)):
        done = await ended(bench.tasks, row)
    assert done.state is TaskState.FAILED
    assert done.error is not None
    assert done.error["code"] == "internal"
    assert "secret" not in str(done.error)


async def test_a_model_that_is_away_is_waited_for(bench: Bench) -> None:
    client = EngineClient(FakeEngine(faults=FaultPlan(unavailable=True)))
    row = await bench.create()
    async with bench.running(bench.worker(client=client)):
        await until(lambda: len(client.traceparents) > 5)
        assert isinstance(client.engine, FakeEngine)
        client.engine.faults = FaultPlan()
        done = await ended(bench.tasks, row)
    assert (done.state, done.attempt) == (TaskState.SUCCEEDED, 1)


async def test_an_engine_that_dies_mid_stream_does_not_fail_the_task(bench: Bench) -> None:
    client = EngineClient(FakeEngine(faults=FaultPlan(die_at_token=3)))
    row = await bench.create()
    async with bench.running(bench.worker(client=client)):
        await until(lambda: len(client.traceparents) > 2)
        assert isinstance(client.engine, FakeEngine)
        client.engine.faults = FaultPlan()
        done = await ended(bench.tasks, row)
    assert (done.state, done.attempt) == (TaskState.SUCCEEDED, 1)
    check_stream(await events(bench.streams, row.id))


async def test_a_task_that_loses_every_worker_is_given_up(bench: Bench) -> None:
    row = await bench.create()
    for _ in range(3):
        claimed = await bench.tasks.claim(row.id, "ghost", 60.0)
        assert claimed is not None
        await bench.tasks.release_owner("ghost")
    async with bench.running(bench.worker(run=replace(RUN, max_attempts=3))):
        done = await ended(bench.tasks, row)
    assert done.state is TaskState.FAILED
    assert done.error is not None
    assert done.error["code"] == "internal"


async def test_a_fenced_worker_drops_the_task_and_its_successor_ends_it(bench: Bench) -> None:
    hung = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=4)))
    runner = EchoRunner()
    row = await bench.create()
    first = bench.worker("first", client=hung, runner=runner)
    async with bench.running(first):
        await until(lambda: hung.engine.statistics()["active"] == 1)
        await first.drain(0.0)  # claims no more
        await until(lambda: hung.engine.statistics()["active"] == 0)
        async with bench.running(bench.worker("second", runner=runner)):
            done = await ended(bench.tasks, row)
    assert (done.state, done.attempt) == (TaskState.SUCCEEDED, 2)
    assert first.statistics()["dropped"] == 1
    found = await events(bench.streams, row.id)
    check_stream(found)
    assert {event.attempt for event in found} == {1, 2}


async def test_a_run_without_lease_writes_nothing_more(bench: Bench) -> None:
    """Another claimed meanwhile: neither its step nor its ending nor its event gets through."""
    row = await bench.create()
    claimed = await bench.tasks.claim(row.id, "paused", 60.0)
    assert claimed is not None
    await bench.tasks.release_owner("paused")
    successor = await bench.tasks.claim(row.id, "successor", 60.0)
    assert successor is not None
    run = TaskRun(claimed, bench.parts(EngineClient(), EchoRunner()), CLOCK.monotonic() + 60)
    await run.run()
    assert run.ending is None
    assert run.dropped == "fenced"
    assert await bench.tasks.steps(row.id) == []
    again = await bench.tasks.get(row.id, bench.workspace)
    assert (again.state, again.attempt) == (TaskState.RUNNING, 2)
    last = await bench.streams.last(str(row.id))
    assert last is None or not last.type.terminal


async def test_a_successor_goes_on_from_the_last_finished_step(bench: Bench) -> None:
    runner = EchoRunner()
    row = await bench.create()
    script = ["first", "second", EngineError("away")]
    away = EngineClient(FakeEngine(script + [EngineError("away")] * 10_000))
    first = bench.worker("first", client=away, runner=runner)
    async with bench.running(first):
        await until(lambda: len(away.traceparents) > 4)
    async with bench.running(bench.worker("second", runner=runner)):
        done = await ended(bench.tasks, row)
    assert (done.state, done.attempt) == (TaskState.SUCCEEDED, 2)
    steps = await bench.tasks.steps(row.id)
    assert [(step.name, step.attempt) for step in steps] == [
        ("one", 1),
        ("two", 1),
        ("three", 2),
        ("four", 2),
    ]
    assert steps[0].output == {"text": "first"}
    assert runner.ran.count((row.id, "one")) == 1
    started = [e for e in await events(bench.streams, row.id) if e.type is EventType.TASK_STARTED]
    assert started[-1].data == {"worker": "second", "resumed_from": "two"}


async def test_drain_waits_for_what_runs_and_claims_nothing_more(bench: Bench) -> None:
    client = EngineClient(FakeEngine(faults=FaultPlan(token_delay_s=0.02)))
    row = await bench.create()
    beats: list[WorkerInfo] = []

    async def heartbeat(info: WorkerInfo) -> None:
        beats.append(info)

    worker = bench.worker(client=client, heartbeat=heartbeat)
    async with bench.running(worker):
        await until(lambda: client.engine.statistics()["active"] == 1)
        left = await worker.drain(30.0)
        later = await bench.create()
        await until(lambda: beats[-1].draining and beats[-1].active == 0)
    assert left == 0
    assert (await bench.tasks.get(row.id, bench.workspace)).state is TaskState.SUCCEEDED
    assert (await bench.tasks.get(later.id, bench.workspace)).state is TaskState.QUEUED
    assert beats[0].actor_id == worker.owner


async def test_the_trace_of_the_caller_reaches_the_model(bench: Bench) -> None:
    client = EngineClient()
    with span("request") as request:
        trace_id = f"{request.get_span_context().trace_id:032x}"
    row = await bench.create(traceparent=f"00-{trace_id}-{'1' * 16}-01")
    async with bench.running(bench.worker(client=client)):
        await ended(bench.tasks, row)
    assert len(client.traceparents) == len(STEPS)
    assert all(header and header.split("-")[1] == trace_id for header in client.traceparents)


async def test_nudges_reach_the_worker_and_survive_nonsense(bench: Bench) -> None:
    """With a poll that never comes in time, only nudges can have done it."""
    client = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=1)))
    worker = bench.worker(client=client, options=replace(OPTIONS, poll_s=600.0, lease_s=60.0))
    listener = NudgeListener(
        bench.redis,
        worker.name,
        on_work=worker.work_is_there,
        on_offer=worker.offer,
        on_cancel=worker.cancel_requested,
        clock=CLOCK,
    )
    dispatcher = Dispatcher(bench.redis)
    async with bench.running(worker):
        listening = asyncio.create_task(listener.run())
        await until(lambda: listener.connected)
        await bench.redis.publish("maily:tasks", b"\xff nonsense")
        row = await bench.create()
        choice = await dispatcher.offer(row.id)
        assert choice.worker is None  # nobody publishes snapshots here
        await until(lambda: client.engine.statistics()["active"] == 1)
        await bench.tasks.request_cancel(row.id, bench.workspace)
        await dispatcher.cancel(row.id)
        assert (await ended(bench.tasks, row)).state is TaskState.CANCELLED
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_an_offer_without_a_free_slot_is_forgotten(bench: Bench) -> None:
    """The task keeps its place in the order of priorities."""
    client = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=1)))
    worker = bench.worker(client=client, options=replace(OPTIONS, slots=1))
    async with bench.running(worker):
        busy = await bench.create()
        await until(lambda: client.engine.statistics()["active"] == 1)
        low = await bench.create(priority=-1)
        worker.offer(low.id)
        high = await bench.create(priority=1)
        await bench.tasks.request_cancel(busy.id, bench.workspace)

        async def next_runs() -> bool:
            return (await bench.tasks.get(high.id, bench.workspace)).state is TaskState.RUNNING

        await until(next_runs)
        assert (await bench.tasks.get(low.id, bench.workspace)).state is TaskState.QUEUED
