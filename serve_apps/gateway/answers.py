"""Answers and errors as bytes: one JSON encoder, one error shape, nothing secret in either."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import orjson
from pydantic import ValidationError
from starlette.responses import JSONResponse

from mesh.core.errors import InvalidInput, MailyError

JSON = "application/json"
MAX_ERRORS = 20
_MAX_MESSAGE = 300

Flavour = Literal["plain", "openai", "oauth"]
"""Whose clients read a route's errors: OpenAI's and OAuth's look for fields of their own."""

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_OPENAI_CODES = {
    "unknown_model": "model_not_found",
    "unauthenticated": "invalid_api_key",
    "rate_limited": "rate_limit_exceeded",
}


def dumps(value: Any) -> bytes:
    """Deterministic: the same value is always the same bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


class Json(JSONResponse):
    """A JSON answer, rendered by orjson in the order of its fields."""

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content)


def error_body(error: MailyError, trace_id: str, flavour: Flavour = "plain") -> dict[str, Any]:
    """``{"code","message","details","traceId"}``, and what else the route's clients look for."""
    body = error.as_body(trace_id)
    if flavour == "openai":
        body["error"] = {
            "message": error.message,
            "type": _OPENAI_TYPES.get(
                error.status, "server_error" if error.status >= 500 else "invalid_request_error"
            ),
            "param": error.details.get("field"),
            "code": _OPENAI_CODES.get(error.code, error.code),
        }
    elif flavour == "oauth":
        body["error"] = _oauth_code(error)
        body["error_description"] = error.message
    return body


def _oauth_code(error: MailyError) -> str:
    """RFC 6749 §5.2."""
    field = str(error.details.get("field", ""))
    if error.status == 401:
        return "invalid_client"
    if error.status == 403 or field.startswith("scope"):
        return "invalid_scope"
    if field == "grant_type" and "required" not in error.message.lower():
        return "unsupported_grant_type"
    if error.status in (429, 503, 504):
        return "temporarily_unavailable"
    return "server_error" if error.status >= 500 else "invalid_request"


def error_headers(error: MailyError) -> dict[str, str]:
    """Retry-After where the error knows when to come back; at least one second."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    elif error.status in (429, 503):
        headers["retry-after"] = "1"
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="maily"'
    return headers


def invalid(errors: Iterable[Mapping[str, Any]], data: Any = None) -> InvalidInput:
    """An InvalidInput that names each wrong field, from pydantic's errors.

    Never echoes what the caller sent. ``data``: the parsed body, to tell the fields of the body
    from the names that pydantic gives to the arms of a union.
    """
    named: dict[str, str] = {}
    for error in errors:
        field = _field(tuple(error.get("loc", ())), data, str(error.get("type", "")))
        text = str(error.get("msg", "is wrong")).removeprefix("Value error, ")
        named.setdefault(field or "body", text[:_MAX_MESSAGE])
        if len(named) >= MAX_ERRORS:
            break
    first, text = next(iter(named.items()), ("body", "is wrong"))
    return InvalidInput(
        f"{first}: {text}",
        {
            "field": first,
            "errors": [{"field": name, "message": text} for name, text in named.items()],
        },
    )


def invalid_field(field: str, message: str) -> InvalidInput:
    """One wrong field, in the same shape."""
    return invalid([{"loc": (field,), "msg": message}])


def from_validation(error: ValidationError, data: Any) -> InvalidInput:
    """Pydantic's error as ours."""
    return invalid(
        (
            dict(item)
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        ),
        data,
    )


def _field(loc: tuple[Any, ...], data: Any, kind: str) -> str:
    """``messages.0.content`` of pydantic's location; without ``data`` taken as it stands."""
    if data is None:
        return ".".join(str(part) for part in loc)
    kept: list[str] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        inside = (
            part in data
            if isinstance(data, dict)
            else isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data = data[part]
        elif not (last and kind == "missing"):
            continue  # the name of a union's arm or of a validator
        kept.append(str(part)[:100])
    return ".".join(kept)
