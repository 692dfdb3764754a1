"""llama.cpp's errors, translated: what the caller did wrong is InvalidInput and names the field."""

from __future__ import annotations

import re
from typing import Any

import orjson

from mesh.core.errors import EngineError, InvalidInput, MailyError, Overloaded

_FIELD = re.compile(r"[Ff]ield '([a-z_]{1,40})'")
_SCHEMA = ("json schema", "json_schema", "grammar", "generate parser")
_TEMPLATE = ("template", "tool", "messages", "role")


def from_chunk(chunk: bytes, *, chat: bool) -> MailyError:
    """From ``{"error": {"code", "message", "type"}}``."""
    try:
        error: dict[str, Any] = orjson.loads(chunk)["error"]
        code, message, kind = int(error["code"]), str(error["message"]), str(error.get("type"))
    except (ValueError, KeyError, TypeError):
        return EngineError("llama.cpp failed and said nothing readable")
    if kind == "exceed_context_size_error":
        return InvalidInput(
            f"the prompt has {error.get('n_prompt_tokens')} tokens; this model reads at most "
            f"{error.get('n_ctx')}, the answer included",
            {
                "field": "messages" if chat else "prompt",
                "prompt_tokens": error.get("n_prompt_tokens"),
                "context_tokens": error.get("n_ctx"),
            },
        )
    if code == 503:
        return Overloaded(message[:500], retry_after_s=1.0)
    if 400 <= code < 500:
        return InvalidInput(message[:500], {"field": field_in(message)})
    return EngineError(f"llama.cpp failed: {message[:500]}")


def from_exception(exc: BaseException) -> MailyError:
    """llama.cpp throws while it reads a request (a schema that it can't compile, a template that
    refuses the roles); whatever else it throws is its own failure."""
    message = str(exc)
    lowered = message.lower()
    if any(word in lowered for word in _SCHEMA):
        return InvalidInput(
            f"the engine can't compile this JSON schema: {message[-300:]}",
            {"field": "response_format"},
        )
    if isinstance(exc, ValueError) or any(word in lowered for word in _TEMPLATE):
        return InvalidInput(message[:500], {"field": field_in(message)})
    return EngineError(f"llama.cpp failed: {message[:500]}")


def field_in(message: str) -> str:
    """The request's field that a message names, else ``body``."""
    if any(word in message.lower() for word in _SCHEMA):
        return "response_format"
    match = _FIELD.search(message)
    return match[1] if match else "body"
