"""The way of tokens from llama.cpp's thread to asyncio, with a stand-in for llama.cpp; and how
bursts are paced on their way on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.core.errors import DeadlineExceeded
from mesh.llm.pacing import paced, sse_frames
from mesh.llm.run import Handle, Run


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def producing(count: int) -> Handle:
    def handle(request: bytes, callback: Callable[[bytes], bool]) -> None:
        for number in range(count):
            if callback(b"%d" % number):
                return

    return handle


async def started(threads: ThreadPoolExecutor, handle: Handle) -> Run:
    run = Run(asyncio.get_running_loop())
    run.start(threads, handle, b"")
    return run


async def test_every_token_arrives_in_order(threads: ThreadPoolExecutor) -> None:
    run = await started(threads, producing(5_000))
    deadline = asyncio.get_running_loop().time() + 30
    bursts = [burst async for burst in run.bursts(deadline)]
    assert [chunk for burst in bursts for chunk in burst] == [b"%d" % n for n in range(5_000)]
    assert run.tokens == 5_000
    assert len(bursts) < 5_000  # wake-ups are shared


async def test_a_cancel_stops_it_at_the_next_token(threads: ThreadPoolExecutor) -> None:
    run = await started(threads, producing(10**9))
    deadline = asyncio.get_running_loop().time() + 30
    async for _ in run.bursts(deadline):
        break
    run.cancel()
    await run.wait_finished()
    assert run.after_cancel == 1


async def test_an_error_comes_after_what_was_said(threads: ThreadPoolExecutor) -> None:
    def broken(request: bytes, callback: Callable[[bytes], bool]) -> None:
        callback(b"x")
        raise RuntimeError("broken")

    run = await started(threads, broken)
    seen: list[bytes] = []

    async def read() -> None:
        async for burst in run.bursts(asyncio.get_running_loop().time() + 30):
            seen.extend(burst)

    with pytest.raises(RuntimeError, match="broken"):
        await read()
    assert seen == [b"x"]


async def test_a_pause_ends_it_at_a_report_of_the_prompt(threads: ThreadPoolExecutor) -> None:
    go = threading.Event()

    def handle(request: bytes, callback: Callable[[bytes], bool]) -> None:
        callback(b'{"prompt_progress":{}}')
        assert go.wait(30)
        assert callback(b'{"prompt_progress":{}}')

    run = await started(threads, handle)
    bursts = run.bursts(asyncio.get_running_loop().time() + 30)
    assert await anext(bursts) == [b'{"prompt_progress":{}}']
    run.pause()
    go.set()
    assert [burst async for burst in bursts] == []
    assert run.paused


async def test_an_answer_that_has_begun_is_not_paused(threads: ThreadPoolExecutor) -> None:
    run = Run(asyncio.get_running_loop())
    run.pause()
    run.start(threads, producing(3), b"")
    deadline = asyncio.get_running_loop().time() + 30
    chunks = [chunk async for burst in run.bursts(deadline) for chunk in burst]
    assert chunks == [b"0", b"1", b"2"]
    assert not run.paused


async def test_waiting_for_the_end_survives_a_cancel(threads: ThreadPoolExecutor) -> None:
    """A slot given back before llama.cpp let go of it would be counted twice."""
    go = threading.Event()

    def stuck(request: bytes, callback: Callable[[bytes], bool]) -> None:
        assert go.wait(30)

    run = await started(threads, stuck)
    with pytest.raises(DeadlineExceeded):
        async for _ in run.bursts(asyncio.get_running_loop().time() + 0.01):
            pass
    waiting = asyncio.create_task(run.wait_finished())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert run.finished


async def test_pacing_loses_nothing_and_shares_bursts() -> None:
    queue: asyncio.Queue[int | None] = asyncio.Queue()

    async def source() -> AsyncIterator[list[int]]:
        while True:
            burst = [await queue.get()]
            while not queue.empty():
                burst.append(queue.get_nowait())
            if burst[-1] is None:
                yield [n for n in burst if n is not None]
                return
            yield [n for n in burst if n is not None]

    async def produce() -> None:
        for number in range(200):
            queue.put_nowait(number)
            await asyncio.sleep(0.0005)
        queue.put_nowait(None)

    producer = asyncio.create_task(produce())
    bursts = [burst async for burst in paced(source(), window_s=0.02)]
    await producer
    assert [n for burst in bursts for n in burst] == list(range(200))
    assert len(bursts[0]) == 1
    assert len(bursts) < 100


def test_frames() -> None:
    assert sse_frames([b'{"a":1}', b"{}"]) == b'data: {"a":1}\n\ndata: {}\n\n'


def test_llama_leaves_our_signal_handlers_alone() -> None:
    """With its own handlers the process would survive a SIGTERM, deaf and without a model."""
    code = (
        "import sys, time; sys.path.insert(0, 'tests');"
        "from llm_support import real_engine;"
        "engine = real_engine(); print('ready', flush=True); time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
