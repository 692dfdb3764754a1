"""What passes over the socket: messages of a head (length, request, kind) and a payload.

::

    caller                         engine
    REQUEST (JSON)         ──▶
                           ◀──     ITEM (frames, as they are) …  END
                           ◀──     ANSWER (JSON)                        of a unary call
                           ◀──     ERROR (JSON)                         instead of either
    CANCEL                 ──▶                                          nobody listens any more
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import orjson

from mesh.core import errors
from mesh.core.errors import EngineError, MailyError

MAX_PAYLOAD = 64 * 1024 * 1024
_HEAD = struct.Struct("<IIB")


class Kind(IntEnum):
    REQUEST = 1
    CANCEL = 2
    ITEM = 3
    END = 4
    ANSWER = 5
    ERROR = 6


class Broken(Exception):
    """The other side does not speak this."""


def message(kind: Kind, number: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload), number, kind) + payload


class Reader:
    """Cuts what comes into messages."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """``(kind, request, payload)`` of each message that is whole. Raises Broken."""
        buffer = self._buffer + data if self._buffer else data
        at, size = 0, len(buffer)
        found = []
        while size - at >= _HEAD.size:
            length, number, kind = _HEAD.unpack_from(buffer, at)
            if length > MAX_PAYLOAD:
                raise Broken
            end = at + _HEAD.size + length
            if end > size:
                break
            found.append((kind, number, buffer[at + _HEAD.size : end]))
            at = end
        self._buffer = buffer[at:]
        return found


def dump_error(error: MailyError) -> bytes:
    return orjson.dumps(
        {
            "code": error.code,
            "message": error.message,
            "details": error.details,
            "retry_after_s": error.retry_after_s,
        },
        default=str,
    )


def load_error(payload: bytes) -> MailyError:
    said: dict[str, Any] = orjson.loads(payload)
    kind = _BY_CODE.get(said["code"], EngineError)
    return kind(said["message"], said["details"], said["retry_after_s"])


_BY_CODE: dict[str, type[MailyError]] = {
    value.code: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, MailyError)
}
