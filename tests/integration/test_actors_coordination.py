"""Coordinators and workers together, on a real PostgreSQL and a real Valkey, without Ray."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
import ray
from actors_support import CLOCK, EchoRunner, EngineClient, ended, new_task, until, workspace

from actors import agent_worker
from actors.agent_worker import CoordinatorLink
from actors.coordinator_loop import CoordinatorLoop, CoordinatorOptions, CoordinatorParts
from actors.dispatch import Dispatcher
from actors.names import snapshot_key
from actors.nudges import NudgeListener
from actors.task_run import RunOptions, RunParts
from actors.worker_loop import WorkerLoop, WorkerOptions
from mesh.contracts.mesh import Advice, WorkerInfo
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.errors import Unavailable
from mesh.llm.call import TASKS, Call, current_call
from mesh.llm.engine import Wire
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.storage.leases import Leases
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository, TaskRow
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog

OPTIONS = WorkerOptions(slots=4, lease_s=60.0, heartbeat_s=0.1, poll_s=0.05)
"""Leases far longer than a test: only heartbeats and hand-overs can move work."""
COORDINATOR = CoordinatorOptions(
    heartbeat_s=0.05, publish_s=0.02, lost_after_s=0.8, bury_s=0.02, lease_s=1.0, sweep_s=0.05
)


@dataclass
class House:
    db: Database
    tasks: TaskRepository
    redis: Any
    streams: ValkeyStreamLog
    space: UUID

    async def create(self, space: UUID | None = None, **changes: Any) -> TaskRow:
        row, _ = await self.tasks.create(new_task(space or self.space, **changes))
        return row

    def coordinator(self, shard: int = 0, shards: int = 1) -> CoordinatorLoop:
        parts = CoordinatorParts(
            self.tasks,
            Leases(self.db),
            self.redis,
            self.streams,
            CLOCK,
            replace(COORDINATOR, shard=shard, shards=shards),
        )
        return CoordinatorLoop(parts)

    def worker(
        self,
        name: str,
        *coordinators: CoordinatorLoop,
        client: EngineClient | None = None,
        runner: Any = None,
        options: WorkerOptions = OPTIONS,
    ) -> WorkerLoop:
        async def heartbeat(info: WorkerInfo) -> Advice | None:
            answers = [coordinator.heartbeat(info) for coordinator in coordinators]
            return answers[0] if answers else None

        parts = RunParts(
            name,
            self.tasks,
            self.streams,
            client or EngineClient(),
            runner or EchoRunner(),
            CLOCK,
            RunOptions(settle_s=0.5),
        )
        nudge = Dispatcher(self.redis, shards=1).nudge
        return WorkerLoop(name, parts, options, heartbeat=heartbeat, nudge=nudge)

    @asynccontextmanager
    async def running(self, *loops: WorkerLoop | CoordinatorLoop) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest_asyncio.fixture
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    redis = connect(valkey_url)
    streams = ValkeyStreamLog(redis)
    keys = [snapshot_key(shard) for shard in range(2)]
    await redis.delete(*keys)
    yield House(database, TaskRepository(database), redis, streams, await workspace(database))
    await redis.delete(*keys)
    async with database.connection() as connection:
        await connection.execute("DELETE FROM tasks")
    await streams.aclose()
    await redis.aclose()


async def test_a_killed_workers_tasks_go_on_elsewhere_long_before_their_lease_ends(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = house.coordinator()
    stuck = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=1)))
    victim = house.worker("victim", coordinator, client=stuck)
    heir = house.worker("heir", coordinator)
    row = await house.create()

    async def nothing() -> None:
        """A killed process gives nothing back."""

    monkeypatch.setattr(victim, "_give_back", nothing)
    async with house.running(coordinator):
        async with house.running(victim):
            await until(lambda: victim.statistics()["active"] == 1)
        for task in victim._tasks:
            task.cancel()
        async with house.running(heir):
            done = await ended(house.tasks, row)
    assert (done.state, done.attempt) == (TaskState.SUCCEEDED, 2)
    outcomes = [(a.worker.split("/")[0], a.outcome) for a in await house.tasks.attempts(row.id)]
    assert outcomes == [("victim", "lost"), ("heir", "succeeded")]


async def test_a_drained_worker_hands_over_at_the_next_step(house: House) -> None:
    """The heir goes on with the step after; nothing runs twice, nobody waits for a lease."""
    coordinator = house.coordinator()
    slow = EngineClient(FakeEngine(faults=FaultPlan(token_delay_s=0.03)))
    runner = EchoRunner()
    first = house.worker("first", coordinator, client=slow, runner=runner)
    heir = house.worker("heir", coordinator, runner=runner, options=replace(OPTIONS, slots=2))
    rows = [await house.create() for _ in range(2)]
    async with house.running(coordinator, first):
        await until(lambda: first.statistics()["active"] == 2)
        async with house.running(heir):
            await until(lambda: first._advice.peers == 1)
            assert await first.drain(30.0) == 0
            done = [await ended(house.tasks, row) for row in rows]
    assert [(row.state, row.attempt) for row in done] == [(TaskState.SUCCEEDED, 2)] * 2
    assert set(Counter(runner.ran).values()) == {1}
    for row in rows:
        assert [a.outcome for a in await house.tasks.attempts(row.id)] == [
            "handed_over",
            "succeeded",
        ]
    assert first.statistics()["handed_over"] == 2


async def test_a_flood_leaves_slots_to_others_that_are_about(house: House) -> None:
    hangs = EngineClient(FakeEngine(slots=64, faults=FaultPlan(hang_at_token=1)))
    other = await workspace(house.db)
    worker = house.worker("w", client=hangs)  # no coordinator: what it sees itself must do
    seen = await house.create(other)
    async with house.running(worker):
        await until(lambda: worker.statistics()["active"] == 1)
        await house.tasks.request_cancel(seen.id, other)
        worker.cancel_requested(seen.id)
        await ended(house.tasks, seen)
        flood = [await house.create() for _ in range(12)]
        await until(lambda: worker.statistics()["active"] == 2)
        await asyncio.sleep(0.3)  # several polls
        assert worker.statistics()["active"] == 2, "what the other held, and one more, stays free"
        late = await house.create(other)
        worker.work_is_there()

        async def runs() -> bool:
            return (await house.tasks.get(late.id, other)).state is TaskState.RUNNING

        await until(runs)
        for row in flood[2:]:
            queued = await house.tasks.get(row.id, house.space)
            assert queued.state is TaskState.QUEUED


async def test_models_learn_on_whose_behalf_they_are_called(house: House) -> None:
    calls: list[Call | None] = []

    class Client(EngineClient):
        async def chat(
            self, body: Wire, *, timeout_s: float, traceparent: str | None = None
        ) -> Wire:
            calls.append(current_call())
            return await super().chat(body, timeout_s=timeout_s, traceparent=traceparent)

    async def runner(task_input: Any, llm: Any, *_: Any) -> dict[str, Any]:
        body = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
        await asyncio.create_task(llm.chat(body, timeout_s=5.0))
        return {}

    row = await house.create(key_id="key-7", priority=3)
    async with house.running(house.worker("w", client=Client(), runner=runner)):
        await ended(house.tasks, row)
    assert calls == [Call(house.space, "key-7", row.id, 3 + TASKS)]
    assert current_call() is None


async def test_a_cancel_frees_the_engine_under_a_unary_call(house: House) -> None:
    client = EngineClient(FakeEngine(faults=FaultPlan(hang_at_token=1)))

    async def runner(task_input: Any, llm: Any, *_: Any) -> dict[str, Any]:
        body = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
        answer: dict[str, Any] = await llm.chat(body, timeout_s=60.0)
        return answer

    worker = house.worker("w", client=client, runner=runner, options=replace(OPTIONS, poll_s=600.0))
    listener = NudgeListener(
        house.redis,
        "w",
        on_work=worker.work_is_there,
        on_offer=worker.offer,
        on_cancel=worker.cancel_requested,
        clock=CLOCK,
    )
    row = await house.create()
    async with house.running(worker):
        listening = asyncio.create_task(listener.run())
        await until(lambda: client.engine.statistics()["active"] == 1)
        await until(lambda: listener.connected)
        await house.tasks.request_cancel(row.id, house.space)
        await Dispatcher(house.redis, shards=1).cancel(row.id)
        assert (await ended(house.tasks, row)).state is TaskState.CANCELLED
        assert client.engine.statistics()["active"] == 0
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def test_an_offer_carries_its_decision_to_the_attempt(house: House) -> None:
    coordinator = house.coordinator()
    worker = house.worker("w", coordinator, options=replace(OPTIONS, poll_s=600.0))
    dispatcher = Dispatcher(house.redis, shards=1)
    listener = NudgeListener(
        house.redis,
        "w",
        on_work=worker.work_is_there,
        on_offer=worker.offer,
        on_cancel=worker.cancel_requested,
        clock=CLOCK,
    )
    async with house.running(coordinator, worker):
        listening = asyncio.create_task(listener.run())

        async def known() -> bool:
            snapshot = await dispatcher.snapshot()
            return listener.connected and snapshot is not None and len(snapshot.workers) == 1

        await until(known)
        row = await house.create()
        choice = await dispatcher.offer(
            row.id, TaskKind.WRITE_EMAIL, workspace_id=house.space, wants=("memory:0",)
        )
        await ended(house.tasks, row)
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    assert choice.worker == "w"
    (attempt,) = await house.tasks.attempts(row.id)
    assert attempt.decision == choice.record()


async def test_specialists_take_their_kinds_alone(house: House) -> None:
    options = replace(OPTIONS, kinds=frozenset({TaskKind.GENERATE}))
    worker = house.worker("w", options=options)
    row = await house.create()
    async with house.running(worker):
        await asyncio.sleep(0.3)
        assert (await house.tasks.get(row.id, house.space)).state is TaskState.QUEUED
    assert worker.info().specialisations == (TaskKind.GENERATE,)


class Handle:
    """A coordinator's actor handle."""

    def __init__(self, answer: Advice | None) -> None:
        self.answer = answer
        self.calls = 0

    @property
    def heartbeat(self) -> Handle:
        return self

    async def remote(self, _info: WorkerInfo) -> Advice | None:
        self.calls += 1
        if self.answer is None:
            await asyncio.Event().wait()
        return self.answer


async def test_a_dead_shard_holds_up_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = {
        "coordinator-0": Handle(None),
        "coordinator-1": Handle(Advice(peers=2, crowded=True)),
        "coordinator-2": Handle(Advice(peers=1)),
    }

    def get_actor(name: str, _namespace: str) -> Handle:
        if name not in handles:
            raise ValueError(name)  # as Ray does
        return handles[name]

    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(agent_worker, "_TELL_S", 0.5)
    info = WorkerInfo(name="w", actor_id="w/1", node="n", slots=4, heartbeat_at=0.0)
    link = CoordinatorLink(3, patience_s=0.05)
    for _ in range(5):
        assert await link.send(info) == Advice(peers=2, crowded=True)
    assert [handle.calls for handle in handles.values()] == [1, 5, 5]
    for name in ("coordinator-1", "coordinator-2"):
        del handles[name]
    deaf = CoordinatorLink(3, patience_s=0.05)
    with pytest.raises(Unavailable):
        await deaf.send(info)
    await asyncio.sleep(0.6)  # the calls that hang give up by themselves
