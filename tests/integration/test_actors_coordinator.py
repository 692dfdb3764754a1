"""The coordinator's loop and the dispatcher on a real PostgreSQL and a real Valkey."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from actors_support import CLOCK, check_stream, events, new_task, until, workspace

from actors.coordinator_loop import CoordinatorLoop, CoordinatorOptions, CoordinatorParts
from actors.dispatch import Dispatcher
from actors.health import check_snapshot
from actors.names import PLACES_KEY, offers, snapshot_key
from actors.places import say_places
from actors.snapshots import read_snapshots
from mesh.agents.balancing.shards import shard_of
from mesh.contracts.events import EventType
from mesh.contracts.mesh import KindHistory, Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.errors import Overloaded
from mesh.core.ids import uuid7
from mesh.storage.leases import Leases
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog

QUICK = CoordinatorOptions(
    heartbeat_s=0.05,
    publish_s=0.02,
    lost_after_s=0.6,
    bury_s=0.02,
    snapshot_ttl_s=1.0,
    lease_s=0.6,
    sweep_s=0.05,
    owed_after_s=0.0,
)


@dataclass
class Bench:
    parts: CoordinatorParts
    space: UUID
    db: Database

    def coordinator(self, **changes: Any) -> CoordinatorLoop:
        return CoordinatorLoop(replace(self.parts, options=replace(self.parts.options, **changes)))

    @asynccontextmanager
    async def running(self, *coordinators: CoordinatorLoop) -> AsyncIterator[None]:
        loops = [asyncio.create_task(coordinator.run()) for coordinator in coordinators]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def published(self, shard: int = 0) -> Snapshot | None:
        return (await read_snapshots(self.parts.redis, shard + 1)).get(shard)

    async def sees(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        """The first published snapshot for which it holds."""
        found: Snapshot | None = None

        async def look() -> bool:
            nonlocal found
            found = await self.published()
            return found is not None and condition(found)

        await until(look)
        assert found is not None
        return found


@pytest_asyncio.fixture
async def bench(database: Database, valkey_url: str) -> AsyncIterator[Bench]:
    redis = connect(valkey_url)
    streams = ValkeyStreamLog(redis)
    parts = CoordinatorParts(
        tasks=TaskRepository(database),
        leases=Leases(database),
        redis=redis,
        streams=streams,
        clock=CLOCK,
        options=QUICK,
    )
    keys = [snapshot_key(shard) for shard in range(3)] + [PLACES_KEY]
    await redis.delete(*keys)
    yield Bench(parts, await workspace(database), database)
    await redis.delete(*keys)
    await streams.aclose()
    await redis.aclose()


def info(name: str = "w", incarnation: str = "1", **changes: Any) -> WorkerInfo:
    values: dict[str, Any] = {
        "name": name,
        "actor_id": f"{name}/{incarnation}",
        "node": "n",
        "slots": 4,
        "heartbeat_at": CLOCK.now(),
    }
    return WorkerInfo(**(values | changes))


async def test_heartbeats_become_snapshots(bench: Bench) -> None:
    coordinator = bench.coordinator(lost_after_s=60.0)
    async with bench.running(coordinator):
        coordinator.heartbeat(info("b"))
        coordinator.heartbeat(info("a", active=2))
        first = await bench.sees(lambda s: len(s.workers) == 2)
        assert [(w.name, w.active) for w in first.workers] == [("a", 2), ("b", 0)]
        coordinator.heartbeat(info("a", active=3))
        second = await bench.sees(lambda s: s.workers[0].active == 3)
        assert second.version > first.version
        assert coordinator.unhealthy() is None
        assert all(part.healthy for part in check_snapshot(second, 0, CLOCK.now()))
    assert 0 < await bench.parts.redis.pttl(snapshot_key(0)) <= 1_000


async def test_a_silent_worker_is_lost_and_its_tasks_are_free_at_once(bench: Bench) -> None:
    tasks = bench.parts.tasks
    row, _ = await tasks.create(new_task(bench.space))
    assert await tasks.claim(row.id, "w/1", 3600.0) is not None
    coordinator = bench.coordinator()
    async with bench.running(coordinator):
        coordinator.heartbeat(info())
        await bench.sees(lambda s: len(s.workers) == 1)
        await bench.sees(lambda s: s.workers == ())
        await until(lambda: _claims(tasks, row.id))


async def test_a_new_incarnation_frees_what_the_old_one_held(bench: Bench) -> None:
    tasks = bench.parts.tasks
    old, _ = await tasks.create(new_task(bench.space))
    own, _ = await tasks.create(new_task(bench.space))
    assert await tasks.claim(old.id, "w/1", 3600.0) is not None
    assert await tasks.claim(own.id, "w/2", 3600.0) is not None
    coordinator = bench.coordinator(lost_after_s=60.0)
    async with bench.running(coordinator):
        coordinator.heartbeat(info())
        coordinator.heartbeat(info(incarnation="2"))
        await until(lambda: _claims(tasks, old.id))
        assert not await _claims(tasks, own.id)


async def _claims(tasks: TaskRepository, task_id: UUID) -> bool:
    return await tasks.claim(task_id, "another", 3600.0) is not None


async def test_one_of_two_incarnations_leads_and_the_other_follows_on(bench: Bench) -> None:
    first, second = bench.coordinator(), bench.coordinator(lost_after_s=60.0)
    async with bench.running(second):
        async with bench.running(first):
            await until(lambda: {first.statistics()["epoch"], second.statistics()["epoch"]} > {0})
            leader, other = (first, second) if first.statistics()["epoch"] else (second, first)
            assert other.statistics()["snapshots"] == 0
            epoch = leader.statistics()["epoch"]
        second.heartbeat(info("late"))
        snapshot = await bench.sees(lambda s: [w.name for w in s.workers] == ["late"])
        assert snapshot.version >= epoch * 10**9
        assert second.unhealthy() is None


async def test_a_fenced_coordinator_stops_publishing(bench: Bench) -> None:
    coordinator = bench.coordinator()
    async with bench.running(coordinator):
        await until(lambda: coordinator.statistics()["snapshots"] > 0)
        async with bench.parts.tasks._db.connection() as connection:
            await connection.execute(
                "UPDATE leases SET owner = 'usurper', epoch = epoch + 1, "
                "expires_at = now() + interval '1 hour' WHERE key = 'coordinator-0'"
            )
        await until(lambda: coordinator.statistics()["epoch"] == 0)
        await bench.parts.redis.delete(snapshot_key(0))
        before = coordinator.statistics()["snapshots"]
        coordinator.heartbeat(info())
        await asyncio.sleep(0.2)
        assert coordinator.statistics()["snapshots"] == before
        assert await bench.published() is None
        async with bench.parts.tasks._db.connection() as connection:
            await connection.execute("DELETE FROM leases WHERE key = 'coordinator-0'")


async def test_the_sweep_tells_streams_what_they_are_owed(bench: Bench) -> None:
    """A worker that died after its commit, and a gateway that died after a cancel."""
    tasks, streams = bench.parts.tasks, bench.parts.streams
    failed, _ = await tasks.create(new_task(bench.space))
    claimed = await tasks.claim(failed.id, "dead/1", 60.0)
    assert claimed is not None
    writer = streams.writer(str(failed.id), 1)
    await writer.append(EventType.TASK_STARTED, {"worker": "dead", "resumed_from": None})
    error = {"code": "internal", "message": "m", "details": {}}
    await tasks.finish(failed.id, 1, TaskState.FAILED, error=error)
    cancelled, _ = await tasks.create(new_task(bench.space))
    await tasks.request_cancel(cancelled.id, bench.space)

    coordinator = bench.coordinator()
    async with bench.running(coordinator):

        async def told() -> bool:
            rows = [await tasks.get(i, bench.space) for i in (failed.id, cancelled.id)]
            return all(row.announced_at is not None for row in rows)

        await until(told)
    found = await events(streams, failed.id)
    check_stream(found)
    assert [(e.type, str(e.cursor)) for e in found] == [
        (EventType.TASK_STARTED, "1-1"),
        (EventType.TASK_FAILED, "1-2"),
    ]
    assert found[-1].data == {"error": error}
    assert [e.type for e in await events(streams, cancelled.id)] == [EventType.TASK_CANCELLED]


async def test_offers_go_to_the_chosen_worker_alone(bench: Bench) -> None:
    coordinator = bench.coordinator(lost_after_s=60.0)
    dispatcher = Dispatcher(bench.parts.redis, random.Random(1))
    async with bench.running(coordinator), bench.parts.redis.pubsub() as listener:
        await listener.subscribe(offers("free"))
        await listener.get_message(timeout=1)
        coordinator.heartbeat(info("busy", active=4))
        coordinator.heartbeat(info("free"))
        await bench.sees(lambda s: len(s.workers) == 2)
        task_id = uuid7()
        choice = await dispatcher.offer(task_id, workspace_id=bench.space)
        assert choice.worker == "free"
        message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
        assert message is not None
        told, _, decision = message["data"].decode().partition(" ")
        assert told == str(task_id)
        assert json.loads(decision) == choice.record()


async def test_an_offer_to_a_worker_that_does_not_listen_is_told_to_all(bench: Bench) -> None:
    coordinator = bench.coordinator(lost_after_s=60.0)
    dispatcher = Dispatcher(bench.parts.redis)
    async with bench.running(coordinator):
        coordinator.heartbeat(info("deaf"))
        await bench.sees(lambda s: len(s.workers) == 1)
        choice = await dispatcher.offer(uuid7())
    assert choice.worker is None
    assert "deaf does not listen" in choice.reason
    assert dispatcher.statistics()["broadcast"] == 1


async def test_a_dispatcher_without_valkey_never_raises() -> None:
    redis = connect("redis://127.0.0.1:1/0", timeout_s=0.2)
    dispatcher = Dispatcher(redis)
    choice = await dispatcher.offer(uuid7())
    await dispatcher.cancel(uuid7())
    assert choice.worker is None
    assert dispatcher.statistics()["failed"] == 3
    await redis.aclose()


async def test_shards_sweep_their_own_and_adopt_those_of_the_dead(bench: Bench) -> None:
    """Both live: each sees its own workspaces' queues. One dies: the other sees all."""
    tasks = bench.parts.tasks
    spaces = [await workspace(bench.db) for _ in range(12)]
    rows = [(await tasks.create(new_task(space)))[0] for space in spaces]
    shards = [bench.coordinator(shard=shard, shards=2, lost_after_s=60.0) for shard in (0, 1)]

    def mine(snapshot: Snapshot | None) -> set[UUID]:
        return set() if snapshot is None else set(snapshot.queues) & set(spaces)

    async with bench.running(shards[0]):
        async with bench.running(shards[1]):

            async def shared_out() -> bool:
                parts = [mine(await bench.published(shard)) for shard in (0, 1)]
                expected = [{s for s in spaces if shard_of(s, (0, 1)) == i} for i in (0, 1)]
                return parts == expected

            await until(shared_out)

        async def adopted() -> bool:
            return mine(await bench.published(0)) == set(spaces)

        await until(adopted)
    for row in rows:
        await tasks.request_cancel(row.id, row.workspace_id)
        await tasks.mark_announced([row.id])


async def test_what_one_shard_hears_the_others_know(bench: Bench) -> None:
    """A worker that reaches only one shard is not buried by the other."""
    tasks = bench.parts.tasks
    row, _ = await tasks.create(new_task(bench.space))
    assert await tasks.claim(row.id, "w/1", 3600.0) is not None
    hears, deaf = (bench.coordinator(shard=shard, shards=2) for shard in (0, 1))
    async with bench.running(hears, deaf):
        deaf.heartbeat(info())
        for _ in range(12):  # twice as long as a silent worker may be
            hears.heartbeat(info())
            await asyncio.sleep(0.1)
        snapshot = await bench.published(1)
        assert snapshot is not None
        assert [worker.name for worker in snapshot.workers] == ["w"]
        assert not await _claims(tasks, row.id)


async def test_places_reach_the_snapshot_and_fade(bench: Bench) -> None:
    redis = bench.parts.redis
    await redis.hset(PLACES_KEY, "nonsense", "{")
    await say_places(redis, ["memory:0"], "node-a", "one", CLOCK)
    await say_places(redis, ["memory:0"], "node-b", "two", CLOCK)
    await say_places(redis, [], "node-b", "three", CLOCK)
    async with bench.running(bench.coordinator()):
        snapshot = await bench.sees(lambda s: bool(s.places))
        assert snapshot.places == {"memory:0": ("node-a", "node-b")}
        assert await redis.hlen(PLACES_KEY) == 2
        await redis.hset(PLACES_KEY, "memory:0|one", '{"place": "memory:0", "node": "a", "at": 1}')
        await bench.sees(lambda s: s.places == {"memory:0": ("node-b",)})


async def test_what_cant_be_done_in_time_is_refused_and_told_when_to_come_back(
    bench: Bench,
) -> None:
    seen = KindHistory(count=20, latency_s=10.0, fastest_s=5.0)
    coordinator = bench.coordinator(lost_after_s=60.0)
    dispatcher = Dispatcher(bench.parts.redis, shards=1)
    async with bench.running(coordinator):
        coordinator.heartbeat(info(history={TaskKind.WRITE_EMAIL: seen}))
        await bench.sees(lambda s: len(s.workers) == 1)
        await dispatcher.admit(bench.space, TaskKind.WRITE_EMAIL, deadline_s=6.0)
        await dispatcher.admit(bench.space, TaskKind.CLASSIFY, deadline_s=1.0)  # nobody knows
        with pytest.raises(Overloaded) as caught:
            await dispatcher.admit(bench.space, TaskKind.WRITE_EMAIL, deadline_s=4.0)
    assert caught.value.details == {"deadline_s": 4.0, "at_least_s": 5.0}
    assert caught.value.retry_after_s == 1.0
