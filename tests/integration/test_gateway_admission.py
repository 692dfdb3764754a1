"""The door of the mesh: what is refused at once, and when the caller may come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest_asyncio
from gateway_support import House, build_house

from actors.names import snapshot_key
from mesh.contracts.mesh import KindHistory, Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind
from mesh.storage.pool import Database
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog

TASK: dict[str, Any] = {"brief": {"goal": "sell shoes"}}
TASKS = "/v1/mesh/tasks"


@pytest_asyncio.fixture
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    redis = connect(valkey_url)
    log = ValkeyStreamLog(redis)
    built = await build_house(database, valkey_url, streams=log)
    yield built
    await redis.delete(snapshot_key(0))
    await log.aclose()
    await redis.aclose()
    await built.redis.aclose()


async def publish(house: House, **more: Any) -> None:
    """A coordinator says: one worker, which has ended 20 tasks and never took less than 5 s."""
    now = house.gateway.clock.now()
    worker = WorkerInfo(
        name="w",
        actor_id="w/1",
        node="n",
        slots=2,
        heartbeat_at=now,
        history={TaskKind.WRITE_EMAIL: KindHistory(count=20, latency_s=8.0, fastest_s=5.0)},
    )
    snapshot = Snapshot(version=1, at=now, workers=(worker,), **more)
    await house.redis.set(snapshot_key(0), snapshot.model_dump_json(), px=10_000)


async def test_a_deadline_that_cant_be_met_is_refused_at_once(house: House) -> None:
    key = (await house.keys.create("hurried", "x", ["tasks:write"])).key
    async with house.client(key) as client:
        repeat = {"idempotency-key": "before"}
        first = await client.post(TASKS, json=TASK | {"deadline_s": 2}, headers=repeat)
        assert first.status_code == 202, "without a snapshot nothing is sure"
        await publish(house)
        answer = await _refused(client, {"deadline_s": 2})
        assert answer.json()["details"] == {"deadline_s": 2.0, "at_least_s": 5.0}
        assert answer.headers["retry-after"] == "3"
        again = await client.post(TASKS, json=TASK | {"deadline_s": 2}, headers=repeat)
        assert again.status_code == 202, "what was accepted is answered always"
        assert again.json()["id"] == first.json()["id"]
        new = {"idempotency-key": "after"}
        late = await client.post(TASKS, json=TASK | {"deadline_s": 2}, headers=new)
        assert late.status_code == 503
        assert (await client.post(TASKS, json=TASK | {"deadline_s": 6})).status_code == 202


async def _refused(client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    """Once the gateway has seen the snapshot (it keeps one for 250 ms)."""
    for _ in range(100):
        answer = await client.post(TASKS, json=TASK | body)
        if answer.status_code == 503:
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError("nothing was refused")


async def test_a_full_queue_says_when_it_will_have_drained(house: House) -> None:
    small = house.changed(queue_limit=40)
    key = (await house.keys.create("flooding", "x", ["tasks:write"])).key
    await publish(house, rates={TaskKind.WRITE_EMAIL: 0.5}, tenants=2)
    async with small.client(key) as client:
        answer = await _refused(client, {})
    # A twentieth of the queue, at a quarter of a task per second.
    assert answer.headers["retry-after"] == "8"
    assert answer.json()["details"] == {"limit": 40}


async def test_a_task_remembers_whose_key_asked(house: House) -> None:
    made = await house.keys.create("payers", "x", ["tasks:write"])
    async with house.client(made.key) as client:
        answer = await client.post(TASKS, json=TASK)
    rows = await house.tasks._db.fetch(
        "SELECT key_id, cost FROM tasks WHERE id = $1", UUID(answer.json()["id"])
    )
    assert (rows[0]["key_id"], rows[0]["cost"]) == (made.info.id, 1.0)
