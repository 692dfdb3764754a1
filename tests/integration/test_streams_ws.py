"""The WebSocket of a real gateway over real PostgreSQL and Valkey: topics, rooms, resuming, slow
readers, replicas that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
import websockets
from gateway_support import House
from streams_support import changed, new_task, play, quick_house, serving, talk, text_of

from mesh.contracts.events import Cursor, EventType
from mesh.contracts.tasks import TaskState
from mesh.storage.pool import Database
from mesh.streams.presence import ValkeyPresence


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    async with quick_house(database, valkey_url) as one:
        yield one


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
    slow = changed(house, socket_slow_s=3.0, socket_heartbeat_s=60)
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
    async with asyncio.timeout(20):
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
