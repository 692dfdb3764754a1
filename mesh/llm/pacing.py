"""How a stream is paced on its way to another process.

Sending each token on its own costs the receiving process more than the token is worth once
several streams run; collecting them always would delay the first. So the first bursts pass at
once, and afterwards a burst leaves at most every ``window_s``: a lone slow stream is never
delayed, many quick ones travel together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from mesh.core.errors import EngineError

T = TypeVar("T")

WINDOW_S = 0.010
SILENT_S = 0.05
"""A request that has no token by then says that it was taken …"""
ALIVE_S = 1.0
"""… and so often, at most, that it goes on."""
_FREE = 2
"""Bursts that pass at once: the role and the first token."""


async def paced(
    bursts: AsyncIterator[list[T]], window_s: float = WINDOW_S
) -> AsyncGenerator[list[T], None]:
    """Needs a source that collects while it is not asked, as an engine's does."""
    loop = asyncio.get_running_loop()
    sent = 0
    async for burst in bursts:
        at = loop.time()
        yield burst
        if not burst:  # no token, a sign of life
            continue
        sent += 1
        wait = at + window_s - loop.time()
        if sent > _FREE and wait > 0:
            await asyncio.sleep(wait)


async def announced(
    bursts: AsyncGenerator[list[T], None], name: bytes
) -> AsyncGenerator[bytes | tuple[bytes, list[T]], None]:
    """``name`` together with the first tokens, or ahead of them where they take long.

    Each further item costs the receiving process something, just when the first token is awaited:
    so a quick answer has none, and a slow one says once that it was taken and then, at most each
    second, that it goes on (empty bytes).
    """
    loop = asyncio.get_running_loop()
    tell_at, alive = loop.time() + SILENT_S, False
    head = name
    following = asyncio.ensure_future(anext(bursts, None))
    try:
        while True:
            await asyncio.wait({following}, timeout=max(0.0, tell_at - loop.time()))
            if following.done():
                burst = following.result()
                if burst is None:
                    return
                if burst:
                    yield head, burst
                    break
                alive = True
                following = asyncio.ensure_future(anext(bursts, None))
            if loop.time() >= tell_at:
                if head:
                    yield head
                    head = b""
                if alive:
                    yield b""
                tell_at, alive = loop.time() + ALIVE_S, False
    finally:
        if not following.done():
            following.cancel()
            await asyncio.wait({following})
        if not following.cancelled():
            following.exception()  # seen, also where nobody waits for it any more
    async for burst in bursts:
        if burst:
            yield b"", burst


def sse_frames(chunks: list[bytes]) -> bytes:
    """Chunks of JSON as Server-Sent Events, ready for the wire. Raises EngineError where one is
    cut off: nobody after this looks into them."""
    for chunk in chunks:
        if chunk[-1:] != b"}":
            raise EngineError("the engine sent something that is not JSON")
    return b"data: " + b"\n\ndata: ".join(chunks) + b"\n\n"
