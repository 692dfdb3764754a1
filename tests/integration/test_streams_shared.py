"""Shared streams in Valkey: copies of lifecycle events exactly once, messages by their keys."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from mesh.contracts.events import Event, EventType
from mesh.core.errors import Fenced, InvalidInput
from mesh.streams.codec import encode
from mesh.streams.commit import GroupCommit
from mesh.streams.connect import connect
from mesh.streams.names import group_stream, room_stream, workspace_stream
from mesh.streams.options import StreamOptions
from mesh.streams.presence import ValkeyPresence
from mesh.streams.valkey import ValkeyStreamLog
from mesh.streams.writer import Batch, Entry

WORKSPACE = uuid.UUID(int=9)
SHARED = workspace_stream(WORKSPACE)
STARTED = EventType.TASK_STARTED
SAID = EventType.ROOM_MESSAGE


@pytest_asyncio.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    one = connect(valkey_url)
    yield one
    await one.aclose()


@pytest.fixture
def options() -> StreamOptions:
    return StreamOptions(prefix=f"test:{uuid.uuid4().hex}:", max_event_bytes=2_000)


@pytest_asyncio.fixture
async def log(client: Redis, options: StreamOptions) -> AsyncIterator[ValkeyStreamLog]:
    one = ValkeyStreamLog(client, options)
    yield one
    await one.aclose()


async def told(client: Redis, options: StreamOptions, stream: str = SHARED) -> list[bytes]:
    return [fields[b"e"] for _, fields in await client.xrange(f"{options.prefix}{stream}")]


def batch(first: int, numbers: list[int], attempt: int = 1, writer: str = "w") -> Batch:
    """Events that each have a copy: the number."""
    entries = [
        Entry(
            STARTED,
            encode(STARTED, 1.0, {"n": number}, 1_000),
            None,
            first + index,
            copy=encode(STARTED, 1.0, {"copy": number}, 1_000),
        )
        for index, number in enumerate(numbers)
    ]
    return Batch("t", attempt, writer, entries, shared=SHARED)


async def test_a_batch_sent_again_tells_the_workspace_once(
    client: Redis, options: StreamOptions
) -> None:
    commit = GroupCommit(client, options)
    await commit.commit(batch(1, [1, 2]))
    await commit.commit(batch(1, [1, 2]))  # the answer was lost
    await commit.commit(batch(2, [2, 3]))  # half of it had been written
    with pytest.raises(Fenced):
        await commit.commit(batch(4, [4], attempt=0))
    with pytest.raises(Fenced):
        await commit.commit(batch(3, [9], writer="another"))
    assert await told(client, options) == [
        encode(STARTED, 1.0, {"copy": number}, 1_000) for number in (1, 2, 3)
    ]
    await commit.aclose()


async def test_of_several_who_end_a_task_one_tells_the_workspace(
    client: Redis, options: StreamOptions, log: ValkeyStreamLog
) -> None:
    writer = log.writer("t", 1, workspace=WORKSPACE)
    await writer.append(STARTED, {})
    await writer.append(EventType.STEP_STARTED, {"step": "a"})
    await writer.token("a", "text")
    await writer.aclose()
    done = EventType.TASK_SUCCEEDED
    sealed = await asyncio.gather(
        *(log.seal("t", 1, done, {"n": n}, workspace=WORKSPACE) for n in range(8))
    )
    assert sum(event is not None for event in sealed) == 1
    assert [one.split(b'"t":')[1] for one in await told(client, options)] == [
        b'"task.started"}',
        b'"task.succeeded"}',
    ]


async def test_a_copy_that_would_be_too_long_names_the_task_alone(
    client: Redis, options: StreamOptions, log: ValkeyStreamLog
) -> None:
    writer = log.writer("t", 1, workspace=WORKSPACE)
    await writer.append(EventType.TASK_FAILED, {"error": "x" * 1_900})
    (copy,) = await told(client, options)
    assert b"xxx" not in copy
    assert b'"task_id":"t"' in copy


async def test_everybody_may_speak_and_the_log_numbers_them(
    client: Redis, options: StreamOptions, log: ValkeyStreamLog
) -> None:
    room, group = room_stream(WORKSPACE, "a.b"), group_stream(WORKSPACE, "a")
    said = await asyncio.gather(
        *(log.publish([room, group], SAID, {"n": n}, key=str(n % 10)) for n in range(30))
    )
    places = {event.cursor for event in said}
    assert [c.sequence for c in sorted(places)] == list(range(1, 11))
    assert await told(client, options, room) == await told(client, options, group)
    assert len(await told(client, options, room)) == 10
    with pytest.raises(ValueError, match="shared"):
        await log.publish(["a-task"], SAID, {}, key="k")
    with pytest.raises(InvalidInput):
        await log.publish([room], SAID, {"text": "x" * 3_000}, key="k")


async def test_a_stream_that_begins_anew_sorts_after_what_readers_remember(
    client: Redis, options: StreamOptions, log: ValkeyStreamLog
) -> None:
    room = room_stream(WORKSPACE, "a")
    first = await log.publish([room], SAID, {"n": 1}, key="1")
    await client.delete(f"{options.prefix}{room}")
    async with asyncio.timeout(20):
        # The number of a new stream is the second in which it begins.
        while (again := await log.publish([room], SAID, {"n": 2}, key=uuid.uuid4().hex)) and (
            again.attempt == first.attempt
        ):
            await client.delete(f"{options.prefix}{room}")
            await asyncio.sleep(0.05)
    seen: list[Event] = []
    async with asyncio.timeout(20):
        async for event in log.read(room, first.cursor):
            if event is not None:
                seen.append(event)
                break
    assert seen == [again]


async def test_the_script_of_messages_is_taught_again(client: Redis, log: ValkeyStreamLog) -> None:
    room = room_stream(WORKSPACE, "a")
    for n in range(3):
        await client.script_flush()
        assert (await log.publish([room], SAID, {}, key=str(n))).sequence == n + 1


async def test_presence_adds_up_and_forgets_the_dead(client: Redis, options: StreamOptions) -> None:
    from mesh.core.clock import VirtualClock

    clock = VirtualClock()
    one, two = (ValkeyPresence(client, options, clock) for _ in range(2))
    assert await one.tell({}) == {}
    assert await one.tell({"r": 3, "q": 1}) == {"r": 3, "q": 1}
    assert await two.tell({"r": 2}) == {"r": 5}
    assert await one.tell({"r": 0, "q": 1}) == {"r": 2, "q": 1}
    await clock.advance(11)  # `two` has died
    assert await one.tell({"r": 1}) == {"r": 1}
