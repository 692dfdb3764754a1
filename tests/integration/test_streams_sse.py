"""Several topics in one answer of server-sent events: composite cursors, tenancy, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest_asyncio
from gateway_support import House, build_house, shaped
from streams_support import LIMIT_S, new_task, play, serving, text_of

from mesh.core.ids import uuid7
from mesh.storage.pool import Database
from mesh.streams.connect import connect
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog
from serve_apps.gateway.app import create_app
from serve_apps.gateway.live import LiveStreams

EVENTS = "/v1/mesh/events"


@pytest_asyncio.fixture
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    redis = connect(valkey_url)
    log = ValkeyStreamLog(redis, StreamOptions(coalesce_s=0.001))
    built = await build_house(database, valkey_url, streams=log)
    yield built
    await log.aclose()
    await redis.aclose()
    await built.redis.aclose()


class Reading:
    """One answer, taken apart."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.last_id: str | None = None

    async def frames(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        buffer = b""
        async for data in self.answer.aiter_raw():
            buffer += data
            while b"\n\n" in buffer:
                frame, buffer = buffer.split(b"\n\n", 1)
                lines = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line)
                if b"id" in lines:
                    self.last_id = lines[b"id"].decode()
                if b"event" in lines:
                    yield lines[b"event"].decode(), orjson.loads(lines[b"data"])


@asynccontextmanager
async def reading(
    address: str, key: str, topics: list[str], last_id: str | None = None, **query: str
) -> AsyncIterator[Reading]:
    headers = {"authorization": f"Bearer {key}"}
    if last_id is not None:
        headers["last-event-id"] = last_id
    async with (
        asyncio.timeout(LIMIT_S),
        httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as client,
        client.stream("GET", EVENTS, params={"topics": ",".join(topics), **query}) as answer,
    ):
        yield Reading(answer)


async def test_several_topics_cut_again_and_again_and_every_event_once(house: House) -> None:
    rows = [await new_task(house) for _ in range(4)]
    topics = [f"task:{row.id}" for row in rows] + ["workspace:tasks"]
    found: dict[str, list[dict[str, Any]]] = {topic: [] for topic in topics}
    last_id: str | None = None
    async with serving(house.app) as address:
        # Opened once before anything happens: `now` of the workspace is a place, too.
        async with reading(address, house.key, topics) as one:
            async for kind, _ in one.frames():
                assert kind == "stream.open"
                break
            last_id = one.last_id
        playing = asyncio.gather(*(play(house, row) for row in rows))
        cuts = 0
        while sum(e["type"] == "task.succeeded" for e in found["workspace:tasks"]) < len(rows):
            async with reading(address, house.key, topics, last_id) as one:
                taken = 0
                async with aclosing(one.frames()) as frames:  # type: ignore[type-var]
                    async for kind, event in frames:
                        last_id = one.last_id
                        if kind == "stream.open":
                            continue
                        found[event["topic"]].append(event)
                        taken += 1
                        if taken >= 3 or kind == "task.succeeded":
                            break
            cuts += 1
        said = await playing
        assert cuts > 5
        for topic, text in zip(topics, said, strict=False):
            events = found[topic]
            async with reading(address, house.key, topics, last_id) as one:
                if events[-1]["type"] != "task.succeeded":
                    async for kind, event in one.frames():
                        if kind != "stream.open":
                            found[event["topic"]].append(event)
                            last_id = one.last_id
                        if event.get("topic") == topic and kind == "task.succeeded":
                            break
            assert text_of(events) == "".join(text)
            assert len({e["cursor"] for e in events}) == len(events)
    lifecycle = found["workspace:tasks"]
    # The tasks were accepted before the stream was opened: only what came since is heard.
    assert sorted(e["type"] for e in lifecycle) == ["task.started"] * 4 + ["task.succeeded"] * 4


async def test_it_ends_with_the_last_task_and_then_says_there_is_no_more(house: House) -> None:
    rows = [await new_task(house) for _ in range(2)]
    topics = [f"task:{row.id}" for row in rows]
    await asyncio.gather(*(play(house, row) for row in rows))
    async with serving(house.app) as address:
        async with reading(address, house.key, topics, types="task.*") as one:
            kinds = [kind async for kind, _ in one.frames()]
            assert sorted(kinds[1:]) == sorted(
                ["task.accepted", "task.started", "task.succeeded"] * 2
            )
        async with reading(address, house.key, topics, one.last_id) as again:
            assert again.answer.status_code == 204


async def test_what_is_refused(house: House) -> None:
    mine, foreign = await new_task(house), await new_task(house, house.other)
    key = {"topics": f"task:{mine.id}"}
    async with house.client() as client:
        for params, status, code in (
            ({"topics": f"task:{foreign.id}"}, 404, "not_found"),
            ({"topics": f"task:{uuid7()}"}, 404, "not_found"),
            ({"topics": "nonsense"}, 422, "invalid_input"),
            ({"topics": "workspace:tasks,workspace:tasks"}, 422, "invalid_input"),
            ({"topics": ",".join(f"room:r{n}" for n in range(40))}, 422, "invalid_input"),
            ({"topics": ","}, 422, "invalid_input"),
            ({}, 422, "invalid_input"),
            (key | {"types": "nonsense"}, 422, "invalid_input"),
            (key | {"more": "1"}, 422, "invalid_input"),
        ):
            shaped(await client.get(EVENTS, params=params), status, code)
        for last_id in ("nonsense", "AAAA", "é"):
            answer = await client.get(
                EVENTS, params=key, headers={"last-event-id": last_id.encode("latin-1")}
            )
            shaped(answer, 422, "invalid_input", "header.Last-Event-ID")
        long = {"data": {"text": "x" * 20_000}}
        shaped(await client.post("/v1/mesh/rooms/a/messages", json=long), 413, "body_too_large")
        shaped(
            await client.post("/v1/mesh/rooms/A!/messages", json={"data": {}}), 422, "invalid_input"
        )
    poor = await house.keys.create("one", "reader", {"streams:read"})
    async with house.client(poor.key) as client:
        refused = shaped(await client.get(EVENTS, params=key), 403, "forbidden")
        assert refused["details"]["scope"] == "tasks:read"
        shaped(await client.post("/v1/mesh/rooms/a/messages", json={"data": {}}), 403, "forbidden")


async def test_a_cursor_of_other_topics_is_refused(house: House) -> None:
    row = await new_task(house)
    async with serving(house.app) as address:
        async with reading(address, house.key, ["room:a", "room:b"]) as one:
            async for _ in one.frames():
                break
        async with reading(address, house.key, ["room:b", "room:a"], one.last_id) as other:
            assert other.answer.status_code == 422
        async with reading(address, house.key, [f"task:{row.id}"], one.last_id) as other:
            assert other.answer.status_code == 422


async def test_a_replica_that_goes_away_hands_its_event_streams_over(house: House) -> None:
    row = await new_task(house)
    topics = [f"task:{row.id}"]
    second = replace(house.gateway, live=LiveStreams())
    async with serving(house.app) as address, serving(create_app(second)) as elsewhere:
        async with (
            reading(address, house.key, topics) as many,
            httpx.AsyncClient(base_url=f"http://{address}", timeout=LIMIT_S) as client,
            client.stream(
                "GET",
                f"/v1/mesh/tasks/{row.id}/events",
                headers={"authorization": f"Bearer {house.key}"},
            ) as single,
        ):
            seen: list[dict[str, Any]] = []
            frames = many.frames()
            while not seen:
                kind, event = await anext(frames)
                if kind == "task.accepted":
                    seen.append(event)
            await house.gateway.live.drain(spread_s=0)
            assert [kind async for kind, _ in frames] == []
            assert b"this replica goes away" in await single.aread()
        await play(house, row)
        async with reading(elsewhere, house.key, topics, many.last_id) as again:
            seen += [event async for kind, event in again.frames() if kind != "stream.open"]
    whole = [e async for e in house.streams.read(str(row.id)) if e is not None]
    assert [e["cursor"] for e in seen] == [str(e.cursor) for e in whole]


async def test_a_revoked_key_ends_its_event_stream(house: House) -> None:
    settings = house.gateway.settings
    quick = settings.model_copy(
        update={"gateway": settings.gateway.model_copy(update={"sse_heartbeat_s": 0.05})}
    )
    gateway = replace(house.gateway, settings=quick, live=LiveStreams())
    app = create_app(gateway)
    key = await house.keys.create("one", "brief", {"streams:read"})
    async with serving(app) as address, reading(address, key.key, ["room:a"]) as one:
        frames = one.frames()
        await anext(frames)
        await house.keys.revoke(key.id)
        app.authenticator.forget(key.id)
        kind, body = await anext(frames)
        assert (kind, body["code"]) == ("error", "unauthenticated")
