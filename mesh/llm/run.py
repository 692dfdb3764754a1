"""One request inside llama.cpp: a thread that is called back per token, and its way to asyncio.

The thread appends to a deque and wakes the loop only when no wake-up is under way already, so a
burst of tokens costs one. Under the GIL ``deque.append`` and ``popleft`` need no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from typing import Any

from mesh.core.errors import DeadlineExceeded

PROGRESS = b'"prompt_progress":'
"""In a chunk that reports of the prompt. Not in an answer: its quotes are escaped."""

Handle = Callable[[bytes, Callable[[bytes], bool]], Any]


class Run:
    """Bounded by the request itself: at most one chunk per token of the context."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._chunks: deque[bytes] = deque()
        self._awake = asyncio.Event()
        self._ended = asyncio.Event()
        self._waking = False
        self._cancel = False
        self._pause = False
        self._error: BaseException | None = None
        self.tokens = 0
        """Chunks that came, the first (role) and last (finish) not counted."""
        self.paused = False
        """It ended because of ``pause``, with nothing of its answer made."""
        self.after_cancel = 0
        """Chunks that llama.cpp still made after the cancel."""

    @property
    def finished(self) -> bool:
        """The thread has returned."""
        return self._ended.is_set()

    def start(self, threads: Executor, handle: Handle, request: bytes) -> None:
        threads.submit(self._work, handle, request)

    def cancel(self) -> None:
        """llama.cpp learns of it at its next token or prompt batch."""
        self._cancel = True

    def pause(self) -> None:
        """End it at its next report of the prompt's progress; a prompt that is read goes on."""
        self._pause = True

    async def wait_finished(self) -> None:
        """Also when the waiting task is cancelled meanwhile: a slot given back too early would
        be counted twice. Takes a token's or prompt batch's time."""
        cancelled: asyncio.CancelledError | None = None
        while not self._ended.is_set():
            try:
                await self._ended.wait()
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    async def bursts(self, deadline: float) -> AsyncGenerator[list[bytes], None]:
        """What has come since the last time. ``deadline``: of the loop's clock."""
        while True:
            if not self._chunks and not self._ended.is_set():
                self._awake.clear()
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._awake.wait()
                except TimeoutError as exc:
                    raise DeadlineExceeded("the deadline passed while generating") from exc
            ended = self._ended.is_set()
            if self._chunks:
                burst = []
                while self._chunks:
                    burst.append(self._chunks.popleft())
                yield burst
            if ended and not self._chunks:
                if self._error is not None:
                    raise self._error
                return

    def _work(self, handle: Handle, request: bytes) -> None:
        try:
            if not self._cancel:
                handle(request, self._on_chunk)
        except BaseException as exc:
            self._error = exc
        finally:
            self._loop.call_soon_threadsafe(self._end)

    def _on_chunk(self, chunk: bytes) -> bool:
        """In llama.cpp's thread. True: stop."""
        if self._cancel:
            self.after_cancel += 1
            return True
        if self._pause and PROGRESS in chunk:
            self.paused = True
            return True
        self.tokens += 1
        self._chunks.append(chunk)
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)
        return False

    def _wake(self) -> None:
        self._waking = False
        self._awake.set()

    def _end(self) -> None:
        self._ended.set()
        self._awake.set()
