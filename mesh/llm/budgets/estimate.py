"""How much a call may use at most, from its body alone.

A token of a byte-level vocabulary covers at least one byte of text, so the bytes of a prompt are
a bound that holds for every model, and what a chat template writes around a message has one too.
The bound is wide (English has about four bytes to a token), but only for as long as the call
runs: what was not used is free again at its end. ``bytes_per_token`` above 1 reserves less, and a
prompt may then use more than was reserved for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson

MESSAGE_TOKENS = 16
"""What templates write around a message."""
TEMPLATE_TOKENS = 64
"""… and around all of them: a default system prompt, the answer's head."""


def prompt_most(body: dict[str, Any], bytes_per_token: float = 1.0) -> int:
    """Tokens that the prompt of a chat or completion body has at most."""
    size, around = 0, TEMPLATE_TOKENS
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        size += _bytes(prompt)
    for message in body.get("messages") or ():
        around += MESSAGE_TOKENS
        content = message.get("content")
        if isinstance(content, str):
            size += _bytes(content)
        elif content:
            size += sum(_bytes(part.get("text") or "") for part in content)
        if calls := message.get("tool_calls"):
            size += len(orjson.dumps(calls))
    if tools := body.get("tools"):
        size += len(orjson.dumps(tools))
    # Some engines show the schema to the model.
    if schema := body.get("response_format"):
        size += len(orjson.dumps(schema))
    return math.ceil(size / bytes_per_token) + around


def texts_most(texts: Sequence[str], bytes_per_token: float = 1.0) -> int:
    """Tokens that an embedding of these texts reads at most; each has two marks of its own."""
    return math.ceil(sum(map(_bytes, texts)) / bytes_per_token) + 2 * len(texts)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
