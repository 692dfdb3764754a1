"""A remote server's refusals, as ours.

Its 401 or 403 is our configuration's fault, not the caller's: the caller learns only that the
engine failed.
"""

from __future__ import annotations

from typing import Any

import orjson

from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    MailyError,
    Overloaded,
    RateLimited,
    Unavailable,
    UnknownModel,
)
from mesh.llm.llamacpp_errors import field_in


def from_response(status: int, content: bytes) -> MailyError:
    """From a status and a body that may be OpenAI's error shape or anything else."""
    error = _error(content)
    message = str(error.get("message") or f"it answered {status}")[:500]
    details: dict[str, Any] = {"field": error.get("param") or field_in(message)}
    for name, key in (("n_prompt_tokens", "prompt_tokens"), ("n_ctx", "context_tokens")):
        if isinstance(error.get(name), int):
            details[key] = error[name]
    if "context" in message and "token" in message and details["field"] == "body":
        details["field"] = "messages"
    match status:
        case 401 | 403:
            return EngineError("the remote engine refuses our key: check `llm.remote_api_key`")
        case 404:
            return UnknownModel(message, {"field": "model"})
        case 408 | 504:
            return DeadlineExceeded(message)
        case 429:
            return RateLimited(message, retry_after_s=5.0)
        case 503:
            return Overloaded(message, retry_after_s=5.0)
        case 502:
            return Unavailable(message, retry_after_s=5.0)
    if 400 <= status < 500:
        return InvalidInput(message, details)
    return EngineError(f"the remote engine failed: {message}")


def in_stream(chunk: dict[str, Any]) -> MailyError:
    """From an error object that comes in the middle of a stream."""
    error = chunk.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return from_response(code if isinstance(code, int) else 500, orjson.dumps(chunk))


def _error(content: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}
