"""What the server says on a WebSocket, as JSON text. The words are listed in docs/streams.md."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import orjson

from mesh.core.errors import MailyError
from mesh.streams.frames import Frames
from mesh.streams.mux import Delivery

CHUNK_EVENTS = 64
CHUNK_CHARS = 262_144
"""Of one message with events; what is more comes in the next."""


class Close(IntEnum):
    """Why we close a WebSocket. From 4400 on they follow HTTP's numbers."""

    UNSUPPORTED = 1003
    """Binary messages are not understood."""
    POLICY = 1008
    """Message after message was wrong."""
    TOO_LARGE = 1009
    INTERNAL = 1011
    DRAINING = 1012
    """This replica goes away: resume at once, another one answers."""
    UNAUTHENTICATED = 4401
    """No credential in time, or it has expired or was revoked."""
    FORBIDDEN = 4403
    """The credential lacks the scope."""
    SLOW = 4408
    """The client did not read fast enough, or did not answer pings: resume when it can."""
    TOO_MANY = 4429
    """Messages came faster than allowed."""


def say(kind: str, **parts: Any) -> str:
    """``{"type": kind, …}`` without the parts that are None."""
    body = {"type": kind, **{name: value for name, value in parts.items() if value is not None}}
    return orjson.dumps(body).decode()


def say_error(error: MailyError, trace_id: str, id: str | None = None) -> str:
    """Our error shape as an event; ``id``: of the message or subscription that it is about."""
    retry_after_s = error.retry_after_s
    return say("error", id=id, **error.as_body(trace_id), retry_after_s=retry_after_s)


def say_events(delivery: Delivery, frames: Frames) -> Iterator[str]:
    """The delivery's events in as many messages as they need. Each event was encoded once for
    all readers of the process."""
    head = f'{{"type":"events","id":{orjson.dumps(delivery.subscription.id).decode()},"events":['
    texts: list[str] = []
    chars = 0
    for event, run in zip(delivery.events, delivery.runs, strict=True):
        text = frames.wire(event, run)
        if texts and (len(texts) >= CHUNK_EVENTS or chars + len(text) > CHUNK_CHARS):
            yield f"{head}{','.join(texts)}]}}"
            texts, chars = [], 0
        texts.append(text)
        chars += len(text)
    if texts:
        yield f"{head}{','.join(texts)}]}}"
