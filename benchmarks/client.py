"""The load generator's two clients: streamed chat over aiohttp, and raw keep-alive GETs.

The same code loads us and the peer, so what it costs is the same on both sides.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp


@dataclass(frozen=True, slots=True)
class ChatRun:
    """One streamed answer, seen from the client."""

    ttft_s: float
    seconds: float
    tokens: int
    text: str


async def stream_chat(
    session: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any]
) -> ChatRun:
    """POST ``{url}/chat/completions`` with stream on. Raises RuntimeError unless it ends well."""
    payload = {**body, "stream": True, "stream_options": {"include_usage": True}}
    started = time.perf_counter()
    first: float | None = None
    tokens, parts, done = 0, [], False
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(f"{url}/chat/completions", json=payload, headers=headers) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:300]}")
        async for raw in response.content:
            line = raw.strip()
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                done = True
                break
            chunk = json.loads(data)
            if "error" in chunk:
                raise RuntimeError(str(chunk)[:300])
            for choice in chunk.get("choices", []):
                text = (choice.get("delta") or {}).get("content")
                if text:
                    if first is None:
                        first = time.perf_counter() - started
                    parts.append(text)
            if usage := chunk.get("usage"):
                tokens = int(usage["completion_tokens"])
    if not done or first is None:
        raise RuntimeError("the stream ended without [DONE]")
    return ChatRun(first, time.perf_counter() - started, tokens, "".join(parts))


class _Getter(asyncio.Protocol):
    """One keep-alive connection that sends the next GET as soon as an answer is whole."""

    def __init__(self, request: bytes, until: float, done: asyncio.Future[None]) -> None:
        self._request, self._until, self._done = request, until, done
        self._buffer = b""
        self._sent_at = 0.0
        self.latencies: list[float] = []
        self.statuses: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        now = time.perf_counter()
        self.latencies.append(now - self._sent_at)
        status = int(head[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if now < self._until:
            self._send()
        elif not self._done.done():
            self._transport.close()
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))


@dataclass(frozen=True, slots=True)
class GetRun:
    requests_per_s: float
    latencies_s: list[float]
    statuses: dict[int, int]


async def hammer_get(url: str, key: str, *, connections: int, seconds: float) -> GetRun:
    """GET ``url`` over ``connections`` keep-alive connections for ``seconds``."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or 80
    request = (
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Authorization: Bearer {key}\r\nAccept: application/json\r\n\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    getters: list[_Getter] = []
    ends: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        getter = _Getter(request, started + seconds, done)
        getters.append(getter)
        await loop.create_connection(lambda g=getter: g, host, port)  # type: ignore[misc]
    await asyncio.wait_for(asyncio.gather(*ends), seconds + 30)
    elapsed = time.perf_counter() - started
    latencies = [value for getter in getters for value in getter.latencies]
    statuses: dict[int, int] = {}
    for getter in getters:
        for status, count in getter.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return GetRun(len(latencies) / elapsed, latencies, statuses)
