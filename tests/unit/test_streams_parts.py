"""The small parts of the stream router, each by itself."""

from __future__ import annotations

import asyncio
import base64
import zlib
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from mesh.contracts.events import Cursor, Event, EventType
from mesh.contracts.streams import COMMAND
from mesh.core.errors import InvalidInput, Unavailable
from mesh.streams.feed import Feeds
from mesh.streams.filters import MOST, Filter
from mesh.streams.follow import Follower, ReaderCounts
from mesh.streams.frames import Frames
from mesh.streams.memory import MemoryStreamLog
from mesh.streams.merge import merge
from mesh.streams.mux import Mux
from mesh.streams.names import endless, groups_of, room_stream, workspace_stream
from mesh.streams.options import StreamOptions
from mesh.streams.pace import Pace
from mesh.streams.reader import Bell
from mesh.streams.resume import MOST_BYTES, VERSION, Composite, read_token, write_token
from serve_apps.gateway.ws.limits import Allowance

STEP = EventType.STEP_STARTED


def event(sequence: int, type: EventType = EventType.TOKENS, **data: Any) -> Event:
    return Event(stream="s", attempt=1, sequence=sequence, type=type, at=0, data=data)


def test_a_busy_loop_makes_tokens_wait_longer_and_a_calm_one_lets_them_go() -> None:
    pace = Pace(0.015, 0.1)
    assert pace.hold_s == 0.015
    for _ in range(20):
        pace.observe(0.2)
    assert pace.hold_s == 0.1
    for _ in range(100):
        pace.observe(0.0)
    assert pace.hold_s == 0.015
    pace.observe(-1)
    assert pace.lag_s >= 0
    with pytest.raises(ValueError, match="below"):
        Pace(0, 1, calm_s=1, full_s=1)


def test_the_hold_grows_with_the_lag() -> None:
    holds = []
    for lag in (0.0, 0.005, 0.02, 0.04, 0.05, 1.0):
        pace = Pace(0.0, 0.1)
        pace.lag_s = lag
        holds.append(pace.hold_s)
    assert holds == sorted(holds)
    assert holds[0] == holds[1] == 0.0
    assert 0 < holds[2] < holds[3] < holds[4] == 0.1


async def test_under_load_later_tokens_are_woken_together_and_all_else_at_once() -> None:
    pace = Pace(0.0, 0.05)
    pace.lag_s = 1.0
    feeds = Feeds(10, pace=pace)
    woken: list[int] = []
    fed = [feeds.add("s", live=True) for _ in range(3)]
    for number, feed in enumerate(fed):
        feed.reset()
        feed.wake = lambda number=number: woken.append(number)  # type: ignore[misc]
    feeds.publish("s", [event(1)])
    assert sorted(woken) == [0, 1, 2], "the first goes at once"
    woken.clear()
    feeds.publish("s", [event(2)])
    feeds.publish("s", [event(3)])
    assert woken == []
    feeds.publish("s", [event(4, STEP)])
    assert sorted(woken) == [0, 1, 2], "what is no token takes the waiting ones along"
    woken.clear()
    feeds.publish("s", [event(5)])
    assert sorted(woken) == [0, 1, 2], "the first token of a step goes at once, too"
    await asyncio.sleep(0.06)
    feeds.publish("s", [event(6)])
    woken.clear()
    feeds.publish("s", [event(7)])
    assert woken == []
    feeds.remove(fed[0])
    async with asyncio.timeout(5):
        while len(woken) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert sorted(woken) == [1, 2]
    assert [e.sequence for e in fed[1].take()] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_feed_is_bounded_by_bytes_too() -> None:
    feeds = Feeds(100, limit_bytes=1_000)
    feed = feeds.add("s", live=True)
    feed.reset()
    feeds.publish("s", [event(1)], 600)
    assert not feed.stale
    feeds.publish("s", [event(2)], 600)
    assert feed.stale
    assert feed.overflowed
    assert feeds.overflows == 1
    assert feed.take() == []


def test_filters() -> None:
    assert Filter.of().passes(event(1, step="a"))
    some = Filter.of(["tokens", "step.*", "tokens"], ["a"])
    assert some.types == ("step.*", "tokens")
    assert some.passes(event(1, step="a"))
    assert some.passes(event(1, STEP, step="a"))
    assert not some.passes(event(1, step="b"))
    assert not some.passes(event(1, EventType.TASK_STARTED))
    assert some.passes(event(1, STEP)), "what names no step is of every step"
    for wrong in (["nonsense"], ["*"], ["tokens.*"], ["task."], ["tokens"] * (MOST + 1)):
        with pytest.raises(InvalidInput) as refused:
            Filter.of(wrong)
        assert refused.value.details["field"] == "filter.types"
    for steps in ([""], ["x" * 201], ["a"] * (MOST + 1)):
        with pytest.raises(InvalidInput):
            Filter.of(steps=steps)


def test_frames_are_made_once_and_forgotten_in_the_end() -> None:
    frames = Frames(limit_bytes=2_000)
    one = event(1, step="a", text="x")
    assert frames.sse(one) is frames.sse(event(1, step="a", text="x"))
    assert frames.sse(one).startswith(b"id: 1-1\nevent: tokens\ndata: {")
    assert frames.sse(one).endswith(b"}\n\n")
    assert orjson.loads(frames.wire(one)) == {"cursor": "1-1", **one.model_dump(mode="json")}
    made = frames.made
    assert frames.wire(one) is frames.wire(one)
    assert frames.made == made
    merged, runs = merge([event(1, step="a", text="x"), event(2, step="a", text="y")])
    assert runs == [2]
    plain = event(2, step="a", text="y")
    assert frames.wire(plain) != frames.wire(merged[0], 2), "a merged event is another frame"
    for number in range(100):
        frames.wire(event(number + 10, step="a", text="x" * 50))
        frames.sse(event(number + 10, step="a", text="x" * 50))
    assert frames.statistics()["bytes"] <= 2_000


@pytest.mark.parametrize(
    "token",
    [
        "",
        "r1.",
        "r0.AAAA",
        "r1.!!!",
        "r1.é",
        "r1.AAAA",
        VERSION + base64.urlsafe_b64encode(zlib.compress(b"{}")).decode(),
        VERSION + base64.urlsafe_b64encode(zlib.compress(b"[[1,2]]")).decode(),
        VERSION + base64.urlsafe_b64encode(zlib.compress(b'[["a","b","x",[],[]]]')).decode(),
        VERSION + base64.urlsafe_b64encode(zlib.compress(b'[["a","b","1-1",["no"],[]]]')).decode(),
        VERSION + base64.urlsafe_b64encode(zlib.compress(b'[["a","b","1-1",[7],[]]]')).decode(),
        VERSION + base64.urlsafe_b64encode(zlib.compress(b'"' + b"x" * 2 * MOST_BYTES)).decode(),
        VERSION + base64.urlsafe_b64encode(zlib.compress(b'[["a","b","1-1",[],[]]]')[:-3]).decode(),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput):
        read_token(token, 10)


def test_a_token_with_too_much_is_refused() -> None:
    from mesh.streams.resume import Place

    token = write_token(Place(str(n), "room:a", Cursor(), Filter()) for n in range(3))
    assert len(read_token(token, 3)) == 3
    with pytest.raises(InvalidInput):
        read_token(token, 2)


def test_composite_cursors_hold_for_their_topics_alone() -> None:
    places = [Cursor(1, 5), Cursor(), Cursor(3, 7)]
    written = Composite(["a", "b", "c"]).write(places)
    assert Composite(["a", "b", "c"]).read(written) == places
    for topics in (["a", "c", "b"], ["a", "b"], ["a,b", "c"], ["a", "b", "c", "d"]):
        with pytest.raises(InvalidInput) as refused:
            Composite(topics).read(written)
        assert refused.value.details["field"] == "header.Last-Event-ID"


def test_names_of_streams() -> None:
    import uuid

    one = uuid.UUID(int=1)
    assert endless(workspace_stream(one))
    assert endless(room_stream(one, "a"))
    assert not endless(str(one))
    assert groups_of("a.b.c") == ["a.b.c", "a.b", "a"]


def test_allowance() -> None:
    allowance = Allowance(rate=2, burst=3, now=0)
    assert [allowance.take(0) for _ in range(3)] == [0, 0, 0]
    assert allowance.take(0) == pytest.approx(0.5)
    assert allowance.take(0.5) == 0
    assert allowance.take(0.5) > 0
    assert allowance.take(100) == 0


@pytest.mark.parametrize(
    "message",
    [
        {"type": "subscribe", "id": "a b", "topic": "x"},
        {"type": "subscribe", "id": "a" * 65, "topic": "x"},
        {"type": "subscribe", "id": "a", "topic": ""},
        {"type": "subscribe", "id": "a", "topic": "x", "filter": {"kinds": []}},
        {"type": "auth", "token": ""},
        {"type": "publish", "id": "a", "topic": "x"},
        {"type": "SUBSCRIBE", "id": "a", "topic": "x"},
    ],
)
def test_contracts_of_messages_are_closed(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        COMMAND.validate_python(message)


async def test_a_gap_is_told_once_and_reading_goes_on() -> None:
    log = MemoryStreamLog(StreamOptions(max_events=5, page_events=2))
    writer = log.writer("t", 1)
    for number in range(9):
        await writer.append(STEP, {"n": number})
    await writer.append(EventType.TASK_SUCCEEDED, {})
    bell = Bell()
    mux = Mux(log, bell.ring)
    mux.add("a", "t", "t", Cursor(1, 1))
    gaps, seen = [], []
    async with asyncio.timeout(5):
        while len(mux):
            delivery = mux.take()
            if delivery is None:
                await bell.wait()
                continue
            gaps += [delivery.gap] if delivery.gap else []
            seen += [e.sequence for e in delivery.events]
    assert gaps == [Cursor(1, 1)]
    assert seen == [6, 7, 8, 9, 10]


async def test_a_log_that_is_away_and_a_stream_that_is_not_there_yet() -> None:
    log = MemoryStreamLog()
    bell = Bell()
    mux = Mux(log, bell.ring)
    away = 1

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        async def page(self, stream: str, after: Cursor, limit: int) -> Any:
            nonlocal away
            if away:
                away -= 1
                raise Unavailable("planned")
            return await log.page(stream, after, limit)

    def follow(stream: str, after: Cursor, wake: Any) -> Follower:
        return Follower(Failing(), stream, after, StreamOptions(), ReaderCounts(), wake)

    log.follow = follow  # type: ignore[method-assign, assignment]
    mux.add("a", "t", "t", Cursor())
    missing = 0
    seen: list[int] = []
    writer = log.writer("t", 1)
    async with asyncio.timeout(10):
        while len(mux):
            delivery = mux.take()
            if delivery is None:
                await bell.wait()
            elif delivery.missing:
                missing += 1
                if missing == 2:
                    await writer.append(EventType.TASK_SUCCEEDED, {})
            else:
                seen += [e.sequence for e in delivery.events]
    assert away == 0
    assert missing == 2
    assert seen == [1]


async def test_a_slow_reader_is_caught_up_in_merged_pieces_and_known_to_be_behind() -> None:
    log = MemoryStreamLog(StreamOptions(coalesce_s=0, feed_events=4, page_events=50))
    writer = log.writer("t", 1)
    await writer.append(STEP, {"step": "a"})
    bell = Bell()
    mux = Mux(log, bell.ring)
    mux.add("a", "t", "t", Cursor())
    seen: list[Event] = []

    async def settle() -> None:
        for _ in range(10):
            while (delivery := mux.take()) is not None:
                seen.extend(delivery.events)
            await asyncio.sleep(0)

    await settle()
    assert mux.behind_s() == 0
    for number in range(30):
        await writer.token("b", f"{number} ")
        await asyncio.sleep(0.001)  # each an event of its own, and nobody takes them
    await asyncio.sleep(0.01)
    mux.take()
    assert mux.behind_s() > 0
    await settle()
    assert mux.behind_s() == 0
    assert len(seen) < 10
    spoken = "".join(e.data["text"] for e in seen if e.type is EventType.TOKENS)
    assert spoken == "".join(f"{number} " for number in range(30))
    mux.close()
    assert log.statistics()["readers"] == 0
