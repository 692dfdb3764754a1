"""Where a client was, in a form that it keeps without reading.

A *resume token* holds the subscriptions of a socket with their cursors; a *composite cursor* the
places in several topics, in the order in which they were asked for. Neither grants anything: what
they name is authorised anew when they come back.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mesh.contracts.events import Cursor
from mesh.core.errors import InvalidInput
from mesh.streams.filters import Filter

VERSION = "r1."
MOST_BYTES = 262_144
"""Of a token once unpacked."""
_DIGEST = 4


@dataclass(frozen=True, slots=True)
class Place:
    """One subscription as a token remembers it."""

    id: str
    topic: str
    after: Cursor
    filter: Filter


def write_token(places: Iterable[Place]) -> str:
    rows = [
        [place.id, place.topic, str(place.after), place.filter.types, place.filter.steps]
        for place in places
    ]
    packed = zlib.compress(orjson.dumps(rows), 1)
    return VERSION + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_token(token: str, most: int) -> list[Place]:
    """Raises InvalidInput unless it is a token of ours with at most ``most`` subscriptions."""
    wrong = InvalidInput("is not a resume token", {"field": "token"})
    if not token.startswith(VERSION):
        raise wrong
    try:
        packed = _decode(token.removeprefix(VERSION))
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, MOST_BYTES)
        if not unpacker.eof:
            raise wrong
        rows = orjson.loads(data)
        if not isinstance(rows, list) or len(rows) > most:
            raise wrong
        return [_place(row) for row in rows]
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise wrong from error


def _place(row: Any) -> Place:
    id, topic, after, types, steps = row
    texts = [id, topic, after, *types, *steps]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not text")
    return Place(id, topic, Cursor.parse(after), Filter.of(types, steps))


class Composite:
    """Cursors of these topics in this order; those of others are refused."""

    def __init__(self, topics: Sequence[str]) -> None:
        self._count = len(topics)
        self._digest = hashlib.sha256("\n".join(topics).encode()).digest()[:_DIGEST]

    def write(self, places: Iterable[Cursor]) -> str:
        text = self._digest + ",".join(map(str, places)).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    def read(self, value: str) -> list[Cursor]:
        """Raises InvalidInput unless it was written for these topics in this order."""
        wrong = InvalidInput(
            "is not a cursor of these topics in this order", {"field": "header.Last-Event-ID"}
        )
        try:
            text = _decode(value)
            places = [Cursor.parse(part) for part in text[_DIGEST:].decode("ascii").split(",")]
        except (binascii.Error, ValueError) as error:
            raise wrong from error
        if text[:_DIGEST] != self._digest or len(places) != self._count:
            raise wrong
        return places


def _decode(text: str) -> bytes:
    padding = "=" * (-len(text) % 4)
    return base64.b64decode((text + padding).encode("ascii"), altchars=b"-_", validate=True)
