"""The caller's side of the socket: one connection to each replica on this host."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import orjson

from mesh.core.errors import EngineError, MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.llm.engine import Wire
from mesh.llm.local.codec import Broken, Kind, Reader, load_error, message
from mesh.llm.routing.affinity import PrefixAffinity, beginnings

SCAN_S = 1.0
"""Between two looks for sockets that are new."""
CONNECT_S = 1.0
STALE_S = 30.0
"""A socket that nobody listens at for so long is left over from a dead process."""

_log = get_logger("llm.local")


class _Exchange:
    """One request under way: what came and was not taken yet. Bounded by the answer's length."""

    __slots__ = ("ended", "error", "items", "started", "waiter")

    def __init__(self) -> None:
        self.items: deque[bytes] = deque()
        self.ended = False
        self.started = False
        self.error: MailyError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def next(self) -> bytes | None:
        """None: that was all."""
        while not self.items:
            if self.error is not None:
                raise self.error
            if self.ended:
                return None
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        return self.items.popleft()


class LocalReplica(asyncio.Protocol):
    """A connection to one replica."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost = False
        self._reader = Reader()
        self._numbers = 0
        self._running: dict[int, _Exchange] = {}

    @property
    def load(self) -> int:
        """Requests of this process that run or wait there."""
        return len(self._running)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for exchange in self._running.values():
            if exchange.error is None and not exchange.ended:
                exchange.error = (
                    EngineError("the engine's process ended in the middle")
                    if exchange.started
                    else _restarting()
                )
            exchange.wake()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, number, payload in self._reader.feed(data):
                exchange = self._running.get(number)
                if exchange is None:
                    continue  # it was given up
                if kind == Kind.ITEM or kind == Kind.ANSWER:
                    exchange.started = True
                    exchange.items.append(payload)
                elif kind == Kind.END:
                    exchange.ended = True
                elif kind == Kind.ERROR:
                    exchange.error = load_error(payload)
                exchange.wake()
        except (Broken, orjson.JSONDecodeError, KeyError):
            self._transport.abort()

    def close(self) -> None:
        self._transport.abort()

    async def frames(
        self, body: Wire, *, chat: bool, timeout_s: float, traceparent: str | None
    ) -> AsyncGenerator[bytes, None]:
        number, exchange = self._begin(body, chat, timeout_s, traceparent, stream=True)
        try:
            while (item := await exchange.next()) is not None:
                yield item
        finally:
            self._end(number, exchange)

    async def answer(
        self, body: Wire, *, chat: bool, timeout_s: float, traceparent: str | None
    ) -> Wire:
        number, exchange = self._begin(body, chat, timeout_s, traceparent, stream=False)
        try:
            payload = await exchange.next()
            exchange.ended = True
            if payload is None:
                raise EngineError("the engine gave no answer")
            answer: Wire = orjson.loads(payload)
            return answer
        finally:
            self._end(number, exchange)

    def _begin(
        self, body: Wire, chat: bool, timeout_s: float, traceparent: str | None, *, stream: bool
    ) -> tuple[int, _Exchange]:
        if self.lost:
            raise _restarting()
        number = self._numbers = (self._numbers + 1) % 2**32
        exchange = self._running[number] = _Exchange()
        request = {
            "body": body,
            "chat": chat,
            "timeout_s": timeout_s,
            "traceparent": traceparent,
            "stream": stream,
        }
        self._transport.write(message(Kind.REQUEST, number, orjson.dumps(request)))
        return number, exchange

    def _end(self, number: int, exchange: _Exchange) -> None:
        del self._running[number]
        if not exchange.ended and exchange.error is None and not self.lost:
            self._transport.write(message(Kind.CANCEL, number))


class LocalReplicas:
    """The replicas of one engine, as long as all of them are on this host.

    ``directory`` holds their sockets, ``prefix-REPLICA.sock``; ``expected``: how many there are.
    """

    def __init__(self, directory: Path, prefix: str, expected: int) -> None:
        self._directory = directory
        self._prefix = f"{prefix}-"
        self._expected = expected
        self._live: dict[str, LocalReplica] = {}
        self._affinity = PrefixAffinity()
        self._scanning: asyncio.Task[None] | None = None
        self._scanned_at = float("-inf")

    def choose(self, body: Wire, avoid: str | None) -> LocalReplica | None:
        """None: take the other way. Never waits; what is new is connected to beside."""
        live = self._live
        for name in [name for name, replica in live.items() if replica.lost]:
            del live[name]
        if len(live) < self._expected:
            self._look()
            return None
        if len(live) == 1:
            return next(iter(live.values()))
        keys = beginnings(body)
        name = self._affinity.choose(keys, {n: r.load for n, r in live.items()}, avoid)
        self._affinity.routed(keys, name)
        return live[name]

    def statistics(self) -> dict[str, int]:
        return {
            "replicas": len(self._live),
            "requests": sum(replica.load for replica in self._live.values()),
        }

    async def aclose(self) -> None:
        if self._scanning is not None:
            self._scanning.cancel()
            await asyncio.gather(self._scanning, return_exceptions=True)
        for replica in self._live.values():
            replica.close()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._scanning is None and loop.time() - self._scanned_at >= SCAN_S:
            self._scanned_at = loop.time()
            self._scanning = loop.create_task(self._scan())

    async def _scan(self) -> None:
        try:
            found = await asyncio.to_thread(
                lambda: sorted(self._directory.glob(f"{self._prefix}*.sock"))
            )
            for path in found:
                name = path.stem.removeprefix(self._prefix)
                if name not in self._live:
                    await self._connect(name, path)
        finally:
            self._scanning = None

    async def _connect(self, name: str, path: Path) -> None:
        replica = LocalReplica(name)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().create_unix_connection(lambda: replica, str(path))
        except OSError as error:  # TimeoutError is one
            _log.debug("local.not_there", name=name, error=type(error).__name__)
            if isinstance(error, ConnectionRefusedError):
                _sweep(path)
            return
        self._live[name] = replica


def _sweep(path: Path) -> None:
    """Nobody listens there; a socket that was just made is given time to."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > STALE_S:
            path.unlink()


def _restarting() -> Unavailable:
    return Unavailable("the engine's process ended; it is being restarted", retry_after_s=5.0)
