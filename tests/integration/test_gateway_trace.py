"""``GET /v1/mesh/tasks/{id}/trace`` over the real database, and one trace through all processes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest_asyncio
from gateway_support import House, build_house, shaped

from mesh.contracts.events import EventType
from mesh.contracts.tasks import TaskState
from mesh.contracts.trace import CallRecord
from mesh.core.errors import Unavailable
from mesh.storage.pool import Database
from mesh.storage.task_rows import NewStep
from serve_apps.gateway.app import create_app

CALL = CallRecord(
    engine="default", model="smol", started_at=datetime.now(UTC), seconds=0.5, ttft_s=0.1,
    prompt_tokens=100, completion_tokens=20, cost_micros=12.5,
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


async def claimed(house: House) -> uuid.UUID:
    async with house.client() as client:
        made = await client.post(
            "/v1/mesh/tasks",
            json={"brief": {"goal": "Announce the sale"}},
            headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
        )
    assert made.status_code == 202, made.text
    task = uuid.UUID(made.json()["id"])
    assert await house.tasks.claim(task, "worker-1", 60) is not None
    return task


def a_step(name: str = "strategy", **more: Any) -> NewStep:
    values: dict[str, Any] = {
        "name": name,
        "position": 0,
        "output": {"x": 1},
        "started_at": datetime.now(UTC),
        "agent": "strategist",
        "calls": [CALL.model_dump(mode="json", exclude_defaults=True)],
    }
    return NewStep(**values | more)


def remembering(house: House, texts: Mapping[str, str] | Exception) -> House:
    """The house with a memory that holds these texts."""
    asked: list[tuple[uuid.UUID, Sequence[str]]] = []

    async def look(workspace: uuid.UUID, ids: Sequence[str]) -> Mapping[str, str]:
        asked.append((workspace, ids))
        if isinstance(texts, Exception):
            raise texts
        return {name: texts[name] for name in ids if name in texts}

    gateway = replace(house.gateway, cited_memories=look)
    return replace(house, gateway=gateway, app=create_app(gateway))


async def test_it_tells_of_attempts_steps_calls_and_cost(house: House) -> None:
    task = await claimed(house)
    await house.tasks.finish_step(task, 1, a_step())
    async with house.client() as client:
        running = (await client.get(f"/v1/mesh/tasks/{task}/trace")).json()
        assert running["state"] == "running"
        await house.tasks.finish(task, 1, TaskState.SUCCEEDED)
        body = (await client.get(f"/v1/mesh/tasks/{task}/trace")).json()
    assert body["trace_id"] == "a" * 32
    (attempt,) = body["attempts"]
    assert attempt["worker"] == "worker-1"
    assert attempt["outcome"] == "succeeded"
    (step,) = attempt["steps"]
    assert (step["name"], step["agent"], step["state"]) == ("strategy", "strategist", "succeeded")
    assert step["calls"][0]["ttft_s"] == 0.1
    assert body["totals"]["cost_micros"] == 12.5
    assert body["totals"]["prompt_tokens"] == 100
    assert body["incomplete"] == []


async def test_nobody_else_and_nobody_without_the_scope_sees_it(house: House) -> None:
    task = await claimed(house)
    path = f"/v1/mesh/tasks/{task}/trace"
    async with house.client(house.other) as client:
        shaped(await client.get(path), 404, "not_found")
        shaped(await client.get(f"/v1/mesh/tasks/{uuid.uuid4()}/trace"), 404, "not_found")
        shaped(await client.get("/v1/mesh/tasks/nonsense/trace"), 422, "invalid_input")
        shaped(await client.post(path), 405, "method_not_allowed")
    weak = await house.keys.create("one", "weak", ["models:read"])
    async with house.client(weak.key) as client:
        shaped(await client.get(path), 403, "forbidden")
    async with house.client("") as client:
        shaped(await client.get(path), 401, "unauthenticated")


async def test_a_running_step_comes_from_the_stream(house: House) -> None:
    task = await claimed(house)
    writer = house.streams.writer(str(task), 1)
    await writer.append(EventType.STEP_STARTED, {"step": "body", "agent": "writer"})
    await writer.token("body", "Hello")
    await writer.append(EventType.STEP_RETRIED, {"step": "body", "reason": "too long", "n": 1})
    await writer.aclose()
    async with house.client() as client:
        body = (await client.get(f"/v1/mesh/tasks/{task}/trace")).json()
    (step,) = body["attempts"][0]["steps"]
    assert (step["name"], step["state"], step["agent"]) == ("body", "running", "writer")
    assert step["retried"][0]["reason"] == "too long"


async def test_memories_are_shown_to_who_may_read_them_and_erased_ones_to_nobody(
    house: House,
) -> None:
    task = await claimed(house)
    kept, gone = str(uuid.uuid4()), str(uuid.uuid4())
    reads = [
        {"kind": "memory", "ref": f"mem:{kept}", "label": "brand"},
        {"kind": "memory", "ref": f"mem:{gone}", "label": "what it said"},
    ]
    await house.tasks.finish_step(task, 1, a_step(reads=reads))
    path = f"/v1/mesh/tasks/{task}/trace"
    knowing = remembering(house, {kept: "They like red"})
    async with knowing.client() as client:
        read = (await client.get(path)).json()["attempts"][0]["steps"][0]["reads"]
    assert [(r["erased"], r["text"]) for r in read] == [(False, "They like red"), (True, None)]
    assert read[1]["label"] == ""
    key = await house.keys.create("one", "no memory", ["tasks:read"])
    async with knowing.client(key.key) as client:
        read = (await client.get(path)).json()["attempts"][0]["steps"][0]["reads"]
    assert [(r["erased"], r["text"]) for r in read] == [(False, None), (True, None)]
    async with remembering(house, Unavailable()).client() as client:
        body = (await client.get(path)).json()
    assert body["incomplete"] == ["memory"]
    assert not any(r["erased"] for r in body["attempts"][0]["steps"][0]["reads"])


async def test_a_stream_that_is_away_is_said(house: House) -> None:
    task = await claimed(house)

    class Away:
        def read(self, *_: Any, **__: Any) -> AsyncIterator[None]:
            async def nothing() -> AsyncIterator[None]:
                raise Unavailable
                yield

            return nothing()

    gateway = replace(house.gateway, streams=Away())  # type: ignore[arg-type, unused-ignore]
    away = replace(house, gateway=gateway, app=create_app(gateway))
    async with away.client() as client:
        body = (await client.get(f"/v1/mesh/tasks/{task}/trace")).json()
    assert body["incomplete"] == ["stream"]
    assert body["attempts"][0]["worker"] == "worker-1"
