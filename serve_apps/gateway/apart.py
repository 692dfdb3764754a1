"""The gateway's end of ``mesh.trust.apart``: a few processes, a short queue, a deadline for each.

A process is started when it is needed and none is idle. It gets a bare environment: what it reads
comes from anybody, so it holds no secret. One that is too slow is ended, and so is one whose
request was given up: the next request gets a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, cast

import cbor2

import mesh
from mesh.core import metrics
from mesh.core.errors import (
    DeadlineExceeded,
    Internal,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from mesh.core.logging import get_logger
from mesh.trust.apart import read_frame, write_frame

MODULE = "mesh.trust.apart"
_KEPT = ("PATH", "MAILY_INSTANCE", "LANG", "LC_ALL", "TMPDIR")
"""Of the environment. The instance's name lets `maily down` find its processes."""


_log = get_logger("gateway.apart")


@dataclass(frozen=True, slots=True)
class ApartOptions:
    workers: int = 1
    queue: int = 16
    """Callers that wait for a worker; more are refused."""
    timeout_s: float = 10.0
    """Of one request's work."""


class _Child:
    """One process. Its methods block: they are called in a thread."""

    def __init__(self) -> None:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        home = str(Path(mesh.__file__).resolve().parents[1])
        self._process = subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "PYTHONPATH": home, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
        )
        self._stdin = cast(BinaryIO, self._process.stdin)
        self._stdout = cast(BinaryIO, self._process.stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes, timeout_s: float) -> bytes | None:
        """None: it has ended, by itself or at the deadline. It can't be asked again then."""
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            write_frame(self._stdin, request)
            return read_frame(self._stdout)
        except OSError:
            return None
        finally:
            timer.cancel()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()

    def end(self) -> None:
        self.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()


class Session:
    """One caller's hold of a process: what it opened stays there until the next caller."""

    def __init__(self, apart: Apart) -> None:
        self._apart = apart

    async def ask(self, kind: str, **request: Any) -> Any:
        """Raises InvalidInput (it can't be read), DeadlineExceeded, Unavailable, Internal."""
        return await self._apart._ask(self, kind, request)


class Apart:
    """``aclose`` it. Belongs to one event loop."""

    def __init__(self, options: ApartOptions | None = None) -> None:
        self._options = options or ApartOptions()
        self._slots = asyncio.Semaphore(self._options.workers)
        self._threads = ThreadPoolExecutor(self._options.workers, "apart")
        self._idle: list[_Child] = []
        self._held: dict[Session, _Child] = {}
        self._waiting = self._asked = self._killed = self._started = self._refused = 0
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Raises Overloaded when too many wait already."""
        if self._closed:
            raise Unavailable("This process is to go", retry_after_s=1.0)
        if self._slots.locked() and self._waiting >= self._options.queue:
            self._refused += 1
            metrics.OVERLOADED.labels("trust apart").inc()
            raise Overloaded("Too much is being worked out: try again", retry_after_s=1.0)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        session = Session(self)
        try:
            yield session
        finally:
            self._slots.release()
            child = self._held.pop(session, None)
            if child is not None and self._closed:
                child.kill()
            elif child is not None:
                self._idle.append(child)

    async def once(self, kind: str, **request: Any) -> Any:
        """One request for which nothing was opened before."""
        async with self.session() as session:
            return await session.ask(kind, **request)

    async def aclose(self) -> None:
        self._closed = True
        children = [*self._idle, *self._held.values()]
        self._idle.clear()
        self._held.clear()
        await asyncio.gather(*(asyncio.to_thread(child.end) for child in children))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> dict[str, int | float]:
        return {
            "asked": self._asked,
            "waiting": self._waiting,
            "refused": self._refused,
            "started": self._started,
            "killed": self._killed,
            "idle": len(self._idle),
        }

    async def _ask(self, session: Session, kind: str, request: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        data = cbor2.dumps({"do": kind, **request})
        began = perf_counter()
        self._asked += 1
        child = self._held.get(session) or await self._hold(session)
        asking = loop.run_in_executor(self._threads, child.ask, data, self._options.timeout_s)
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # Nobody waits for it any more: its thread is free as soon as it has ended.
            await asyncio.shield(asyncio.ensure_future(self._end(session, child, asking)))
            raise
        seconds = perf_counter() - began
        metrics.TRUST_APART_SECONDS.labels(kind).observe(seconds)
        if answer is None:
            await self._end(session, child, asking)
            if seconds >= self._options.timeout_s:
                raise DeadlineExceeded(
                    "It takes too long to work out", {"timeout_s": self._options.timeout_s}
                )
            raise Unavailable("What works it out has ended: try again", retry_after_s=1.0)
        told = cbor2.loads(answer)
        if "broken" in told:
            _log.error("apart.broken", kind=kind, traceback=told["broken"])
            raise Internal
        if "wrong" in told:
            raise InvalidInput(told["wrong"], {"field": told["field"] or "message"})
        return told["good"]

    async def _hold(self, session: Session) -> _Child:
        taking = asyncio.get_running_loop().run_in_executor(self._threads, self._take)
        try:
            child = await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda done: self._idle.append(done.result()))
            raise
        self._held[session] = child
        return child

    async def _end(
        self, session: Session, child: _Child, asking: asyncio.Future[bytes | None]
    ) -> None:
        self._held.pop(session, None)
        self._killed += 1
        child.kill()
        await asking
        await asyncio.get_running_loop().run_in_executor(None, child.end)

    def _take(self) -> _Child:
        """An idle process that lives (one ends by itself after minutes), or a new one."""
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            child.end()
        self._started += 1
        return _Child()
