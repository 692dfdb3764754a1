"""The engine's side of the socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import orjson

from mesh.core.errors import EngineError, MailyError
from mesh.core.logging import get_logger
from mesh.llm.engine import Wire
from mesh.llm.local.codec import Broken, Kind, Reader, dump_error, message

_log = get_logger("llm.local")


class Served(Protocol):
    """What answers: the engine's deployment."""

    def frames(
        self, body: Wire, timeout_s: float, traceparent: str | None, chat: bool
    ) -> AsyncGenerator[bytes, None]: ...

    async def answer(
        self, body: Wire, timeout_s: float, traceparent: str | None, chat: bool
    ) -> Wire: ...


class LocalServer:
    """Listens at ``path``; belongs to one event loop."""

    def __init__(self, served: Served, path: Path) -> None:
        self._served = served
        self._path = path
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self) -> None:
        """Raises OSError. The directory is made for its owner alone."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Connection(self._served, self._connections), str(self._path)
        )

    async def aclose(self) -> None:
        """Whoever is connected sees the connection end."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        for connection in tuple(self._connections):
            connection.close()

    def statistics(self) -> dict[str, int]:
        return {
            "connections": len(self._connections),
            "requests": sum(len(connection.tasks) for connection in self._connections),
        }


class _Connection(asyncio.Protocol):
    def __init__(self, served: Served, all: set[_Connection]) -> None:
        self._served = served
        self._all = all
        self._reader = Reader()
        self._writable = asyncio.Event()
        self._writable.set()
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._writable.set()
        for task in tuple(self.tasks.values()):
            task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, number, payload in self._reader.feed(data):
                if kind == Kind.REQUEST:
                    task = asyncio.ensure_future(self._serve(number, orjson.loads(payload)))
                    self.tasks[number] = task
                    task.add_done_callback(partial(self._served_one, number))
                elif kind == Kind.CANCEL and number in self.tasks:
                    self.tasks[number].cancel()
        except (Broken, orjson.JSONDecodeError):
            self._transport.abort()

    def _served_one(self, number: int, task: asyncio.Task[None]) -> None:
        del self.tasks[number]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("answer lost", exc_info=error)

    async def _serve(self, number: int, request: dict[str, Any]) -> None:
        arguments = (
            request["body"],
            request["timeout_s"],
            request["traceparent"],
            request["chat"],
        )
        try:
            if request["stream"]:
                async with aclosing(self._served.frames(*arguments)) as items:
                    async for item in items:
                        if not self._writable.is_set():
                            await self._writable.wait()
                        self._transport.write(message(Kind.ITEM, number, item))
                last = message(Kind.END, number)
            else:
                answer = await self._served.answer(*arguments)
                last = message(Kind.ANSWER, number, orjson.dumps(answer))
        except MailyError as error:
            last = message(Kind.ERROR, number, dump_error(error))
        except Exception as error:
            _log.error("request failed", exc_info=error)
            last = message(
                Kind.ERROR,
                number,
                dump_error(EngineError(f"the engine failed: {type(error).__name__}")),
            )
        self._transport.write(last)
