"""Answers that a reader may keep: an ETag, how long, and 304 when it has the same already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serve_apps.gateway.documented import IF_NONE_MATCH

ASK_AGAIN = "no-cache"
"""Kept, and asked for each time: what changes, if seldom."""
OWN_COPY = "private, max-age=3600, immutable"
"""Never changes, but may be forgotten: no cache that others share keeps it."""
A_DAY = "public, max-age=86400"
"""A function of the address alone."""

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The reader's copy is the newest"}
}
PARAMETERS: dict[str, Any] = {"parameters": [IF_NONE_MATCH]}


def cached(
    request: Request,
    body: bytes,
    media: str,
    keep: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    told = {"etag": etag, "cache-control": keep, **(headers or {})}
    if has(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=told)
    return Response(body, media_type=media, headers=told)


def has(header: str | None, etag: str) -> bool:
    """RFC 9110 §13.1.2, by weak comparison."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def kept(text: str, media: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document."""
    schema = (
        {"type": "string"} if media.startswith("text/") else {"type": "string", "format": "binary"}
    )
    return {200: {"description": text, "content": {media: {"schema": schema}}}, **NOT_MODIFIED}
