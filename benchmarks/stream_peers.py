"""How streams are often served from Redis, to measure beside ours.

``xread``: each reader blocks in an XREAD of its own connection (resumes by Last-Event-ID).
``pubsub``: each reader subscribes to a channel (what comes while it is away is lost to it).

    python -m benchmarks.stream_peers xread PORT REDIS_URL PREFIX [PROCESSES]
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import redis.asyncio as redis_asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

KIND, URL, PREFIX = "", "", ""


def _frame(id: bytes, payload: bytes) -> bytes:
    return b"id: %s\nevent: e\ndata: %s\n\n" % (id, payload)


async def _xread(stream: str, last: str) -> AsyncIterator[bytes]:
    client = redis_asyncio.Redis.from_url(URL, single_connection_client=True)
    key, after = f"{PREFIX}{stream}", last.encode()
    try:
        while True:
            found = await client.xread({key: after}, block=15_000, count=256)
            if not found:
                yield b": heartbeat\n\n"
                continue
            for after, fields in found[0][1]:
                yield _frame(after, fields[b"e"])
    finally:
        await client.aclose()


async def _pubsub(stream: str, last: str) -> AsyncIterator[bytes]:
    client = redis_asyncio.Redis.from_url(URL)
    key = f"{PREFIX}{stream}"
    try:
        async with client.pubsub() as subscription:
            await subscription.subscribe(key)
            if last == "0-0":
                for id, fields in await client.xrange(key):
                    yield _frame(id, fields[b"e"])
            async for message in subscription.listen():
                if message["type"] != "message":
                    continue
                head, *payloads = message["data"].split(b"\n")
                attempt, first = head.split()
                for index, payload in enumerate(payloads):
                    yield _frame(b"%s-%d" % (attempt, int(first) + index), payload)
    finally:
        await client.aclose()


async def events(request: Request) -> StreamingResponse:
    source = _xread if KIND == "xread" else _pubsub
    frames = source(request.path_params["stream"], request.headers.get("last-event-id", "0-0"))
    return StreamingResponse(frames, media_type="text/event-stream")


app = Starlette(routes=[Route("/streams/{stream}", events)])

if __name__ == "__main__":
    KIND, port, URL, PREFIX = sys.argv[1:5]
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
