"""Whatever order writers, tokens, takeovers and disconnects come in, all readers agree."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.contracts.events import Cursor, Event, EventType
from mesh.core.errors import Fenced
from mesh.streams.connect import connect
from mesh.streams.log import START
from mesh.streams.memory import MemoryStreamLog
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog

LIMIT_S = 20.0

actions = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 3)),
    st.tuples(st.just("tokens"), st.integers(1, 12)),
    st.tuples(st.just("takeover"), st.sampled_from(["same attempt", "next attempt"])),
    st.tuples(st.just("late"), st.none()),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 2), st.integers(1, 6))),
    st.tuples(st.just("disconnect"), st.integers(0, 2)),
    st.tuples(st.just("breathe"), st.integers(1, 5)),
)


@dataclass
class Reader:
    """One reader that comes and goes; ``seen`` is what its user saw in all."""

    seen: list[Event] = field(default_factory=list)
    source: AsyncGenerator[Event | None, None] | None = None

    def open(self, log: Any, stream: str) -> AsyncGenerator[Event | None, None]:
        if self.source is None:
            after = self.seen[-1].cursor if self.seen else START
            self.source = log.read(stream, after, heartbeat_s=0.002)
        return self.source

    async def take(self, log: Any, stream: str, count: int) -> None:
        source = self.open(log, stream)
        for _ in range(count):
            event = await anext(source)
            if event is None:
                return
            self.seen.append(event)

    async def leave(self) -> None:
        if self.source is not None:
            await self.source.aclose()
            self.source = None

    async def finish(self, log: Any, stream: str) -> None:
        source = self.open(log, stream)
        self.seen += [event async for event in source if event is not None]
        self.source = None


async def play(log: Any, script: list[tuple[str, Any]]) -> None:
    stream = uuid.uuid4().hex
    attempt = 1
    former: list[Any] = []
    writer = log.writer(stream, attempt)
    promised: list[Event] = [await writer.append(EventType.TASK_ACCEPTED, {})]
    said: list[str] = []
    readers = [Reader() for _ in range(3)]
    for number, (action, argument) in enumerate(script):
        if action == "append":
            promised.append(await writer.append(EventType.STEP_STARTED, {"n": number}))
        elif action == "tokens":
            for piece in range(argument):
                text = f"<{number}.{piece}>"
                await writer.token(f"step{number % 2}", text)
                said.append(text)
        elif action == "takeover":
            await writer.append(EventType.STEP_FINISHED, {})  # what was said is flushed
            former.append(writer)
            attempt += argument == "next attempt"
            writer = log.writer(stream, attempt)
            promised.append(await writer.append(EventType.TASK_STARTED, {"n": number}))
        elif action == "late" and former:
            with pytest.raises(Fenced):
                await former[-1].append(EventType.STEP_STARTED, {"late": number})
        elif action == "read":
            which, count = argument
            await readers[which].take(log, stream, count)
        elif action == "disconnect":
            await readers[argument].leave()
        elif action == "breathe":
            for _ in range(argument):
                await asyncio.sleep(0)
    promised.append(await writer.append(EventType.TASK_SUCCEEDED, {}))
    whole = Reader()
    await whole.finish(log, stream)
    for reader in readers:
        await reader.finish(log, stream)
        assert reader.seen == whole.seen
    cursors = [event.cursor for event in whole.seen]
    assert all(_next(a, b) for a, b in zip([Cursor(1, 0), *cursors], cursors, strict=False))
    kept = {event.cursor: event for event in whole.seen}
    assert all(kept[event.cursor] == event for event in promised)
    assert not any("late" in event.data for event in whole.seen)
    spoken = [e.data["text"] for e in whole.seen if e.type is EventType.TOKENS]
    assert "".join(spoken) == "".join(said)
    assert sum(event.type.terminal for event in whole.seen) == 1
    assert log.statistics()["readers"] == 0


def _next(a: Cursor, b: Cursor) -> bool:
    return b in (Cursor(a.attempt, a.sequence + 1), Cursor(a.attempt + 1, 1))


OPTIONS = StreamOptions(coalesce_s=0.001, coalesce_pieces=4, feed_events=3, page_events=2)


@settings(max_examples=150, deadline=None)
@given(script=st.lists(actions, max_size=40))
def test_all_readers_agree_in_memory(script: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(LIMIT_S):
            await play(MemoryStreamLog(OPTIONS), script)

    asyncio.run(run())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(actions, max_size=40))
def test_all_readers_agree_in_valkey(valkey_url: str, script: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        client = connect(valkey_url)
        log = ValkeyStreamLog(client, OPTIONS)
        async with asyncio.timeout(LIMIT_S):
            await play(log, script)
            await log.aclose()
            await client.aclose()

    asyncio.run(run())
