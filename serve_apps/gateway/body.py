"""Request bodies: read within a limit, checked before anything trusts them, then validated."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.types import Message, Receive

from mesh.core.errors import BodyTooLarge, Cancelled, MalformedBody, UnsupportedMedia
from serve_apps.gateway.answers import from_validation

M = TypeVar("M", bound=BaseModel)

DISCARD_BYTES = 16_777_216
DISCARD_S = 3.0
"""How much of a refused body is read for politeness' sake, and for how long."""

FORM = "application/x-www-form-urlencoded"
NDJSON = "application/x-ndjson"


def check_media(content_type: bytes | None, wanted: str) -> None:
    """Raises UnsupportedMedia unless the header names ``wanted`` (in UTF-8, if in anything)."""
    main, _, parameters = (content_type or b"").decode("latin-1").lower().partition(";")
    if main.strip() != wanted:
        raise UnsupportedMedia(
            f"Send the body as {wanted}", {"field": "header.Content-Type", "accepted": [wanted]}
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise UnsupportedMedia(
                "Send the body in UTF-8", {"field": "header.Content-Type", "accepted": ["utf-8"]}
            )


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {limit} bytes", {"field": "body", "limit_bytes": limit}
    )


async def read_body(receive: Receive, declared: bytes | None, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known, having held at most ``limit``
    bytes; Cancelled when the client leaves meanwhile."""
    if declared is not None:
        if not declared.isdigit():
            raise MalformedBody("Content-Length is no number", {"field": "header.Content-Length"})
        if len(declared) > 18 or int(declared) > limit:
            raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("The client left while sending its body")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit)
        if part:
            parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def discard(receive: Receive) -> bool:
    """Read what the client still sends and throw it away, within bounds; False: more is to come.

    A client that finds its connection closed while it sends often never reads the answer.
    """
    size = 0
    try:
        async with asyncio.timeout(DISCARD_S):
            while size < DISCARD_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return True
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


class Replay:
    """A ``receive`` that gives a body that was read already, then what the client does next."""

    __slots__ = ("_body", "_receive")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def parse_json(body: bytes, max_depth: int) -> Any:
    """Raises MalformedBody: not UTF-8, not JSON (NaN is none), nested too deep, a NUL in a text."""
    if not body:
        raise MalformedBody("The body is empty; send JSON", {"field": "body"})
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(
            f"The body is not JSON: {error.msg} at byte {error.pos}"[:300], {"field": "body"}
        ) from None
    # Both walks are paid only by bodies that could offend.
    if body.count(b"[") + body.count(b"{") > max_depth or b"\\u0000" in body:
        _walk(data, max_depth)
    return data


def _walk(data: Any, max_depth: int) -> None:
    stack: list[tuple[Any, int, str]] = [(data, 1, "")]
    while stack:
        value, depth, where = stack.pop()
        if isinstance(value, str):
            if "\x00" in value:
                raise MalformedBody(
                    "A text holds a NUL byte", {"field": where[:200].lstrip(".") or "body"}
                )
        elif isinstance(value, dict | list):
            if depth > max_depth:
                raise MalformedBody(
                    f"The body is nested deeper than {max_depth}", {"field": "body"}
                )
            if isinstance(value, list):
                stack.extend((v, depth + 1, f"{where}.{i}"[:200]) for i, v in enumerate(value))
            else:
                stack.extend((k, depth, where) for k in value)
                stack.extend((v, depth + 1, f"{where}.{k}"[:200]) for k, v in value.items())


def parse_body(model: type[M], body: bytes, max_depth: int) -> M:
    """The body as ``model``; types are not converted (``"5"`` is no number). Raises
    MalformedBody, and InvalidInput that names the fields."""
    data = parse_json(body, max_depth)
    if not isinstance(data, dict):
        raise MalformedBody("The body must be a JSON object", {"field": "body"})
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise from_validation(error, data) from None
