"""What every stream log promises; each implementation runs all of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing

import pytest
import pytest_asyncio
from streams_kit import (
    LIMIT_S,
    collect,
    next_event,
    open_log,
    type_of_log,
    until,
    until_attached,
    wire,
)

from mesh.contracts.events import Cursor, Event, EventType
from mesh.core.clock import Clock, VirtualClock
from mesh.core.errors import Fenced, InvalidInput, NotFound
from mesh.streams.options import StreamOptions

Opener = Callable[..., Awaitable[type_of_log]]
STEP = EventType.STEP_STARTED
DONE = EventType.TASK_SUCCEEDED


@pytest_asyncio.fixture(params=["memory", "valkey"])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    url = request.getfixturevalue("valkey_url") if request.param == "valkey" else None
    async with AsyncExitStack() as stack:

        async def make(
            options: StreamOptions | None = None, clock: Clock | None = None
        ) -> type_of_log:
            return await stack.enter_async_context(open_log(url, options, clock))

        yield make


@pytest.fixture
def stream() -> str:
    return uuid.uuid4().hex


async def test_what_is_appended_is_read_in_order_and_ends(opened: Opener, stream: str) -> None:
    log = await opened()
    writer = log.writer(stream, 3)
    data = {"b": [1, 2.5, None, "ü\n\u2028\x00"], "a": {"z": 1, "y": {"x": True}}}
    written = [await writer.append(STEP, {**data, "n": n}) for n in range(20)]
    written.append(await writer.append(DONE, {"degraded": False}))
    assert [str(event.cursor) for event in written] == [f"3-{n}" for n in range(1, 22)]
    read = await collect(log, stream)
    assert wire(read) == wire(written)
    assert await log.last(stream) == written[-1]
    assert await collect(log, stream, Cursor(3, 7)) == written[7:]
    assert await collect(log, stream, Cursor(2, 999)) == written


async def test_a_stream_that_never_was(opened: Opener, stream: str) -> None:
    log = await opened()
    assert await log.last(stream) is None
    with pytest.raises(NotFound):
        await collect(log, stream)
    assert log.statistics()["readers"] == 0


async def test_live_readers_all_see_the_same(opened: Opener, stream: str) -> None:
    log = await opened()
    writer = log.writer(stream, 1)
    await writer.append(EventType.TASK_ACCEPTED, {})
    readers = [asyncio.create_task(collect(log, stream)) for _ in range(20)]
    await until_attached(log, 20)
    for n in range(50):
        await writer.append(STEP, {"n": n})
        await writer.token("s", f"{n} ")
    await writer.append(DONE, {})
    seen = {wire(await reader) for reader in readers}
    assert seen == {wire(await collect(log, stream))}
    assert log.statistics()["readers"] == 0


async def test_ten_disconnects_give_a_byte_identical_sequence(opened: Opener, stream: str) -> None:
    log = await opened(StreamOptions(coalesce_s=0.001))
    writer = log.writer(stream, 1)
    await writer.append(EventType.TASK_ACCEPTED, {})

    async def write() -> None:
        for step in ("strategy", "subject", "body"):
            await writer.append(STEP, {"step": step})
            for n in range(150):
                await writer.token(step, f"{step}{n} ")
                if n % 10 == 0:
                    await asyncio.sleep(0.001)
        await writer.append(DONE, {})

    async def restless() -> list[Event]:
        events: list[Event] = []
        for disconnect in range(10):
            after = events[-1].cursor if events else Cursor()
            events += await collect(log, stream, after, count=1 + disconnect % 3)
        return events + await collect(log, stream, events[-1].cursor)

    steady, broken, _ = await asyncio.gather(collect(log, stream), restless(), write())
    assert wire(broken) == wire(steady) == wire(await collect(log, stream))
    text = "".join(e.data["text"] for e in steady if e.type is EventType.TOKENS)
    assert text == "".join(f"{s}{n} " for s in ("strategy", "subject", "body") for n in range(150))


async def test_an_older_attempt_is_refused(opened: Opener, stream: str) -> None:
    log = await opened()
    old, new = log.writer(stream, 1), log.writer(stream, 2)
    await old.append(STEP, {"by": "old"})
    await new.append(STEP, {"by": "new"})
    with pytest.raises(Fenced):
        await old.append(STEP, {"by": "old", "late": True})
    with pytest.raises(Fenced):
        await old.token("s", "still here")
    with pytest.raises(Fenced):
        await log.writer(stream, 1).append(STEP, {"by": "another old"})
    await new.append(DONE, {})
    assert [str(e.cursor) for e in await collect(log, stream)] == ["1-1", "2-1", "2-2"]
    assert log.statistics()["fenced"] >= 1


async def test_tokens_of_a_fenced_writer_never_show(opened: Opener, stream: str) -> None:
    log = await opened(StreamOptions(coalesce_s=0.001))
    old, new = log.writer(stream, 1), log.writer(stream, 2)
    await old.append(STEP, {})
    await new.append(STEP, {})

    async def chatter() -> None:
        while True:
            await old.token("s", "x")
            await asyncio.sleep(0.001)

    with pytest.raises(Fenced):
        await asyncio.wait_for(chatter(), LIMIT_S)
    await old.aclose()
    await new.append(DONE, {})
    assert EventType.TOKENS not in {e.type for e in await collect(log, stream)}


async def test_a_restarted_writer_goes_on_and_the_former_is_refused(
    opened: Opener, stream: str
) -> None:
    log = await opened()
    former = log.writer(stream, 1)
    await former.append(STEP, {"n": 1})
    await former.append(STEP, {"n": 2})
    restarted = log.writer(stream, 1)
    assert str((await restarted.append(STEP, {"n": 3})).cursor) == "1-3"
    with pytest.raises(Fenced):
        await former.append(STEP, {"n": 3})
    await restarted.append(DONE, {})
    assert [e.data.get("n") for e in await collect(log, stream)] == [1, 2, 3, None]


async def test_a_stream_ends_exactly_once(opened: Opener, stream: str) -> None:
    log = await opened()
    writer = log.writer(stream, 1)
    await writer.append(DONE, {})
    with pytest.raises(Fenced) as refused:
        await writer.append(EventType.TASK_FAILED, {})
    assert refused.value.details["ended"] is True
    with pytest.raises(Fenced):
        await log.writer(stream, 2).append(EventType.TASK_FAILED, {})
    assert [e.type for e in await collect(log, stream)] == [DONE]


async def test_the_first_token_goes_at_once_and_later_ones_gather(
    opened: Opener, stream: str
) -> None:
    clock = VirtualClock()
    log = await opened(StreamOptions(coalesce_s=0.015, coalesce_pieces=5), clock)
    writer = log.writer(stream, 1)
    await writer.append(STEP, {})
    async with aclosing(log.read(stream)) as reader:
        assert (await next_event(reader)).type is STEP
        await writer.token("a", "Dear")
        assert (await next_event(reader)).data == {"step": "a", "text": "Dear"}
        await writer.token("a", " friend")
        await writer.token("a", ", how")
        await asyncio.sleep(0)  # let the writer start its timer
        await clock.advance(0.02)
        assert (await next_event(reader)).data["text"] == " friend, how"
        for n in range(5):  # as many pieces as may gather
            await writer.token("a", str(n))
        assert (await next_event(reader)).data["text"] == "01234"
        await writer.token("a", "rest")
        await writer.token("b", "next step")  # what gathered goes first, in its own step
        assert (await next_event(reader)).data == {"step": "a", "text": "rest"}
        assert (await next_event(reader)).data == {"step": "b", "text": "next step"}
        await writer.token("b", "!")
        await writer.append(EventType.STEP_RETRIED, {"step": "b"})
        assert (await next_event(reader)).data["text"] == "!"
        assert (await next_event(reader)).type is EventType.STEP_RETRIED
        await writer.token("b", "again")  # a retried step's first token goes at once too
        assert (await next_event(reader)).data["text"] == "again"
        await writer.token("b", " and again")
        await writer.aclose()
        assert (await next_event(reader)).data["text"] == " and again"


async def test_a_slow_reader_loses_nothing_and_holds_nobody_up(opened: Opener, stream: str) -> None:
    log = await opened(StreamOptions(feed_events=4, page_events=8))
    writer = log.writer(stream, 1)
    await writer.append(EventType.TASK_ACCEPTED, {})
    async with aclosing(log.read(stream)) as slow:
        seen = [await next_event(slow)]
        seen += [await _next_after_attach(log, writer, slow)]
        for n in range(300):  # the reader takes nothing meanwhile; every append still returns
            await writer.append(STEP, {"n": n})
        last = await writer.append(DONE, {})
        async with asyncio.timeout(LIMIT_S):
            async for event in slow:
                if event is not None:
                    seen.append(event)
                    if event.sequence % 50 == 0:
                        await asyncio.sleep(0.002)
    assert wire(seen) == wire(await collect(log, stream))
    assert seen[-1] == last
    assert len(seen) == 303
    assert log.statistics()["overflows"] >= 1
    assert log.statistics()["gaps"] == 0


async def _next_after_attach(log: type_of_log, writer, slow) -> Event:  # type: ignore[no-untyped-def]
    """One live event, so that the reader is known to follow the feed."""
    waiting = asyncio.create_task(next_event(slow))
    await until(lambda: waiting.done() or log.statistics()["pages"] >= 2)
    await writer.append(STEP, {"live": True})
    return await waiting


async def test_a_stream_is_bounded(opened: Opener, stream: str) -> None:
    log = await opened(StreamOptions(max_events=200))
    writer = log.writer(stream, 1)
    for start in range(0, 1_000, 100):
        await asyncio.gather(*(writer.append(STEP, {"n": start + n}) for n in range(100)))
    await writer.append(DONE, {})
    kept = await collect(log, stream, Cursor(1, 5))
    assert 200 <= len(kept) <= 320
    assert [e.sequence for e in kept] == list(range(kept[0].sequence, 1_002))
    assert log.statistics()["gaps"] == 1


async def test_a_stream_expires_after_its_last_event(opened: Opener, stream: str) -> None:
    clock = VirtualClock()
    log = await opened(StreamOptions(ttl_s=0.3, verify_s=0.05), clock)
    await log.writer(stream, 1).append(STEP, {})
    reader = asyncio.create_task(collect(log, stream))
    async with asyncio.timeout(LIMIT_S):
        while await log.last(stream) is not None:
            await asyncio.sleep(0.05)
            await clock.advance(0.05)
    with pytest.raises(NotFound):
        await collect(log, stream)
    if type(log).__name__ == "ValkeyStreamLog":  # live readers are told too
        with pytest.raises(NotFound):
            await reader
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


async def test_heartbeats_come_while_nothing_happens(opened: Opener, stream: str) -> None:
    log = await opened()
    writer = log.writer(stream, 1)
    await writer.append(STEP, {})
    async with aclosing(log.read(stream, heartbeat_s=0.01)) as reader:
        assert (await anext(reader)) is not None
        assert [await anext(reader) for _ in range(3)] == [None, None, None]
        await writer.append(DONE, {})
        assert (await next_event(reader)).type is DONE
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


async def test_a_reader_ahead_waits_for_what_comes(opened: Opener, stream: str) -> None:
    log = await opened()
    writer = log.writer(stream, 1)
    await writer.append(STEP, {"n": 1})
    reader = asyncio.create_task(collect(log, stream, Cursor(1, 1)))
    await until_attached(log, 1)
    await writer.append(DONE, {})
    assert [e.sequence for e in await reader] == [2]


async def test_what_can_not_be_written_is_refused_and_the_rest_goes_on(
    opened: Opener, stream: str
) -> None:
    log = await opened(StreamOptions(max_event_bytes=1_000))
    writer = log.writer(stream, 1)
    with pytest.raises(InvalidInput):
        await writer.append(STEP, {"x": "y" * 2_000})
    with pytest.raises(InvalidInput):
        await writer.append(STEP, {"x": object()})
    await writer.token("s", "half a character: \ud83d")
    await writer.append(DONE, {})
    assert [e.sequence for e in await collect(log, stream)] == [1, 2]


async def test_a_left_reader_leaves_nothing_behind(opened: Opener, stream: str) -> None:
    log = await opened()
    writer = log.writer(stream, 1)
    await writer.append(STEP, {})
    tasks = [asyncio.create_task(collect(log, stream)) for _ in range(50)]
    await until_attached(log, 50)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log.statistics()["readers"] == 0
    for _ in range(20):  # join and leave quicker than a subscription is confirmed
        await collect(log, stream, count=1)
    reader = asyncio.create_task(collect(log, stream))
    await until_attached(log, 1)
    await writer.append(DONE, {})
    assert len(await reader) == 2
