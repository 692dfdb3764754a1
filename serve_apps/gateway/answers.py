"""Answers and errors as bytes: one JSON encoder, one error shape, nothing secret in either."""

from __future__ import annotations

import math
from typing import Any, Literal

import orjson
from starlette.responses import JSONResponse

from mesh.contracts.problems import from_validation, invalid, invalid_field
from mesh.core.errors import MailyError

__all__ = [
    "JSON",
    "Flavour",
    "Json",
    "dumps",
    "error_body",
    "error_headers",
    "from_validation",
    "invalid",
    "invalid_field",
]

JSON = "application/json"
SOON_S = 60.0
"""A refusal that lasts longer is not worth repeating by a client that waits for it."""

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
    "budget_exceeded": "insufficient_quota",
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
    elif error.status in (429, 503) and error.retryable:
        headers["retry-after"] = "1"
    if error.status == 429 and not error.retryable and (error.retry_after_s or 1e9) > SOON_S:
        headers["x-should-retry"] = "false"  # OpenAI's clients repeat a 429 unless they are told
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="maily"'
    return headers
