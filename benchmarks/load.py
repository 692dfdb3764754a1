"""The load generator of the LLM benchmark: raw HTTP/1.1 over keep-alive connections.

It costs a tenth of what an HTTP library does, so that on a machine with few cores the figure is
the server's and not the client's. Run as a process of its own (``python -m benchmarks.load``),
it prints one JSON object: what it saw, and the CPU seconds that it took itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.report import percentile

LIMIT_S = 60.0
"""An answer that takes longer ends the run."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the generator saw."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    ttft_p50_ms: float
    """Request sent to the first token's bytes read; of streams alone."""
    ttft_p99_ms: float
    tokens_per_s: float
    """Content chunks read, over all connections; of streams alone."""
    statuses: dict[str, int]
    cpu_s: float
    """Of the generator itself."""
    seconds: float


class _Caller(asyncio.Protocol):
    """One connection: sends the next request as soon as an answer is whole."""

    def __init__(self, request: bytes, until: float, done: asyncio.Future[None]) -> None:
        self._request, self._until, self._done = request, until, done
        self._buffer = b""
        self._left = -1
        """Bytes of the body still to come; -1: the head is not whole yet; -2: chunked."""
        self._sent_at = 0.0
        self._seen_token = False
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.tokens = 0
        self.statuses: dict[str, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._seen_token = False
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._left == -1:
            data = self._buffer + data
            head, separator, data = data.partition(b"\r\n\r\n")
            if not separator:
                self._buffer = head
                return
            self._buffer = b""
            self._head(head)
        if self._left == -2:
            self._stream(data)
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._answered()

    def _head(self, head: bytes) -> None:
        status = head[9:12].decode()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._left = -2
        for line in head.lower().split(b"\r\n")[1:]:
            if line.startswith(b"content-length:"):
                self._left = int(line[15:])

    def _stream(self, data: bytes) -> None:
        """Counts content chunks without parsing them: an answer's text holds no quote."""
        found = data.count(b'"content":"')
        if found and not self._seen_token:
            self._seen_token = True
            self.firsts.append(time.perf_counter() - self._sent_at)
        self.tokens += found
        tail = (self._buffer + data)[-64:]
        self._buffer = tail
        if tail.endswith(b"0\r\n\r\n"):
            self._buffer = b""
            self._answered()

    def _answered(self) -> None:
        now = time.perf_counter()
        self._left = -1
        self.latencies.append(now - self._sent_at)
        if now < self._until:
            self._send()
        elif not self._done.done():
            self._transport.close()
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))


async def generate(
    url: str, key: str, body: dict[str, Any], *, connections: int, seconds: float
) -> Load:
    """POST ``body`` to ``url`` over ``connections`` for ``seconds``, one at a time on each."""
    parts = urlsplit(url)
    payload = json.dumps(body).encode()
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload
    loop = asyncio.get_running_loop()
    cpu, started = time.process_time(), time.perf_counter()
    callers: list[_Caller] = []
    ends: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        caller = _Caller(request, started + seconds, done)
        callers.append(caller)
        ends.append(done)
        await loop.create_connection(
            lambda c=caller: c,  # type: ignore[misc]
            str(parts.hostname),
            parts.port or 80,
        )
    await asyncio.wait_for(asyncio.gather(*ends), seconds + LIMIT_S)
    elapsed = time.perf_counter() - started
    latencies = [value for caller in callers for value in caller.latencies]
    firsts = [value for caller in callers for value in caller.firsts] or [0.0]
    statuses: dict[str, int] = {}
    for caller in callers:
        for status, count in caller.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return Load(
        requests_per_s=len(latencies) / elapsed,
        p50_ms=percentile(latencies, 0.5) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
        ttft_p50_ms=percentile(firsts, 0.5) * 1e3,
        ttft_p99_ms=percentile(firsts, 0.99) * 1e3,
        tokens_per_s=sum(caller.tokens for caller in callers) / elapsed,
        statuses=statuses,
        cpu_s=time.process_time() - cpu,
        seconds=elapsed,
    )


async def load(
    url: str, key: str, body: dict[str, Any], *, connections: int, seconds: float
) -> Load:
    """``generate`` in a process of its own. Raises RuntimeError unless every answer was a 200."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load", url, str(connections), str(seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    text, _ = await asyncio.wait_for(
        process.communicate(json.dumps({"key": key, "body": body}).encode()),
        seconds + LIMIT_S + 30,
    )
    if process.returncode != 0:
        raise RuntimeError(f"the load generator failed with status {process.returncode}")
    seen = Load(**json.loads(text))
    if set(seen.statuses) != {"200"}:
        raise RuntimeError(f"{url} answered {seen.statuses}")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    asked = json.load(sys.stdin)
    seen = uvloop.run(
        generate(
            options.url,
            asked["key"],
            asked["body"],
            connections=options.connections,
            seconds=options.seconds,
        )
    )
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
