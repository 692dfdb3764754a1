"""Tasks, their events and keys: over real PostgreSQL and the real stream log."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from gateway_support import House, build_house, until

from mesh.contracts.events import Cursor, EventType
from mesh.contracts.tasks import TaskState
from mesh.core.errors import Unavailable
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRow
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog
from serve_apps.gateway.app import create_app

TASK: dict[str, Any] = {"brief": {"goal": "sell shoes"}}
TASKS = "/v1/mesh/tasks"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    redis = connect(valkey_url)
    log = ValkeyStreamLog(redis)
    built = await build_house(database, valkey_url, streams=log)
    yield built
    await log.aclose()
    await redis.aclose()
    await built.redis.aclose()


async def accept(client: httpx.AsyncClient, **body: Any) -> str:
    answer = await client.post(TASKS, json=TASK | body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def run(house: House, task: str, tokens: int = 30) -> TaskRow:
    """Be the worker of a task: claim it, write events, end it."""
    row = await house.tasks.claim(UUID(task), "test-worker", 30)
    assert row is not None
    writer = house.streams.writer(task, row.attempt)
    await writer.append(EventType.TASK_STARTED, {"worker": "test-worker"})
    await writer.append(EventType.STEP_STARTED, {"step": "strategy"})
    for n in range(tokens):
        await writer.token("strategy", f"w{n} ")
        if n % 5 == 0:
            await writer.append(EventType.STEP_RETRIED, {"step": "strategy", "n": n})
    error = {"code": "engine_error", "message": "it failed", "details": {}}
    row = await house.tasks.finish(row.id, row.attempt, TaskState.FAILED, error=error)
    await writer.append(EventType.TASK_FAILED, {"error": error})
    await writer.aclose()
    await house.tasks.mark_announced([row.id])
    return row


async def frames(
    client: httpx.AsyncClient, task: str, cursor: str | None = None, limit: int | None = None
) -> list[bytes]:
    """Frames with an id, of one connection; it is dropped after ``limit`` of them."""
    found: list[bytes] = []
    headers = {} if cursor is None else {"last-event-id": cursor}
    async with client.stream("GET", f"{TASKS}/{task}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        buffer = b""
        async for data in answer.aiter_raw():
            buffer += data
            while b"\n\n" in buffer:
                frame, buffer = buffer.split(b"\n\n", 1)
                if frame.startswith(b"id: "):
                    found.append(frame)
                    if limit is not None and len(found) >= limit:
                        return found
    return found


def cursor_of(frame: bytes) -> str:
    return frame.split(b"\n")[0].removeprefix(b"id: ").decode()


async def test_a_task_is_accepted_shown_and_listed(house: House) -> None:
    async with house.client() as client:
        answer = await client.post(TASKS, json=TASK | {"seed": 5, "priority": 3})
        body = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"{TASKS}/{body['id']}"
        assert body["state"] == "queued"
        assert body["events_url"] == f"{TASKS}/{body['id']}/events"
        assert (await client.get(answer.headers["location"])).json() == body
        first = await house.streams.last(body["id"])
        assert first is not None
        assert (first.type, first.cursor) == (EventType.TASK_ACCEPTED, Cursor(0, 1))
        row = next(row for row in await all_rows(house) if str(row.id) == body["id"])
        assert row.traceparent is not None
        assert row.traceparent[3:35] == answer.headers["x-trace-id"]


async def all_rows(house: House) -> list[TaskRow]:
    workspace = (await house.keys.verify(house.key)).workspace_id
    return await house.tasks.list(workspace, limit=100)


async def test_pages_hold_each_task_once(house: House) -> None:
    async with house.client() as client:
        made = [await accept(client) for _ in range(7)]
        seen: list[str] = []
        cursor: str | None = None
        while True:
            params = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
            page = (await client.get(TASKS, params=params)).json()
            seen += [item["id"] for item in page["items"]]
            assert len(page["items"]) <= 3
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert [task for task in seen if task in made] == made[::-1]
        assert len(seen) == len(set(seen))
        none = (await client.get(TASKS, params={"state": "succeeded"})).json()
        assert none == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"state": "lost"}, "state"),
        ({"cursor": "not a cursor"}, "cursor"),
        ({"cursor": base64.urlsafe_b64encode(b"short").decode()}, "cursor"),
        ({"cursor": "\x00"}, "cursor"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_wrong_queries_are_named(house: House, params: dict[str, str], field: str) -> None:
    async with house.client() as client:
        answer = await client.get(TASKS, params=params)
        assert answer.status_code == 422
        assert answer.json()["details"]["field"] == field


async def test_workspaces_never_see_each_other(house: House) -> None:
    async with house.client() as mine, house.client(house.other) as theirs:
        task = await accept(mine)
        for request in (
            theirs.get(f"{TASKS}/{task}"),
            theirs.delete(f"{TASKS}/{task}"),
            theirs.get(f"{TASKS}/{task}/events"),
            mine.get(f"{TASKS}/{uuid4()}"),
            mine.get(f"{TASKS}/{uuid4()}/events"),
        ):
            answer = await request
            assert answer.status_code == 404
            assert answer.json()["code"] == "not_found"
        listed = (await theirs.get(TASKS, params={"limit": "100"})).json()["items"]
        assert task not in [item["id"] for item in listed]
        keys = (await theirs.get("/v1/keys")).json()["items"]
        assert {key["workspace"] for key in keys} == {"two"}
        key = (await mine.get("/v1/keys")).json()["items"][0]["id"]
        assert (await theirs.delete(f"/v1/keys/{key}")).status_code == 404
        assert (await mine.get("/v1/models")).status_code == 200
        for wrong in ("xyz", "1", f"urn:{task}x"):
            answer = await mine.get(f"{TASKS}/{wrong}")
            assert answer.status_code == 422
            assert answer.json()["details"]["field"] == "task_id"


async def test_a_task_is_made_once_for_each_key(house: House) -> None:
    async with house.client() as client:
        headers = {"idempotency-key": "task-1"}
        several = await asyncio.gather(
            *(client.post(TASKS, json=TASK, headers=headers) for _ in range(8))
        )
        assert {answer.status_code for answer in several} == {202}
        assert len({answer.json()["id"] for answer in several}) == 1
        replayed = [a for a in several if a.headers.get("idempotency-replayed") == "true"]
        assert len(replayed) == 7
        other = await client.post(TASKS, json={"brief": {"goal": "sell hats"}}, headers=headers)
        assert other.status_code == 422
        assert other.json()["code"] == "idempotency_mismatch"


async def test_a_full_queue_refuses_early(house: House) -> None:
    small = house.changed(queue_limit=1)
    key = (await house.keys.create("small", "x", ["tasks:write"])).key
    async with small.client(key) as client:
        await accept(client)
        answer = await client.post(TASKS, json=TASK)
        assert answer.status_code == 503
        assert answer.json()["code"] == "overloaded"
        assert answer.headers["retry-after"] == "5"


async def test_cancelling_what_waits_ends_its_stream(house: House) -> None:
    async with house.client() as client:
        task = await accept(client)
        for _ in range(2):  # again is no error
            answer = await client.delete(f"{TASKS}/{task}")
            assert answer.status_code == 200
            assert answer.json()["state"] == "cancelled"
        kinds = [frame.split(b"\n")[1] for frame in await frames(client, task)]
        assert kinds == [b"event: task.accepted", b"event: task.cancelled"]
        ended = await accept(client)
        await run(house, ended)
        answer = await client.delete(f"{TASKS}/{ended}")
        assert answer.status_code == 409


async def test_cancelling_what_runs_asks_its_worker(house: House) -> None:
    async with house.client() as client:
        task = await accept(client)
        row = await house.tasks.claim(UUID(task), "test-worker", 30)
        assert row is not None
        answer = await client.delete(f"{TASKS}/{task}")
        assert answer.json()["state"] == "running"
        assert await house.tasks.renew(row.id, row.attempt, "test-worker", 30) is True


async def test_ten_disconnects_and_not_a_byte_of_difference(house: House) -> None:
    async with house.client() as client:
        task = await accept(client)
        running = asyncio.create_task(run(house, task))
        whole = asyncio.create_task(frames(client, task))
        late: list[bytes] = []
        cursor = None
        for _ in range(10):
            part = await _dropped(house, task, cursor, 2)
            late += part
            cursor = cursor_of(late[-1])
        late += await frames(client, task, cursor)
        await running
        assert late == await whole
        assert late == await frames(client, task)
        assert late[-1].split(b"\n")[1] == b"event: task.failed"


async def _dropped(house: House, task: str, cursor: str | None, limit: int) -> list[bytes]:
    """The first frames of a connection that the client then breaks."""
    found: list[bytes] = []
    enough = asyncio.Event()
    headers = [(b"authorization", f"Bearer {house.key}".encode())]
    if cursor is not None:
        headers.append((b"last-event-id", cursor.encode()))

    async def receive() -> dict[str, Any]:
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        for frame in message.get("body", b"").split(b"\n\n"):  # several may come in one piece
            if frame.startswith(b"id: ") and len(found) < limit:
                found.append(frame)
                if len(found) == limit:
                    enough.set()

    path = f"{TASKS}/{task}/events"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "headers": headers,
    }
    async with asyncio.timeout(20):
        await house.app(scope, receive, send)
    return found


async def test_a_reader_that_has_seen_the_end_is_told_to_stop(house: House) -> None:
    async with house.client() as client:
        task = await accept(client)
        await run(house, task, tokens=2)
        seen = await frames(client, task)
        headers = {"last-event-id": cursor_of(seen[-1])}
        answer = await client.get(f"{TASKS}/{task}/events", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("cursor", ["yesterday", "1", "1-", "-1-2", "1-2-3", "9" * 20 + "-1", "é"])
async def test_a_bad_cursor_is_named(house: House, cursor: str) -> None:
    async with house.client() as client:
        task = await accept(client)
        answer = await client.get(
            f"{TASKS}/{task}/events", headers={"last-event-id": cursor.encode("latin-1")}
        )
        assert answer.status_code == 422
        assert answer.json()["details"]["field"] == "header.Last-Event-ID"


async def test_an_expired_stream_still_tells_how_it_ended(house: House) -> None:
    async with house.client() as client:
        task = await accept(client)
        row = await run(house, task, tokens=2)
        await house.redis.delete(f"maily:stream:{task}")
        alone = await frames(client, task)
        assert len(alone) == 1
        assert b"event: task.failed" in alone[0]
        assert cursor_of(alone[0]) == f"{row.attempt}-1"
        later = await frames(client, task, f"{row.attempt}-40")
        assert cursor_of(later[0]) == f"{row.attempt}-41"  # after all that the reader has seen
        assert await frames(client, task) == alone


async def test_a_lost_terminal_event_is_healed_by_a_reader(house: House) -> None:
    quick = house.changed(sse_heartbeat_s=0.05)
    async with quick.client() as client:
        task = await accept(client)
        row = await house.tasks.claim(UUID(task), "dies", 30)
        assert row is not None
        writer = house.streams.writer(task, row.attempt)
        await writer.append(EventType.TASK_STARTED, {})
        error = {"code": "engine_error", "message": "it failed", "details": {}}
        await house.tasks.finish(row.id, row.attempt, TaskState.FAILED, error=error)
        # … and here the worker dies, before it told the stream.
        one, two = await asyncio.gather(frames(client, task), frames(client, task))
        assert one == two
        assert one[-1].split(b"\n")[1] == b"event: task.failed"
        healed = await house.tasks.get(row.id, row.workspace_id)
        assert healed.announced_at is not None


async def test_a_task_outlives_a_log_that_is_away(house: House) -> None:
    class Away:
        async def last(self, stream: str) -> Any:
            raise Unavailable("planned")

        def writer(self, stream: str, attempt: int, **more: Any) -> Any:
            raise Unavailable("planned")

    streams: Any = Away()
    app = create_app(replace(house.gateway, streams=streams))
    async with replace(house, app=app).client() as client:
        answer = await client.post(TASKS, json=TASK)
        assert answer.status_code == 202


async def test_readers_wait_for_a_stream_that_has_no_event_yet(house: House) -> None:
    async with house.client() as client:
        task = await accept(client)
        await house.redis.delete(f"maily:stream:{task}")
        reading = asyncio.create_task(frames(client, task))
        await asyncio.sleep(0.05)
        await run(house, task, tokens=2)
        assert (await reading)[-1].split(b"\n")[1] == b"event: task.failed"


async def test_agents_and_workers_are_shown(house: House) -> None:
    async with house.client() as client:
        view = (await client.get("/v1/mesh/agents")).json()
        assert [agent["step"] for agent in view["agents"]][:2] == ["strategy", "subject_lines"]


async def test_deadlines_of_tasks_are_kept_in_the_database(house: House) -> None:
    async with house.client() as client:
        answer = await client.post(TASKS, json=TASK | {"deadline_s": 60})
        row = next(r for r in await all_rows(house) if str(r.id) == answer.json()["id"])
        left = row.deadline_at - row.created_at
        assert timedelta(seconds=50) < left < timedelta(seconds=70)
        for wrong in ({"deadline_s": 0}, {"deadline_s": "60"}, {"kind": "bake"}, {"brief": {}}):
            refused = await client.post(TASKS, json=TASK | wrong)
            assert refused.status_code == 422


async def test_many_readers_of_one_stream(house: House) -> None:
    async with house.client() as client:
        task = await accept(client)
        readers = [asyncio.create_task(frames(client, task)) for _ in range(20)]
        await run(house, task)
        results = await asyncio.gather(*readers)
        assert all(result == results[0] for result in results)
        await until(lambda: house.streams.statistics()["readers"] == 0)
