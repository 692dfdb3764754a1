"""How a stream travels: what comes with its first tokens, what ahead of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from mesh.core.errors import EngineError
from mesh.core.virtual_loop import run_virtual
from mesh.llm.pacing import announced, paced, sse_frames

NAME = b": replica\n\n"
Items = list[tuple[float, bytes | tuple[bytes, list[bytes]]]]


async def source(*script: float | list[bytes]) -> AsyncGenerator[list[bytes], None]:
    """Numbers are seconds of work, lists are bursts."""
    for step in script:
        if isinstance(step, list):
            yield step
        else:
            await asyncio.sleep(step)


def run(*script: float | list[bytes]) -> Items:
    async def main() -> Items:
        loop = asyncio.get_running_loop()
        return [(loop.time(), i) async for i in announced(source(*script), NAME)]

    return [(round(at, 3), item) for at, item in run_virtual(main())]


def test_a_quick_answer_has_no_item_of_its_own_for_the_name() -> None:
    assert run([], 0.02, [b"a"], [b"b"]) == [(0.02, (NAME, [b"a"])), (0.02, (b"", [b"b"]))]


def test_a_slow_one_says_that_it_was_taken_and_that_it_goes_on() -> None:
    items = run([], 0.4, [], 0.4, [], 0.4, [b"a"])
    assert items == [(0.05, NAME), (0.05, b""), (1.05, b""), (1.2, (b"", [b"a"]))]


def test_one_that_hangs_says_nothing_more() -> None:
    assert run(3.0, [b"a"]) == [(0.05, NAME), (3.0, (b"", [b"a"]))]
    assert run([], 3.0, [b"a"])[:3] == [(0.05, NAME), (0.05, b""), (3.0, (b"", [b"a"]))]


def test_an_empty_answer_and_a_failing_one() -> None:
    assert run([]) == []

    async def failing() -> AsyncGenerator[list[bytes], None]:
        yield []
        raise EngineError("died")

    async def main() -> None:
        with pytest.raises(EngineError):
            async for _ in announced(failing(), NAME):
                pass

    run_virtual(main())


def test_closing_it_while_the_first_token_is_awaited_closes_the_source() -> None:
    closed = False

    async def slow() -> AsyncGenerator[list[bytes], None]:
        nonlocal closed
        try:
            await asyncio.sleep(60)
            yield [b"a"]
        finally:
            closed = True

    async def main() -> float:
        raw = slow()
        async with (
            aclosing(raw),
            aclosing(paced(raw)) as bursts,
            aclosing(announced(bursts, NAME)) as items,
        ):
            async for _ in items:
                break
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) < 1
    assert closed


def test_half_a_chunk_is_no_frame() -> None:
    assert sse_frames([b'{"a":1}', b"{}"]) == b'data: {"a":1}\n\ndata: {}\n\n'
    with pytest.raises(EngineError):
        sse_frames([b'{"a":1}', b'{"a":'])
