"""Server-sent events: an answer that stops its source the moment the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mesh.core.errors import Cancelled, DeadlineExceeded

T = TypeVar("T")

MEDIA = "text/event-stream"
HEARTBEAT = b": heartbeat\n\n"
RETRY = b"retry: 1000\n\n"
"""How long a browser waits before it reconnects, in milliseconds."""


async def left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


async def until_left(receive: Receive, work: Awaitable[T], timeout_s: float) -> T:
    """Await ``work``; cancel it when the client leaves (Cancelled) or time is up
    (DeadlineExceeded), so that what it holds is freed at once."""
    caller = asyncio.current_task()
    assert caller is not None
    before = caller.cancelling()
    gone = ended = False

    def leave(watch: asyncio.Task[None]) -> None:
        nonlocal gone
        if not ended and not watch.cancelled() and watch.exception() is None:
            gone = True
            caller.cancel()

    # One task and not two: the work runs in the caller's own.
    watch = asyncio.create_task(left(receive))
    watch.add_done_callback(leave)
    timer = asyncio.timeout(timeout_s)
    try:
        async with timer:
            return await work
    except asyncio.CancelledError:
        if gone and caller.cancelling() == before + 1:
            raise Cancelled("The client left") from None
        raise  # somebody else's cancel is to be obeyed
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(details={"timeout_s": round(timeout_s, 3)}) from None
    finally:
        ended = True
        watch.cancel()
        if gone:
            caller.uncancel()


class EventStream(Response):
    """``frames`` are sent as they come; the iterator is closed however the answer ends.

    The status has been sent when something fails, so an error becomes the last frame:
    ``on_error`` makes it.
    """

    media_type = MEDIA

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        on_error: Callable[[Exception], bytes],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._frames = frames
        self._on_error = on_error
        self._on_end: Callable[[bool], Awaitable[None]] | None = None
        self.failed = False
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers(
            {"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})}
        )
        del self.headers["content-length"]

    def wrap(
        self,
        around: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]],
        on_end: Callable[[bool], Awaitable[None]],
    ) -> None:
        """See the frames as they pass. ``on_end(complete)`` is awaited at the end; complete:
        every frame was sent."""
        self._frames = around(self._frames)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        complete = False
        pump = asyncio.create_task(self._pump(send))
        watch = asyncio.create_task(left(receive))
        try:
            await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
                complete = True
        finally:
            pump.cancel()
            watch.cancel()
            await asyncio.gather(pump, watch, return_exceptions=True)
            close = getattr(self._frames, "aclose", None)
            if close is not None:
                await close()
            if self._on_end is not None:
                await self._on_end(complete)

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for frame in self._frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        except OSError:
            raise  # the client's connection broke: nobody is there to be told
        except Exception as error:
            self.failed = True
            last = self._on_error(error)
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
