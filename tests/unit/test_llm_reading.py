"""Long prompts are read in turn and give way to short and urgent ones, for no longer than they
have read; nobody's turn outlives its prompt."""

from __future__ import annotations

import asyncio
from functools import partial

import orjson
import pytest

from mesh.core.clock import VirtualClock
from mesh.core.errors import DeadlineExceeded, Overloaded, Unavailable
from mesh.llm.llamacpp_chunks import Cleaner
from mesh.llm.reading import UNKNOWN, Reading, ReadingGate

LONG, SHORT, PATIENT_S = 2_000, 100, 60.0


def gate(queue: int = 8, clock: VirtualClock | None = None) -> ReadingGate:
    return ReadingGate("reading", queue=queue, short_bytes=1_024, step_tokens=64, clock=clock)


async def test_long_ones_one_after_another_and_short_ones_past_them() -> None:
    reading, order = gate(), list[str]()
    first = reading.turn(LONG, PATIENT_S)
    await first.__aenter__()

    async def read(name: str, size: int, priority: int) -> None:
        async with reading.turn(size, PATIENT_S, priority=priority):
            order.append(name)

    waiting = [
        asyncio.create_task(read("background", LONG, -1)),
        asyncio.create_task(read("somebody's", LONG, 0)),
        asyncio.create_task(read("short", SHORT, -1)),
    ]
    await asyncio.sleep(0)
    assert order == ["short"]
    assert reading.queued == 2
    await first.done()
    await asyncio.gather(*waiting)
    assert order == ["short", "somebody's", "background"]


async def test_a_turn_given_back_early_is_given_back_once() -> None:
    reading = gate()
    async with reading.turn(LONG, PATIENT_S) as first:
        await first.done()
        async with reading.turn(LONG, PATIENT_S):
            await first.done()
            with pytest.raises(DeadlineExceeded):
                async with reading.turn(LONG, 0.01):
                    pass
    async with reading.turn(LONG, 0.01):  # nobody holds it any more
        pass


async def test_who_gives_up_leaves_no_turn_behind() -> None:
    reading = gate()
    async with reading.turn(LONG, PATIENT_S):
        gone = asyncio.create_task(reading.turn(LONG, PATIENT_S).__aenter__())
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert reading.queued == 0
    async with reading.turn(LONG, 0.01):
        pass


async def test_bounded_and_closed() -> None:
    reading = gate(queue=1)
    async with reading.turn(LONG, PATIENT_S):
        last = asyncio.create_task(reading.turn(LONG, PATIENT_S).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await reading.turn(LONG, PATIENT_S).__aenter__()
        assert reading.refused == 1
        reading.close()
        with pytest.raises(Unavailable):
            await last


async def test_a_long_one_gives_way_to_a_short_one_and_goes_on_after_it() -> None:
    reading, paused = gate(), list[str]()
    async with reading.turn(LONG, PATIENT_S) as long:
        long.running(partial(paused.append, "long"))
        await long.told(1_000)
        async with reading.turn(SHORT, PATIENT_S) as short:
            assert paused == ["long"]
            going_on = asyncio.create_task(long.again(PATIENT_S))
            await asyncio.sleep(0)
            assert not going_on.done()
            await short.told(10)
            await going_on
        assert reading.given_way == 1


async def test_a_more_urgent_long_one_is_given_way_to_and_an_equal_one_is_not() -> None:
    reading, paused, order = gate(), list[str](), list[str]()

    async def read(name: str, priority: int) -> None:
        async with reading.turn(LONG, PATIENT_S, priority=priority):
            order.append(name)

    async with reading.turn(LONG, PATIENT_S, priority=-1) as background:
        background.running(partial(paused.append, "background"))
        await background.told(1_000)
        equal = asyncio.create_task(read("equal", -1))
        await asyncio.sleep(0)
        assert paused == []
        urgent = asyncio.create_task(read("urgent", 0))
        await asyncio.sleep(0)
        assert paused == ["background"]
        await background.again(PATIENT_S)
        order.append("background again")
    await asyncio.gather(equal, urgent)
    assert order.index("urgent") < order.index("background again")


async def test_it_gives_way_for_no_longer_than_it_has_read() -> None:
    clock, paused = VirtualClock(0.0), list[str]()
    reading = gate(clock=clock)

    async def comes_and_goes() -> None:
        async with reading.turn(SHORT, PATIENT_S):
            pass

    async with reading.turn(LONG, PATIENT_S) as long:
        long.running(partial(paused.append, "first"))
        await long.told(1_000)
        await clock.advance(3.0)
        short = reading.turn(SHORT, PATIENT_S)
        async with short:
            assert paused == ["first"]
            going_on = asyncio.create_task(long.again(PATIENT_S))
            await asyncio.sleep(0)
            await clock.advance(2.0)
            await short.done()
            await going_on
        long.running(partial(paused.append, "second"))
        await clock.advance(1.9)
        await comes_and_goes()
        assert paused == ["first"]
        await clock.advance(0.2)
        await comes_and_goes()
        assert paused == ["first", "second"]


@pytest.mark.parametrize("unread", [1, 64, 128])
async def test_who_is_nearly_done_does_not_give_way(unread: int) -> None:
    reading, paused = gate(), list[str]()
    async with reading.turn(LONG, PATIENT_S) as long:
        long.running(partial(paused.append, "long"))
        await long.told(unread)
        async with reading.turn(SHORT, PATIENT_S):
            assert paused == []


async def test_who_can_not_go_on_where_it_was_does_not_give_way() -> None:
    reading = gate()
    async with reading.turn(LONG, PATIENT_S) as long:
        long.running(None)
        await long.told(1_000)
        async with reading.turn(SHORT, PATIENT_S):
            assert reading.given_way == 0


async def outranked(reading: ReadingGate, reader: Reading) -> tuple[Reading, asyncio.Task[Reading]]:
    """A more urgent long one comes while the reader reads."""
    reader.running(lambda: None)
    await reader.told(1_000)
    urgent = reading.turn(LONG, PATIENT_S)
    coming = asyncio.create_task(urgent.__aenter__())
    await asyncio.sleep(0)
    return urgent, coming


async def test_ended_at_the_last_moment_it_goes_on_without_a_turn() -> None:
    reading = gate()
    async with reading.turn(LONG, PATIENT_S, priority=-1) as long:
        urgent, coming = await outranked(reading, long)
        await long.told(10)  # it was on its way already
        await coming
        await long.again(PATIENT_S)
        await urgent.done()
        async with reading.turn(LONG, 0.01):  # the turn is free
            pass


async def test_who_fails_to_come_back_leaves_the_next_reader_alone() -> None:
    reading, paused = gate(), list[str]()
    async with reading.turn(LONG, PATIENT_S, priority=-1) as background:
        urgent, coming = await outranked(reading, background)
        with pytest.raises(DeadlineExceeded):
            await background.again(0.05)
    await coming
    urgent.running(partial(paused.append, "urgent"))
    await urgent.told(1_000)
    async with reading.turn(SHORT, PATIENT_S):
        assert paused == ["urgent"]


async def test_short_ones_without_end_do_not_starve_it() -> None:
    reading = gate()
    async with reading.turn(LONG, PATIENT_S) as long, reading.turn(SHORT, PATIENT_S):
        await asyncio.wait_for(long.again(0.05), PATIENT_S)


def test_what_is_left_to_read_is_told_as_llamacpp_says_it() -> None:
    def progress(processed: int) -> bytes:
        said = {"total": 1_000, "cache": 100, "processed": processed, "time_ms": 7}
        return orjson.dumps({"choices": [], "prompt_progress": said})

    clean = Cleaner(chat=False)
    assert clean.unread == UNKNOWN
    clean([progress(164), progress(228)])
    assert clean.unread == 772
    assert clean([b'{"choices":[{"text":"a"}]}']) == [b'{"choices":[{"text":"a"}]}']
    assert clean.unread == 0
