"""Who may open a WebSocket, for how long, and how much a client may say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio
import websockets
from gateway_support import House
from streams_support import changed, new_task, quick_house, serving, talk

from mesh.contracts.events import Cursor
from mesh.core.ids import uuid7
from mesh.security.scopes import ALL_SCOPES, STREAMS_READ
from mesh.storage.pool import Database
from mesh.streams.filters import Filter
from mesh.streams.resume import Place, write_token


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    async with quick_house(database, valkey_url) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def address(house: House) -> AsyncIterator[str]:
    async with serving(house.app) as one:
        yield one


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
