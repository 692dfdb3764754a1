"""The fake engine behind nothing but an HTTP server: what the gateway and its peers stand before.

    python -m benchmarks.bare_fake PORT

Pure ASGI over uvicorn, no authentication, no validation; also answers what routers ask of their
workers.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
import uvicorn

from mesh.llm.fake import FakeEngine
from mesh.llm.pacing import sse_frames

MODEL = "fake"
_ENGINE = FakeEngine(model_id=MODEL, slots=1_000, queue_limit=10_000, context_tokens=32_768)
_INFO = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "fake"}],
    "model_path": MODEL,
    "model_id": MODEL,
    "is_generation": True,
    "status": "ok",
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["method"] != "POST":
        await _answer(send, orjson.dumps(_INFO))
        return
    wire = orjson.loads(body)
    if not wire.get("stream"):
        await _answer(send, orjson.dumps(await _ENGINE.chat(wire, timeout_s=60)))
        return
    head = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    async for burst in _ENGINE.stream_raw(wire, chat=True, timeout_s=60):
        if burst:
            frames = sse_frames(burst)
            await send({"type": "http.response.body", "body": frames, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Any, body: bytes) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="off")
