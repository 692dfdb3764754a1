"""However often a client is cut, slow, filtered or sent to another process: each event once, in
order, in every subscription."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.contracts.events import Cursor, Event, EventType
from mesh.streams.connect import connect
from mesh.streams.filters import Filter
from mesh.streams.memory import MemoryStreamLog
from mesh.streams.merge import MOST_CHARS, merge
from mesh.streams.mux import Mux
from mesh.streams.names import room_stream, workspace_stream
from mesh.streams.options import StreamOptions
from mesh.streams.reader import Bell
from mesh.streams.resume import Place, read_token, write_token
from mesh.streams.valkey import ValkeyStreamLog

LIMIT_S = 20.0
WORKSPACE = uuid.UUID(int=7)
OPTIONS = StreamOptions(coalesce_s=0.001, coalesce_pieces=4, feed_events=3, page_events=2)

actions = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 2)),
    st.tuples(st.just("tokens"), st.tuples(st.integers(0, 2), st.integers(1, 8))),
    st.tuples(st.just("takeover"), st.integers(0, 2)),
    st.tuples(st.just("say"), st.integers(0, 3)),
    st.tuples(st.just("take"), st.tuples(st.integers(0, 1), st.integers(1, 5))),
    st.tuples(st.just("cut"), st.integers(0, 1)),
    st.tuples(st.just("breathe"), st.integers(1, 5)),
)


@dataclass
class Client:
    """A client with several subscriptions on one socket; what it saw, over all its sockets."""

    topics: dict[str, Filter]
    seen: dict[str, list[Event]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    token: str | None = None
    mux: Mux | None = None
    bell: Bell = field(default_factory=Bell)

    def connect(self, log: Any) -> Mux:
        if self.mux is None:
            self.bell = Bell()
            self.mux = Mux(log, self.bell.ring)
            if self.token is None:
                for topic, chosen in self.topics.items():
                    self.mux.add(topic, topic, topic, Cursor(), chosen)
            else:
                for place in read_token(self.token, 100):
                    self.mux.add(place.id, place.topic, place.topic, place.after, place.filter)
        return self.mux

    def cut(self) -> None:
        """The socket breaks; the client knows where it was, by the token alone."""
        if self.mux is not None:
            self.token = write_token(Place(s.id, s.topic, s.cursor, s.filter) for s in self.mux)
            self.mux.close()
            self.mux = None

    async def take(self, log: Any, most: int) -> None:
        mux = self.connect(log)
        for _ in range(most):
            delivery = mux.take()
            if delivery is None:
                await asyncio.sleep(0)
                continue
            assert delivery.gap is None
            self.seen.setdefault(delivery.subscription.topic, []).extend(delivery.events)
            if delivery.ended:
                self.ended.add(delivery.subscription.topic)

    async def finish(self, log: Any, want: dict[str, Cursor]) -> None:
        """Until each topic has ended or has reached its place."""
        mux = self.connect(log)

        def waits() -> bool:
            left = [s for s in mux if s.cursor < want.get(s.topic, Cursor())]
            return bool(left)

        while waits():
            await self.take(log, 3)
            if waits():
                await self.bell.wait(0.02)


async def play(log: Any, script: list[tuple[str, Any]]) -> None:
    tasks = [uuid.uuid4().hex for _ in range(3)]
    shared = workspace_stream(WORKSPACE)
    room = room_stream(WORKSPACE, uuid.uuid4().hex[:8])
    attempts = [1, 1, 1]
    writers = [log.writer(task, 1, workspace=WORKSPACE) for task in tasks]
    for writer in writers:
        await writer.append(EventType.TASK_STARTED, {})
    await log.publish([room], EventType.ROOM_MESSAGE, {"n": "first"}, key="first")
    before = await log.last(shared)
    assert before is not None
    only = Filter.of(types=["task.*", "step.started", "room.*"])
    clients = [
        Client({task: Filter() for task in [*tasks, room]}),
        Client(dict.fromkeys([*tasks, room], only)),
    ]
    keys: list[str] = []
    for number, (action, argument) in enumerate(script):
        if action == "append":
            await writers[argument].append(EventType.STEP_STARTED, {"n": number})
        elif action == "tokens":
            which, count = argument
            for piece in range(count):
                await writers[which].token("s", f"<{number}.{piece}>")
        elif action == "takeover":
            await writers[argument].append(EventType.STEP_FINISHED, {})
            attempts[argument] += 1
            writers[argument] = log.writer(tasks[argument], attempts[argument], workspace=WORKSPACE)
            await writers[argument].append(EventType.TASK_STARTED, {})
        elif action == "say":
            key = keys[argument % len(keys)] if argument and keys else f"k{number}"
            keys.append(key)  # a key that was used before is a repeat
            await log.publish([room], EventType.ROOM_MESSAGE, {"key": key}, key=key)
        elif action == "take":
            which, most = argument
            await clients[which].take(log, most)
        elif action == "cut":
            clients[argument].cut()
        elif action == "breathe":
            for _ in range(argument):
                await asyncio.sleep(0)
    for writer in writers:
        await writer.append(EventType.TASK_SUCCEEDED, {})
    whole = {task: [e async for e in log.read(task) if e is not None] for task in tasks}
    top = await log.last(room)
    assert top is not None
    last = {task: events[-1].cursor for task, events in whole.items()} | {room: top.cursor}
    for client in clients:
        await client.finish(log, last)
    said = [e.data for e in clients[0].seen[room]]
    assert said == [{"n": "first"}, *({"key": key} for key in dict.fromkeys(keys))]
    assert [e.data for e in clients[1].seen[room]] == said
    for task, events in whole.items():
        every, some = clients[0].seen[task], clients[1].seen[task]
        # Slow readers are caught up in merged pieces: the same text, the same order.
        assert _spoken(every) == _spoken(events)
        assert _others(every) == _others(events)
        assert [e.cursor for e in every] == sorted({e.cursor for e in every})
        assert some == [e for e in events if e.type is not EventType.TOKENS and only.passes(e)]
        assert clients[0].ended == set(tasks)
    # Each lifecycle event is told to the workspace once.
    told = Client({shared: Filter()})
    start = Cursor(before.attempt, before.sequence - len(tasks))
    told.token = write_token([Place(shared, shared, start, Filter())])
    end = await log.last(shared)
    assert end is not None
    await told.finish(log, {shared: end.cursor})
    expected = sum(e.type.lifecycle for events in whole.values() for e in events)
    assert len(told.seen[shared]) == expected
    for client in (*clients, told):
        client.cut()
    assert log.statistics()["readers"] == 0


def _spoken(events: list[Event]) -> str:
    return "".join(e.data["text"] for e in events if e.type is EventType.TOKENS)


def _others(events: list[Event]) -> list[Event]:
    return [e for e in events if e.type is not EventType.TOKENS]


@settings(max_examples=120, deadline=None)
@given(script=st.lists(actions, max_size=40))
def test_every_event_once_in_memory(script: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(LIMIT_S):
            await play(MemoryStreamLog(OPTIONS), script)

    asyncio.run(run())


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(script=st.lists(actions, max_size=40))
def test_every_event_once_in_valkey(valkey_url: str, script: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        client = connect(valkey_url)
        own = StreamOptions(
            coalesce_s=0.001,
            coalesce_pieces=4,
            feed_events=3,
            page_events=2,
            prefix=f"test:{uuid.uuid4().hex}:",
        )
        log = ValkeyStreamLog(client, own)
        async with asyncio.timeout(LIMIT_S):
            await play(log, script)
            await log.aclose()
            await client.aclose()

    asyncio.run(run())


pieces = st.tuples(
    st.sampled_from(["tokens", "step.started"]), st.sampled_from(["a", "b"]), st.integers(1, 2)
)


@given(shape=st.lists(pieces, max_size=30), size=st.sampled_from([1, MOST_CHARS // 2]))
def test_merging_changes_neither_text_nor_order(
    shape: list[tuple[str, str, int]], size: int
) -> None:
    attempt = 1
    events: list[Event] = []
    for number, (kind, step, growth) in enumerate(shape, 1):
        attempt += growth - 1
        data = {"step": step, "text": chr(97 + number % 26) * size}
        type = EventType(kind)
        events.append(
            Event(stream="s", attempt=attempt, sequence=number, type=type, at=0, data=data)
        )
    merged, runs = merge(events)
    assert sum(runs) == len(events)
    assert _others(merged) == _others(events)
    assert all(len(e.data["text"]) <= MOST_CHARS for e in merged)
    rest = iter(events)
    for event, run in zip(merged, runs, strict=True):
        parts = [next(rest) for _ in range(run)]
        assert event.cursor == parts[-1].cursor
        assert event.data["text"] == "".join(part.data["text"] for part in parts)
        assert {(p.type, p.attempt, p.data["step"]) for p in parts} == {
            (event.type, event.attempt, event.data["step"])
        }


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
cursors = st.builds(Cursor, st.integers(0, 10**12), st.integers(0, 10**12))
places = st.builds(Place, names, names, cursors, st.just(Filter.of(["tokens"], ["body"])))


@given(places=st.lists(places, max_size=20))
def test_a_token_says_what_was_written(places: list[Place]) -> None:
    assert read_token(write_token(places), 20) == places
