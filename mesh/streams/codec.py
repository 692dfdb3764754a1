"""Events to bytes and back. The bytes of an event are the same whenever it is read."""

from __future__ import annotations

from typing import Any

import orjson

from mesh.contracts.events import Event, EventType
from mesh.core.errors import InvalidInput


def encode(type: EventType, at: float, data: dict[str, Any], limit: int) -> bytes:
    """One line of JSON with sorted keys, without line breaks (they part entries on the wire).

    Raises InvalidInput where ``data`` is not JSON or the line is longer than ``limit`` bytes.
    """
    body = {"t": type.value, "a": at, "d": data}
    try:
        payload = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise InvalidInput(f"event data is not JSON: {error}") from error
    if len(payload) > limit:
        raise InvalidInput(
            f"an event of {len(payload)} bytes is larger than {limit}", {"type": type.value}
        )
    return payload


def decode(stream: str, attempt: int, sequence: int, payload: bytes) -> Event:
    """The event that ``encode`` wrote."""
    body = orjson.loads(payload)
    return Event(
        stream=stream,
        attempt=attempt,
        sequence=sequence,
        type=EventType(body["t"]),
        at=body["a"],
        data=body["d"],
    )


def clean(text: str) -> str:
    """``text`` as valid Unicode: a model may cut a character in two."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
