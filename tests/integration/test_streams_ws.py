"""The WebSocket of a real gateway over real PostgreSQL and Valkey: protocol, tenancy, re-auth,
rubbish, slow readers, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
import pytest_asyncio
import websockets
from gateway_support import House, build_house
from streams_support import new_task, play, serving, talk, text_of

from mesh.contracts.events import Cursor, EventType
from mesh.contracts.tasks import TaskState
from mesh.core.ids import uuid7
from mesh.security.scopes import ALL_SCOPES, STREAMS_READ
from mesh.storage.pool import Database
from mesh.streams.connect import connect
from mesh.streams.filters import Filter
from mesh.streams.options import StreamOptions
from mesh.streams.presence import ValkeyPresence
from mesh.streams.resume import Place, write_token
from mesh.streams.valkey import ValkeyStreamLog
from serve_apps.gateway.app import create_app
from serve_apps.gateway.live import LiveStreams


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    redis = connect(valkey_url)
    log = ValkeyStreamLog(redis, StreamOptions(coalesce_s=0.001))
    built = await build_house(database, valkey_url, streams=log)
    built.gateway.presence = ValkeyPresence(redis)
    built.gateway.live = quick_live()
    built.app = create_app(built.gateway)
    yield built
    await built.gateway.live.aclose()
    await log.aclose()
    await redis.aclose()
    await built.redis.aclose()


def quick_live() -> LiveStreams:
    return LiveStreams(tick_s=0.05, presence_every_s=0.3)


def changed(house: House, **streams: Any) -> House:
    """Another replica of the same gateway, with other settings of its streams."""
    settings = house.gateway.settings
    new = settings.model_copy(update={"streams": settings.streams.model_copy(update=streams)})
    gateway = replace(house.gateway, settings=new, live=quick_live())
    return replace(house, gateway=gateway, app=create_app(gateway))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def address(house: House) -> AsyncIterator[str]:
    async with serving(house.app) as one:
        yield one


async def test_a_task_is_followed_from_its_start_to_its_end(house: House, address: str) -> None:
    row = await new_task(house)
    async with talk(address, house.key) as one:
        await one.say(type="subscribe", id="a", topic=f"task:{row.id}")
        assert (await one.until("subscribed"))["cursor"] == "0-0"
        playing = asyncio.create_task(play(house, row))
        events = await one.events("a")
        assert text_of(events) == "".join(await playing)
        assert [e["type"] for e in events][:2] == ["task.accepted", "task.started"]
        assert events[-1]["type"] == "task.succeeded"
        cursors = [Cursor.parse(e["cursor"]) for e in events]
        assert cursors == sorted(set(cursors))
        assert one.heard[-1] == {"type": "ended", "id": "a", "cursor": events[-1]["cursor"]}
        # Who has seen the end and asks again is told that this was all.
        await one.say(type="subscribe", id="b", topic=f"task:{row.id}", after=events[-1]["cursor"])
        assert await one.events("b") == []


async def test_many_topics_on_one_socket_each_in_order(house: House, address: str) -> None:
    rows = [await new_task(house) for _ in range(20)]
    async with talk(address, house.key) as one:
        for row in rows:
            await one.say(type="subscribe", id=str(row.id), topic=f"task:{row.id}")
        playing = asyncio.gather(*(play(house, row) for row in rows))
        found: dict[str, list[dict[str, Any]]] = {str(row.id): [] for row in rows}
        left = set(found)
        while left:
            message = await one.next()
            if message["type"] == "events":
                found[message["id"]] += message["events"]
            elif message["type"] == "ended":
                left.discard(message["id"])
        for events, said in zip(found.values(), await playing, strict=True):
            assert text_of(events) == "".join(said)
            assert events[-1]["type"] == "task.succeeded"
    assert house.gateway.streams.statistics()["readers"] == 0


async def test_the_workspace_hears_of_its_tasks_once_and_of_no_others(
    house: House, address: str
) -> None:
    async with talk(address, house.key) as one, talk(address, house.other) as two:
        for each in (one, two):
            await each.say(type="subscribe", id="all", topic="workspace:tasks")
            await each.until("subscribed")
        row, foreign = await new_task(house), await new_task(house, house.other)
        await asyncio.gather(play(house, row), play(house, foreign))
        ours, theirs = await one.events("all", 3), await two.events("all", 3)
        for events, task in ((ours, row), (theirs, foreign)):
            assert [e["type"] for e in events] == [
                "task.accepted",
                "task.started",
                "task.succeeded",
            ]
            assert {e["data"]["task_id"] for e in events} == {str(task.id)}
            assert [e["data"]["attempt"] for e in events] == [0, 1, 1]


async def test_filters_by_type_and_step(house: House, address: str) -> None:
    row = await new_task(house)
    await play(house, row)
    async with talk(address, house.key) as one:
        topic = f"task:{row.id}"
        await one.say(type="subscribe", id="s", topic=topic, filter={"types": ["step.*"]})
        types = [e["type"] for e in await one.events("s")]
        assert types == ["step.started", "step.finished", "task.succeeded"], "the end always comes"
        await one.say(
            type="subscribe", id="t", topic=topic, filter={"types": ["tokens"], "steps": ["other"]}
        )
        assert [e["type"] for e in await one.events("t")] == ["task.succeeded"]
        await one.say(type="subscribe", id="u", topic=topic, filter={"types": ["nonsense"]})
        refused = await one.until("error", id="u")
        assert refused["details"]["field"] == "filter.types"


async def test_another_workspace_s_task_is_not_found(house: House, address: str) -> None:
    row = await new_task(house, house.other)
    async with talk(address, house.key) as one:
        await one.say(type="subscribe", id="a", topic=f"task:{row.id}")
        refused = await one.until("error", id="a")
        await one.say(type="subscribe", id="a", topic=f"task:{uuid7()}")
        unknown = await one.until("error", id="a")
        assert refused["code"] == unknown["code"] == "not_found"
        assert refused["message"] == unknown["message"]
        # Neither does a token help that names it.
        stolen = write_token([Place("x", f"task:{row.id}", Cursor(), Filter())])
        await one.say(type="resume", token=stolen)
        assert (await one.until("error", id="x"))["code"] == "not_found"
        assert (await one.until("resumed"))["subscriptions"] == 0


async def test_rooms_are_heard_by_their_members_and_groups_and_by_no_other_workspace(
    house: House, address: str
) -> None:
    async with talk(address, house.key) as one, talk(address, house.other) as two:
        for each in (one, two):
            await each.say(type="subscribe", id="r", topic="room:team.alpha")
            await each.say(type="subscribe", id="g", topic="room:team.*")
            await each.until("subscribed", id="g")
        said = {"type": "publish", "id": "p", "topic": "room:team.alpha", "key": "k1"}
        await one.say(**said, data={"text": "hello"})
        first = await one.until("published")
        await one.say(**said, data={"text": "hello"})  # the client never saw the answer
        assert (await one.until("published"))["cursor"] == first["cursor"]
        async with house.client() as http:
            answer = await http.post("/v1/mesh/rooms/team/messages", json={"data": {"n": 2}})
            assert answer.status_code == 201
        await one.say(type="publish", id="q", topic="room:team.alpha", data={"n": 3})
        await two.say(type="publish", id="p", topic="room:team.alpha", data={"text": "theirs"})
        theirs = await two.events("r", 1)
        assert theirs[0]["data"]["data"] == {"text": "theirs"}
        group: list[Any] = []
        room: list[Any] = []
        for message in one.heard:
            if message["type"] == "events":
                (group if message["id"] == "g" else room).extend(message["events"])
        while len(group) < 3 or len(room) < 2:
            message = await one.next()
            if message["type"] == "events":
                (group if message["id"] == "g" else room).extend(message["events"])
        assert [e["data"]["data"] for e in room] == [{"text": "hello"}, {"n": 3}]
        assert [e["data"]["data"] for e in group] == [{"text": "hello"}, {"n": 2}, {"n": 3}]


async def test_presence_counts_all_members_of_a_room_over_all_replicas(
    house: House, address: str
) -> None:
    other = changed(house)
    other.gateway.presence = ValkeyPresence(house.redis)
    async with serving(other.app) as second, talk(address, house.key) as one:
        await one.say(type="subscribe", id="r", topic="room:lobby")
        assert (await one.until("presence"))["count"] == 1
        async with talk(second, house.key) as two:
            await two.say(type="subscribe", id="r", topic="room:lobby")
            assert (await two.until("presence"))["count"] == 2
            assert (await one.until("presence"))["count"] == 2
        assert (await one.until("presence", count=1))["topic"] == "room:lobby"
    await other.gateway.live.aclose()


async def test_a_resume_token_goes_on_where_the_last_socket_was_at_any_replica(
    house: House,
) -> None:
    row = await new_task(house)
    first, other = changed(house), changed(house)
    writer = house.streams.writer(str(row.id), 1, workspace=row.workspace_id)
    seen: list[Any] = []
    async with serving(first.app) as address, talk(address, house.key) as one:
        await one.say(type="subscribe", id="a", topic=f"task:{row.id}")
        for n in range(5):
            await writer.token("body", f"{n} ")
            await writer.token(f"other{n}", "x")  # each step's first token goes at once
        seen += await one.events("a", 6)
        await first.gateway.live.drain(spread_s=0)
        goodbye = await one.until("server.draining")
        assert await one.closed() == 1012
        for message in one.heard:  # what came between the sixth event and the goodbye
            if message["type"] == "events":
                seen += [e for e in message["events"] if e not in seen]
    async with serving(other.app) as second, talk(second, house.key) as two:
        await two.say(type="resume", token=goodbye["resume"])
        await writer.aclose()
        writer = house.streams.writer(str(row.id), 2, workspace=row.workspace_id)
        await play_end(writer)
        seen += await two.events("a")
    whole = [e async for e in house.streams.read(str(row.id)) if e is not None]
    assert [e["cursor"] for e in seen] == [str(e.cursor) for e in whole]
    # A replica that goes away lets nobody in any more.
    async with serving(first.app) as address:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with talk(address, house.key):
                pass
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["retry-after"] == "1"
    for each in (first, other):
        await each.gateway.live.aclose()


async def play_end(writer: Any) -> None:
    await writer.append(EventType.TASK_SUCCEEDED, {})
    await writer.aclose()


async def test_who_may_open_a_socket(house: House, address: str) -> None:
    poor = await house.keys.create("one", "poor", {"models:read"})
    for headers, status, code in (
        ({"Authorization": "Bearer nonsense"}, 401, "unauthenticated"),
        ({"Authorization": f"Bearer {poor.key}"}, 403, "forbidden"),
        ({"Authorization": f"Bearer {house.key}", "Origin": "https://evil.test"}, 403, "forbidden"),
    ):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(f"ws://{address}/v1/mesh/ws", additional_headers=headers):
                pass
        answer = refused.value.response
        assert answer.status_code == status
        body = orjson.loads(answer.body or b"{}")
        assert body["code"] == code
        assert body["traceId"] == answer.headers["x-trace-id"]
    key = {"Authorization": f"Bearer {house.key}"}
    for path, more, status in (
        ("/v1/mesh/elsewhere", {}, 404),
        (f"/v1/mesh/ws?token={house.key}", {}, 422),
        ("/v1/mesh/ws", {"subprotocols": ["other.v9"]}, 422),
    ):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(f"ws://{address}{path}", additional_headers=key, **more):
                pass
        assert refused.value.response.status_code == status
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(f"ws://{address}/v1/mesh/elsewhere"):
            pass
    assert refused.value.response.status_code == 401, "strangers don't learn the paths"


async def test_a_browser_says_who_it_is_in_its_first_message(house: House) -> None:
    quick = changed(house, socket_auth_s=0.2)
    async with serving(quick.app) as address:
        async with talk(address, None) as one:
            await one.say(type="subscribe", id="a", topic="workspace:tasks")
            assert (await one.until("error"))["code"] == "unauthenticated"
            assert await one.closed() == 4401
        async with talk(address, None) as one:
            await one.say(type="auth", token="nonsense")
            assert (await one.until("error"))["code"] == "unauthenticated"
            assert await one.closed() == 4401
        async with talk(address, None) as one:
            assert await one.closed() == 4401, "nothing was said in time"
        async with talk(address, None) as one:
            await one.say(type="auth", token=house.key)
            await one.until("authenticated")
            await asyncio.sleep(0.4)
            await one.say(type="ping", id="7")
            assert (await one.until("pong"))["id"] == "7"
    await quick.gateway.live.aclose()


async def test_a_fresh_token_keeps_the_socket_and_an_expired_one_ends_it(house: House) -> None:
    quick = changed(house, socket_auth_warning_s=60)
    principal = await house.keys.verify(house.key)
    stranger = await house.keys.verify(house.other)
    async with serving(quick.app) as address:
        short = await house.tokens.issue(principal, ttl_s=2)
        async with talk(address, short) as one:
            await one.say(type="subscribe", id="a", topic="workspace:tasks")
            warned = await one.until("auth.expiring")
            assert 0 < warned["expires_in_s"] <= 2
            await one.say(type="auth", token=await house.tokens.issue(stranger, ttl_s=30))
            assert (await one.until("error"))["code"] == "forbidden"
            await one.say(type="auth", token=await house.tokens.issue(principal, ttl_s=30))
            await one.until("authenticated")
            await asyncio.sleep(2.2)
            row = await new_task(house)
            assert (await one.events("a", 1))[0]["data"]["task_id"] == str(row.id)
        async with talk(address, await house.tokens.issue(principal, ttl_s=1)) as one:
            await one.say(type="subscribe", id="a", topic="workspace:tasks")
            closing = await one.until("closing")
            assert closing["code"] == 4401
            assert closing["resume"]
            assert await one.closed() == 4401
    await quick.gateway.live.aclose()


async def test_a_narrower_credential_ends_what_it_does_not_cover(
    house: House, address: str
) -> None:
    narrow = await house.keys.create("one", "narrow", {STREAMS_READ})
    async with talk(address, house.key) as one:
        await one.say(type="subscribe", id="a", topic="workspace:tasks")
        await one.say(type="subscribe", id="r", topic="room:lobby")
        await one.until("subscribed", id="r")
        await one.say(type="auth", token=narrow.key)
        assert (await one.until("error", id="a"))["details"]["scope"] == "tasks:read"
        await one.until("authenticated")
        await new_task(house)
        await one.say(type="publish", id="p", topic="room:lobby", data={})
        assert (await one.until("error", id="p"))["details"]["scope"] == "streams:write"
        await one.say(type="unsubscribe", id="r")
        await one.until("unsubscribed", id="r")
        assert not [m for m in one.heard if m["type"] == "events"]


async def test_a_revoked_key_ends_its_sockets(house: House, address: str) -> None:
    key = await house.keys.create("one", "brief", ALL_SCOPES)
    async with talk(address, key.key) as one:
        await house.keys.revoke(key.id)
        house.app.authenticator.forget(key.id)
        assert await one.closed() == 4401


RUBBISH = [
    "not json",
    "[]",
    "null",
    "{}",
    '{"type":"dance"}',
    '{"type":"subscribe"}',
    '{"type":"subscribe","id":"a","topic":"task:nonsense"}',
    '{"type":"subscribe","id":"a","topic":"task:*"}',
    '{"type":"subscribe","id":"a","topic":"room:UPPER"}',
    '{"type":"subscribe","id":"a","topic":"room:*"}',
    '{"type":"subscribe","id":"a","topic":"room:a.b.c.d.e"}',
    '{"type":"subscribe","id":"a","topic":"workspace:other"}',
    '{"type":"subscribe","id":"a","topic":"workspace:tasks","after":"yesterday"}',
    '{"type":"subscribe","id":"a","topic":"workspace:tasks","more":1}',
    '{"type":"subscribe","id":"","topic":"workspace:tasks"}',
    '{"type":"subscribe","id":7,"topic":"workspace:tasks"}',
    '{"type":"unsubscribe","id":"nobody"}',
    '{"type":"resume","token":"r1.AAAA"}',
    '{"type":"resume","token":"r9.x"}',
    '{"type":"publish","id":"a","topic":"workspace:tasks","data":{}}',
    '{"type":"publish","id":"a","topic":"room:a","data":[]}',
    '{"type":"publish","id":"a","topic":"room:a","data":{"x":"' + "y" * 20_000 + '"}}',
    '{"type":"ping","id":"\\u0000"}',
    "[" * 200 + "]" * 200,
    '{"type":"publish","id":"a","topic":"room:a","data":' + '{"a":' * 60 + "1" + "}" * 60 + "}",
]


async def test_rubbish_is_refused_and_the_socket_lives_on(house: House, address: str) -> None:
    async with talk(address, house.key) as one:
        for text in RUBBISH:
            await one.socket.send(text)
            error = await one.until("error")
            assert {"code", "message", "details", "traceId"} <= set(error), text
            assert error["code"] not in ("internal", "rate_limited"), text
            await one.say(type="ping", id="still-here")
            assert (await one.until("pong"))["id"] == "still-here"


async def test_who_goes_on_sending_rubbish_is_shown_out(house: House) -> None:
    strict = changed(house, socket_messages_per_s=1, socket_subscriptions=3)
    async with serving(strict.app) as address:
        async with talk(address, house.key) as one:
            for _ in range(60):
                await one.socket.send('{"type":"ping"}')
            assert await one.closed() == 4429
            assert next(m["code"] for m in one.heard if m["type"] == "error") == "rate_limited"
        async with talk(address, house.key) as one:
            await one.socket.send("x" * 70_000)
            assert await one.closed() == 1009
        async with talk(address, house.key) as one:
            await one.socket.send(b"\x00\x01")
            assert await one.closed() == 1003
    loose = changed(house, socket_messages_per_s=1_000)
    async with serving(loose.app) as address, talk(address, house.key) as one:
        for _ in range(30):
            await one.socket.send("nonsense")
        assert await one.closed() == 1008
    for each in (strict, loose):
        await each.gateway.live.aclose()


async def test_limits_of_subscriptions_and_ids(house: House) -> None:
    small = changed(house, socket_subscriptions=2)
    async with serving(small.app) as address, talk(address, house.key) as one:
        await one.say(type="subscribe", id="a", topic="workspace:tasks")
        await one.say(type="subscribe", id="a", topic="room:x")
        assert (await one.until("error", id="a"))["code"] == "conflict"
        await one.say(type="subscribe", id="b", topic="room:x")
        await one.say(type="subscribe", id="c", topic="room:y")
        assert (await one.until("error", id="c"))["details"] == {"limit": 2}
        await one.say(type="unsubscribe", id="b")
        await one.say(type="subscribe", id="c", topic="room:y")
        await one.until("subscribed", id="c")
    await small.gateway.live.aclose()


async def test_heartbeats_carry_a_token_and_a_silent_client_is_let_go(house: House) -> None:
    quick = changed(house, socket_heartbeat_s=0.3)
    row = await new_task(house)
    async with serving(quick.app) as address:
        async with talk(address, house.key) as one:
            await one.say(type="subscribe", id="a", topic=f"task:{row.id}")
            await one.events("a", 1)
            ping = await one.until("ping")
            assert ping["resume"].startswith("r1.")
        async with talk(address, house.key) as silent:
            code = None
            try:
                async with asyncio.timeout(10):
                    while True:
                        await silent.socket.recv()  # reads, and never answers
            except websockets.ConnectionClosed:
                code = silent.socket.close_code
            assert code == 4408
    await quick.gateway.live.aclose()


async def test_the_end_of_a_task_whose_stream_has_expired_is_told_from_its_row(
    house: House, address: str
) -> None:
    row = await new_task(house)
    claimed = await house.tasks.claim(row.id, "w", 30)
    assert claimed is not None
    await house.tasks.finish(
        row.id,
        claimed.attempt,
        TaskState.FAILED,
        error={"code": "x", "message": "m", "details": {}},
    )
    await house.redis.delete(f"maily:stream:{row.id}")
    async with talk(address, house.key) as one:
        await one.say(type="subscribe", id="a", topic=f"task:{row.id}")
        events = await one.events("a")
        assert [e["type"] for e in events] == ["task.failed"]


async def test_two_sockets_and_a_late_one_agree(house: House, address: str) -> None:
    row = await new_task(house)
    async with talk(address, house.key) as one, talk(address, house.key) as two:
        for each in (one, two):
            await each.say(type="subscribe", id="a", topic=f"task:{row.id}")
        _, first, second = await asyncio.gather(play(house, row), one.events("a"), two.events("a"))
        await one.say(type="subscribe", id="late", topic=f"task:{row.id}")
        late = await one.events("late")
    assert first == second == late


async def test_a_client_that_does_not_read_is_given_up_and_loses_nothing(house: House) -> None:
    """Its queue stays bounded, it is closed when it does not catch up in time, and a later socket
    goes on from the last event that it got."""
    slow = changed(house, socket_slow_s=0.6, socket_heartbeat_s=60)
    row = await new_task(house)
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    got: list[dict[str, Any]] = []
    stuck = asyncio.Event()
    subscribe = {"type": "subscribe", "id": "a", "topic": f"task:{row.id}"}
    said.put_nowait({"type": "websocket.connect"})
    said.put_nowait({"type": "websocket.receive", "text": orjson.dumps(subscribe).decode()})

    async def send(message: Any) -> None:
        if sum(m["type"] == "events" for m in got) >= 2:
            stuck.set()
            await asyncio.Event().wait()  # as a full socket does
        if message["type"] == "websocket.send":
            got.append(orjson.loads(message["text"]))

    scope = {
        "type": "websocket",
        "path": "/v1/mesh/ws",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {house.key}".encode())],
        "subprotocols": [],
        "extensions": {},
    }
    socket = asyncio.create_task(slow.app(scope, said.get, send))
    writer = house.streams.writer(str(row.id), 1, workspace=row.workspace_id)
    for number in range(20):
        await writer.append(EventType.STEP_STARTED, {"step": str(number)})
    await stuck.wait()
    await asyncio.gather(
        *(writer.append(EventType.STEP_STARTED, {"step": str(n)}) for n in range(20, 600))
    )
    async with asyncio.timeout(10):
        await socket  # it ends by itself, without having been able to say goodbye
    assert house.streams.statistics()["overflows"] >= 1
    assert slow.gateway.live.statistics()["sockets"] == 0
    assert house.streams.statistics()["readers"] == 0
    await writer.append(EventType.TASK_SUCCEEDED, {})
    await writer.aclose()
    seen = [e for m in got if m["type"] == "events" for e in m["events"]]
    async with serving(slow.app) as address, talk(address, house.key) as two:
        after = seen[-1]["cursor"]
        await two.say(type="subscribe", id="b", topic=f"task:{row.id}", after=after)
        seen += await two.events("b")
    numbers = [e["data"]["step"] for e in seen if e["type"] == "step.started"]
    assert numbers == [str(number) for number in range(600)]
    await slow.gateway.live.aclose()
