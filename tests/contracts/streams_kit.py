"""Stream logs to test and what every test of them does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from mesh.contracts.events import Cursor, Event
from mesh.core.clock import Clock
from mesh.streams.connect import connect
from mesh.streams.log import START
from mesh.streams.memory import MemoryStreamLog
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog

type_of_log = MemoryStreamLog | ValkeyStreamLog
LIMIT_S = 30.0
"""No wait of a test is longer: a hang fails."""


@asynccontextmanager
async def open_log(
    url: str | None, options: StreamOptions | None = None, clock: Clock | None = None
) -> AsyncIterator[type_of_log]:
    """A log in Valkey at ``url`` (under keys of its own), or in memory where it is None."""
    if url is None:
        yield MemoryStreamLog(options, clock)
        return
    own = replace(options or StreamOptions(), prefix=f"test:{uuid.uuid4().hex}:")
    client = connect(url)
    log = ValkeyStreamLog(client, own, clock)
    try:
        yield log
    finally:
        await log.aclose()
        await client.aclose()


def wire(events: list[Event]) -> bytes:
    """What a client would get to see."""
    return b"\n".join(event.model_dump_json().encode() for event in events)


async def collect(
    log: type_of_log, stream: str, after: Cursor = START, count: int | None = None
) -> list[Event]:
    """Events until the stream ends, or ``count`` of them."""
    events: list[Event] = []
    async with asyncio.timeout(LIMIT_S), aclosing(log.read(stream, after)) as reader:
        async for event in reader:
            if event is not None:
                events.append(event)
                if len(events) == count:
                    break
    return events


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def until_attached(log: type_of_log, readers: int) -> None:
    await until(lambda: log.statistics()["readers"] >= readers)


async def next_event(reader: AsyncGenerator[Event | None, None]) -> Event:
    async with asyncio.timeout(LIMIT_S):
        while True:
            event = await anext(reader)
            if event is not None:
                return event
