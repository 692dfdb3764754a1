"""Readers by the thousand, cheap enough to share two cores with what they read from.

Each follows one stream, over server-sent events or a WebSocket subscription, checks every number
in it and remembers its cursor; ``cut`` breaks all connections at once, and each reader comes back
with its cursor. The texts of a stream are its numbers in order ("0 1 2 …"), so it does not matter
how tokens were coalesced: a missing or doubled number is seen.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson

RETRY_S = (0.05, 0.5)
"""Readers that are refused wait so long, doubled, at random."""


@dataclass(slots=True)
class Stream:
    """One stream as a reader sees it."""

    name: str
    path: str
    """Of its server-sent events."""
    cursor: str | None = None
    expected: int = 0
    """The next number."""
    lost: int = 0
    doubled: int = 0
    ended: bool = False

    def take(self, text: str) -> None:
        for word in text.split():
            number = int(word)
            if number < self.expected:
                self.doubled += 1
            else:
                self.lost += number - self.expected
                self.expected = number + 1


@dataclass(slots=True)
class Tally:
    """What all readers saw."""

    events: int = 0
    pieces: int = 0
    latencies_s: list[float] = field(default_factory=list)
    timing: bool = False
    """Whether delays are noted: not while readers catch up after a cut."""
    connects: int = 0
    refused: int = 0
    told: int = 0
    """Connections whose server said that it goes away, before it did."""

    def event(self, stream: Stream, event: dict) -> None:  # type: ignore[type-arg]
        self.events += 1
        kind = event.get("type") or event["t"]
        if kind == "tokens":
            stream.take((event.get("data") or event["d"])["text"])
            if self.timing:
                self.latencies_s.append(time.time() - (event.get("at") or event["a"]))
        elif kind == "task.succeeded":
            stream.ended = True


class _Line(asyncio.Protocol):
    """A connection: sends a request, hands on what comes after the head."""

    def __init__(self, request: bytes, reader: Reader) -> None:
        self._request = request
        self._reader = reader
        self._buffer = b""
        self._head = True
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        if self._head:
            head, separator, rest = data.partition(b"\r\n\r\n")
            if not separator:
                self._buffer = data
                return
            self._head = False
            if not self._reader.welcome(int(head[9:12])):
                self.transport.abort()  # type: ignore[union-attr]
                return
            data = rest
        self._buffer = self._reader.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reader.lost()


class Reader:
    """Base of both kinds: connects, reconnects."""

    def __init__(self, load: Load, streams: list[Stream]) -> None:
        self.load = load
        self.streams = streams
        self._line: _Line | None = None
        self._failures = 0
        self._stopped = False
        self.welcomed = asyncio.Event()

    @property
    def done(self) -> bool:
        return all(stream.ended for stream in self.streams)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        self.load.tally.connects += 1
        self._line = line = _Line(self.request(), self)
        try:
            await loop.create_connection(lambda: line, self.load.host, self.load.port)
        except OSError:
            self.lost()

    def welcome(self, status: int) -> bool:
        good = status in (200, 101)
        if good:
            self._failures = 0
            self.welcomed.set()
        elif status == 204:
            for stream in self.streams:
                stream.ended = True
        else:
            self.load.tally.refused += 1
        return good

    def lost(self) -> None:
        self.welcomed.clear()
        if self._stopped or self.done:
            return
        wait_s = min(RETRY_S[1], RETRY_S[0] * 2**self._failures) * random.uniform(0.5, 1)
        self._failures += 1
        loop = asyncio.get_running_loop()
        loop.call_later(wait_s, lambda: self.load.start(self.connect))

    def cut(self) -> None:
        if self._line is not None and self._line.transport is not None:
            self._line.transport.abort()

    def stop(self) -> None:
        self._stopped = True
        self.cut()

    def send(self, data: bytes) -> None:
        if self._line is not None and self._line.transport is not None:
            self._line.transport.write(data)

    def request(self) -> bytes:
        raise NotImplementedError

    def feed(self, data: bytes) -> bytes:
        """Take what is whole; gives the rest."""
        raise NotImplementedError


class SseReader(Reader):
    def __init__(self, load: Load, streams: list[Stream]) -> None:
        super().__init__(load, streams)
        self._text = b""

    def request(self) -> bytes:
        stream = self.streams[0]
        self._text = b""
        last = f"last-event-id: {stream.cursor}\r\n" if stream.cursor else ""
        return (
            f"GET {stream.path} HTTP/1.1\r\nhost: {self.load.host}\r\n{self.load.auth}{last}\r\n"
        ).encode()

    def feed(self, data: bytes) -> bytes:
        while True:  # chunks of HTTP/1.1
            size, separator, rest = data.partition(b"\r\n")
            if not separator:
                break
            length = int(size, 16)
            if len(rest) < length + 2:
                break
            self._text += rest[:length]
            data = rest[length + 2 :]
        *frames, self._text = self._text.split(b"\n\n")
        stream, tally = self.streams[0], self.load.tally
        for frame in frames:
            if not frame.startswith(b"id: "):
                tally.told += frame.startswith(b": this replica goes away")
                continue
            id, _, body = frame.split(b"\n", 2)
            stream.cursor = id[4:].decode()
            tally.event(stream, orjson.loads(body[6:]))
        return data


class SocketReader(Reader):
    """Speaks WebSocket itself: a client library would cost more than the server."""

    def request(self) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        return (
            f"GET /v1/mesh/ws HTTP/1.1\r\nhost: {self.load.host}\r\nupgrade: websocket\r\n"
            f"connection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n"
            f"sec-websocket-protocol: maily.v1\r\n{self.load.auth}\r\n"
        ).encode()

    def welcome(self, status: int) -> bool:
        good = super().welcome(status)
        if good:
            for number, stream in enumerate(self.streams):
                if not stream.ended:
                    message = {"type": "subscribe", "id": str(number), "topic": stream.name}
                    if stream.cursor:
                        message["after"] = stream.cursor
                    self.say(message)
        return good

    def say(self, message: dict[str, str]) -> None:
        body = orjson.dumps(message)
        size = len(body)
        head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
        self.send(head + b"\0\0\0\0" + body)  # a mask of zeros changes nothing

    def feed(self, data: bytes) -> bytes:
        while len(data) >= 2:
            size, start = data[1] & 0x7F, 2
            if size >= 126:
                start = 4 if size == 126 else 10
                if len(data) < start:
                    break
                size = int.from_bytes(data[2:start], "big")
            if len(data) < start + size:
                break
            opcode, body = data[0] & 0x0F, data[start : start + size]
            data = data[start + size :]
            if opcode == 1:
                self._message(orjson.loads(body))
            elif opcode == 9:
                self.send(bytes([0x8A, 0x80 | len(body)]) + b"\0\0\0\0" + body)
            elif opcode == 8:
                self.cut()
                return b""
        return data

    def _message(self, message: dict) -> None:  # type: ignore[type-arg]
        kind = message["type"]
        if kind == "events":
            stream = self.streams[int(message["id"])]
            for event in message["events"]:
                stream.cursor = event["cursor"]
                self.load.tally.event(stream, event)
        elif kind == "ended":
            self.streams[int(message["id"])].ended = True
        elif kind == "server.draining":
            self.load.tally.told += 1
        elif kind == "ping":
            self.say({"type": "pong"})


class Load:
    """All readers of one run."""

    def __init__(self, url: str, key: str | None, opening: int = 200) -> None:
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.auth = "" if key is None else f"authorization: Bearer {key}\r\n"
        self.tally = Tally()
        self.readers: list[Reader] = []
        self._opening = asyncio.Semaphore(opening)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, connect: Callable[[], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with self._opening:
                await connect()

        task = asyncio.create_task(opened())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def open(self, readers: list[Reader]) -> None:
        """Connect them and wait until each is welcome."""
        self.readers += readers
        for reader in readers:
            self.start(reader.connect)
        await asyncio.gather(*(reader.welcomed.wait() for reader in readers))

    def cut(self) -> None:
        for reader in self.readers:
            reader.cut()

    def streams(self) -> list[Stream]:
        return [stream for reader in self.readers for stream in reader.streams]

    def behind(self, numbers: dict[str, int]) -> int:
        """How many readers have not seen so many numbers of their stream yet."""
        return sum(stream.expected < numbers[stream.name] for stream in self.streams())

    async def storm(self, numbers: dict[str, int], timeout_s: float) -> float:
        """Cut all connections at once; gives the seconds until every reader is back and has seen
        a number that was written after the cut. Raises TimeoutError. ``numbers``: what the writers
        have written so far of each stream; they go on."""
        started = time.perf_counter()
        self.cut()
        await asyncio.sleep(0.05)  # what was written until now may have been seen before the cut
        target = {name: number + 1 for name, number in numbers.items()}
        async with asyncio.timeout(timeout_s):
            while self.behind(target):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return time.perf_counter() - started

    async def aclose(self) -> None:
        for reader in self.readers:
            reader.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.2)
