"""Valkey is killed under writers and readers; nothing acknowledged is lost, nobody needs help."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from services import ValkeyServer

from mesh.contracts.events import Event, EventType
from mesh.core.errors import NotFound, Unavailable
from mesh.streams.connect import connect
from mesh.streams.log import START
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog

LIMIT_S = 60.0
WRITERS = 5
OPTIONS = StreamOptions(coalesce_s=0.002, feed_events=32, page_events=16, verify_s=0.5)


class DurableValkey(ValkeyServer):
    """As in the embedded profile: a reply means that the append-only file is synced."""

    def __init__(self) -> None:
        super().__init__(append_only=True)

    def _command(self) -> list[str]:
        return [*super()._command(), "--appendfsync", "always"]


@pytest.fixture
def server() -> Iterator[DurableValkey]:
    own = DurableValkey()
    try:
        own.start()
        yield own
    finally:
        own.close()


@pytest_asyncio.fixture
async def log(server: DurableValkey) -> AsyncIterator[ValkeyStreamLog]:
    async for one in _open(server, OPTIONS):
        yield one


async def _open(server: DurableValkey, options: StreamOptions) -> AsyncIterator[ValkeyStreamLog]:
    client = connect(server.url)
    log = ValkeyStreamLog(client, options)
    yield log
    await log.aclose()
    await client.aclose()


async def _write(log: ValkeyStreamLog, stream: str, stop: asyncio.Event) -> list[Event]:
    """Append until told to stop; the events that were acknowledged."""
    writer = log.writer(stream, 1)
    written: list[Event] = []
    n = 0
    while not stop.is_set():
        written.append(await writer.append(EventType.STEP_STARTED, {"n": n}))
        for piece in range(5):
            await writer.token("s", f"{n}.{piece} ")
        n += 1
        await asyncio.sleep(0)
    written.append(await writer.append(EventType.TASK_SUCCEEDED, {}))
    return written


async def _read(log: ValkeyStreamLog, stream: str) -> list[Event]:
    async with aclosing(log.read(stream, heartbeat_s=0.1)) as reader:
        return [event async for event in reader if event is not None]


async def _progress(log: ValkeyStreamLog) -> None:
    """Until 300 more events are acknowledged."""
    goal = log.statistics()["events"] + 300
    while log.statistics()["events"] < goal:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.005)


async def _heartbeats(reader: AsyncGenerator[Event | None, None], beats: list[None]) -> None:
    """Collect heartbeats until the reader ends; an event would be wrong."""
    async for event in reader:
        assert event is None
        beats.append(event)


async def test_every_acknowledged_event_is_read_once_and_in_order(
    server: DurableValkey, log: ValkeyStreamLog
) -> None:
    streams = [f"s{n}" for n in range(WRITERS)]
    for stream in streams:
        await log.writer(stream, 0).append(EventType.TASK_ACCEPTED, {})
    stop = asyncio.Event()
    async with asyncio.timeout(LIMIT_S):
        readers = {s: [asyncio.create_task(_read(log, s)) for _ in range(3)] for s in streams}
        writers = {s: asyncio.create_task(_write(log, s, stop)) for s in streams}
        for _ in range(3):
            await _progress(log)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.05)  # some meet a closed port, others a lost reply
            await asyncio.to_thread(server.start)
        await _progress(log)
        stop.set()
        for stream in streams:
            written = await writers[stream]
            kept = await _read(log, stream)
            for reader in readers[stream]:
                assert await reader == kept
            cursors = [event.cursor for event in kept]
            assert cursors == sorted(set(cursors))
            acknowledged = {event.cursor: event for event in written}
            assert acknowledged == {e.cursor: e for e in kept if e.cursor in acknowledged}
            assert [e.sequence for e in kept[1:]] == list(range(1, len(kept)))
            text = "".join(e.data["text"] for e in kept if e.type is EventType.TOKENS)
            steps = sum(e.type is EventType.STEP_STARTED for e in kept)
            assert text == "".join(f"{n}.{piece} " for n in range(steps) for piece in range(5))
    statistics = log.statistics()
    # Not one for each kill: a feed that has not come back yet does not notice the next.
    assert statistics["reconnects"] >= 1
    assert statistics["gaps"] == 0
    assert statistics["fenced"] == 0


WRITER = """
import asyncio, sys
sys.path.insert(0, {root!r})
from mesh.contracts.events import EventType
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog

async def main():
    client = connect({url!r})
    writer = ValkeyStreamLog(client).writer("s", 1)
    n = 0
    while True:
        event = await writer.append(EventType.STEP_STARTED, {{"n": n}})
        print(event.sequence, event.data["n"], flush=True)
        n += 1

asyncio.run(main())
"""


async def test_a_killed_writer_leaves_what_it_acknowledged_and_a_new_one_goes_on(
    server: DurableValkey, log: ValkeyStreamLog
) -> None:
    root = str(Path(__file__).parents[2])
    async with asyncio.timeout(LIMIT_S):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WRITER.format(root=root, url=server.url),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        acknowledged = [await process.stdout.readline() for _ in range(200)]
        process.kill()
        acknowledged += [line async for line in process.stdout if line.endswith(b"\n")]
        await process.wait()
        successor = log.writer("s", 2)
        await successor.append(EventType.TASK_STARTED, {})
        await successor.append(EventType.TASK_SUCCEEDED, {})
        events = await _read(log, "s")
    first = [(e.sequence, e.data["n"]) for e in events if e.attempt == 1]
    assert first[: len(acknowledged)] == [
        tuple(int(part) for part in line.split()) for line in acknowledged
    ]
    assert [e.sequence for e in events if e.attempt == 2] == [1, 2]


async def test_a_log_that_stays_away_is_told_and_may_come_back(server: DurableValkey) -> None:
    options = replace(
        OPTIONS, append_timeout_s=0.3, first_timeout_s=0.3, away_timeout_s=0.8, backoff_max_s=0.05
    )
    async with asyncio.timeout(LIMIT_S):
        async for log in _open(server, options):
            writer = log.writer("s", 1)
            await writer.append(EventType.TASK_STARTED, {})
            reader = log.read("s", heartbeat_s=0.05)
            assert (await anext(reader)) is not None
            await asyncio.to_thread(server.kill)
            with pytest.raises(Unavailable):
                await writer.append(EventType.STEP_STARTED, {})
            with pytest.raises(Unavailable):
                await log.last("s")
            with pytest.raises(Unavailable):
                await _read(log, "s")
            beats: list[None] = []
            with pytest.raises(Unavailable):
                await _heartbeats(reader, beats)
            assert beats, "a reader under way hears that somebody is still there"
            await writer.token("s", "spoken into the void")
            await asyncio.to_thread(server.start)
            with suppress(Unavailable):  # of the lost text, should it have come to that
                await writer.append(EventType.STEP_RETRIED, {})
            await writer.append(EventType.TASK_SUCCEEDED, {})
            assert (await _read(log, "s"))[-1].type is EventType.TASK_SUCCEEDED


async def test_readers_of_a_stream_that_was_lost_are_told(server: DurableValkey) -> None:
    """A Valkey that keeps nothing (a cache in somebody's cluster) comes back empty."""
    async with asyncio.timeout(LIMIT_S):
        async for log in _open(server, OPTIONS):
            await log.writer("s", 1).append(EventType.TASK_STARTED, {})
            reader = log.read("s", START, heartbeat_s=0.05)
            assert (await anext(reader)) is not None
            await asyncio.to_thread(server.kill)
            for file in server.folder.rglob("appendonly*"):
                if file.is_file():
                    file.unlink()
            await asyncio.to_thread(server.start)
            with pytest.raises(NotFound):
                await _heartbeats(reader, [])
