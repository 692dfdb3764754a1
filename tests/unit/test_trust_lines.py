"""Bodies of lines: read whatever the pieces, a page at a time, errors behind what is good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.errors import BodyTooLarge, Cancelled, DeadlineExceeded
from serve_apps.gateway.lines import Line, LineLimits, LineReader
from serve_apps.gateway.policy import RULES, streams_body

LIMITS = LineLimits(line_bytes=50, page_lines=4, page_bytes=60, age_s=0.05, silence_s=0.2)


def receiver(*pieces: bytes, ends: bool = True) -> Callable[[], Awaitable[dict[str, Any]]]:
    """The pieces, then the end of the body, or a client that leaves."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    last = {"type": "http.request"} if ends else {"type": "http.disconnect"}
    left = iter([*messages, last])

    async def receive() -> dict[str, Any]:
        return next(left)

    return receive


async def every(reader: LineReader) -> list[list[Line]]:
    pages: list[list[Line]] = []
    while page := await reader.page():
        pages.append(page)
    return pages


@given(
    st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=20),
    st.lists(st.integers(0, 60), max_size=10),
    st.booleans(),
)
def test_lines_do_not_depend_on_how_they_were_cut(
    lines: list[bytes], cuts: list[int], ended: bool
) -> None:
    body = b"\n".join(lines) + (b"\n" if ended else b"")
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    pieces = [body[a:b] for a, b in pairwise(places)] or [body]
    expected = [
        (number, said)
        for number, line in enumerate(body.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
        if (said := line.strip(b" \t\r"))
    ]

    async def read() -> list[list[Line]]:
        return await every(LineReader(receiver(*pieces), LIMITS))

    pages = asyncio.run(read())
    assert [line for page in pages for line in page] == expected
    for page in pages:
        assert len(page) <= LIMITS.page_lines
        numbers = [number for number, _ in page]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert sum(len(line) for _, line in page[:-1]) < LIMITS.page_bytes


async def test_what_is_held_is_bounded_whatever_comes() -> None:
    pieces = [b"x" * 40 + b"\n"] * 500
    reader = LineReader(receiver(*pieces), LIMITS)
    assert sum(len(page) for page in await every(reader)) == 500
    assert reader.bytes == 500 * 41
    assert reader.most_bytes <= LIMITS.page_bytes + LIMITS.line_bytes + 41


async def test_a_long_line_is_refused_before_it_has_ended() -> None:
    pieces = [b"one\n\ntwo\n" + b"y" * 30, b"y" * 30, b"never read\n"]
    reader = LineReader(receiver(*pieces), LIMITS)
    assert await reader.page() == [(1, b"one")]
    assert await reader.page() == [(3, b"two")]
    with pytest.raises(BodyTooLarge) as caught:
        await reader.page()
    assert caught.value.details == {"field": "line 4", "line": 4, "limit_bytes": 50}
    assert not reader.ended
    whole = LineReader(receiver(b"z" * 51 + b"\nrest\n"), LIMITS)
    with pytest.raises(BodyTooLarge):
        await whole.page()


async def test_a_client_that_leaves_has_said_what_it_said() -> None:
    reader = LineReader(receiver(b"one\ntwo\nhal", ends=False), LIMITS)
    assert await reader.page() == [(1, b"one"), (2, b"two")]
    for _ in range(2):
        with pytest.raises(Cancelled):
            await reader.page()


async def test_a_slow_client_is_not_waited_for_with_what_is_there() -> None:
    parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    reader = LineReader(parts.get, LIMITS)
    parts.put_nowait({"type": "http.request", "body": b"one\ntw", "more_body": True})
    assert await reader.page() == [(1, b"one")]
    parts.put_nowait({"type": "http.request", "body": b"o\n", "more_body": True})
    assert await reader.page() == [(2, b"two")], "what was begun is not lost with the waiting"
    with pytest.raises(DeadlineExceeded):
        await reader.page()
    await reader.aclose()
    await reader.aclose()


async def test_a_trickle_does_not_keep_a_line_for_ever() -> None:
    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x\n", "more_body": True}

    limits = LineLimits(line_bytes=50, page_lines=10_000, age_s=0.1)
    reader = LineReader(trickle, limits)
    page = await reader.page()
    assert 1 <= len(page) < 100
    await reader.aclose()


async def test_the_rest_can_be_skipped() -> None:
    reader = LineReader(receiver(b"one\n" * 100, b"x" * 1_000), LIMITS)
    await reader.page()
    await reader.skip()
    assert reader.ended
    assert await reader.page() == []
    left = LineReader(receiver(b"one\n", ends=False), LIMITS)
    with pytest.raises(Cancelled):
        await left.skip()
    silent = LineReader(asyncio.Queue[dict[str, Any]]().get, LIMITS)
    with pytest.raises(DeadlineExceeded):
        await silent.skip()
    await silent.aclose()


def test_which_routes_read_their_bodies_themselves() -> None:
    streaming = {
        (method, path)
        for path, rules in RULES.items()
        for method, rule in rules.items()
        if rule.stream
    }
    assert streaming == {
        ("POST", "/v1/trust/batches"),
        ("POST", "/v1/trust/batches/{batch}/messages"),
    }
    assert streams_body("POST", "/v1/trust/batches")
    assert streams_body("POST", "/v1/trust/batches/rolling/messages")
    assert not streams_body("GET", "/v1/trust/batches")
    assert not streams_body("POST", "/v1/trust/verify")
    assert not streams_body("POST", "/nothing")
