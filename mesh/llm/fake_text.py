"""What the fake engine says: words, JSON, tool calls, vectors, made from the request alone."""

from __future__ import annotations

import hashlib
import json
import math
import re

from mesh.llm.engine import Wire
from mesh.llm.fake_schema import instance_of

_WORDS = tuple(
    re.findall(
        r"\w+",
        "our spring sale opens today with fresh colours soft leather and honest prices you will "
        "find boots sandals and sneakers made to last come in look around and take your time",
    )
)


def fake_embedding(text: str, dimensions: int) -> list[float]:
    """Unit length, the same for the same text."""
    values = [
        int.from_bytes(hashlib.sha256(f"{i}:{text}".encode()).digest()[:4]) / 2**31 - 1
        for i in range(dimensions)
    ]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]


class Shape:
    """OpenAI's chunk objects for one stream."""

    def __init__(self, body: Wire, chat: bool, model: str) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{digest(body)[:24]}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1_700_000_000,
            "model": model,
        }

    def chunk(self, *, delta: Wire, text: str = "", finish: str | None = None) -> Wire:
        choice: Wire = {"index": 0, "finish_reason": finish}
        choice |= {"delta": delta} if self._chat else {"text": text, "logprobs": None}
        return self._head | {"choices": [choice]}

    def usage(self, *, prompt: int, completion: int) -> Wire:
        return self._head | {
            "choices": [],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }


def split_prefix(body: Wire) -> tuple[Wire, str]:
    """The request as it was, and the beginning of its answer that came with it (of an answer
    that broke off elsewhere); empty: none."""
    messages = body.get("messages")
    if messages:
        last = messages[-1]
        if last.get("role") == "assistant" and isinstance(last.get("content"), str):
            return body | {"messages": messages[:-1]}, last["content"]
        return body, ""
    length = int(body.get("prefix_chars") or 0)
    prompt = body.get("prompt")
    if length and isinstance(prompt, str):
        return body | {"prompt": prompt[:-length]}, prompt[-length:]
    return body, ""


def tokens_of(text: str) -> list[str]:
    """Words with the blank before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def made_up(body: Wire) -> str:
    """Words or JSON that depend on the request and its seed alone."""
    seed = int(digest(body)[:8], 16)
    format_ = body.get("response_format") or {}
    if format_.get("type") == "json_schema":
        return json.dumps(instance_of(format_["json_schema"]["schema"], seed))
    if format_.get("type") == "json_object":
        return json.dumps({"text": _WORDS[seed % len(_WORDS)]})
    if _wanted_tool(body):
        return ""
    return " ".join(_WORDS[(seed + i * 7) % len(_WORDS)] for i in range(12)) + "."


def _wanted_tool(body: Wire) -> Wire | None:
    choice = body.get("tool_choice")
    tools: list[Wire] = body.get("tools") or []
    if isinstance(choice, dict):
        return next((t for t in tools if t["function"]["name"] == choice["function"]["name"]), None)
    return tools[0] if choice == "required" and tools else None


def tool_call(body: Wire, text: str) -> Wire | None:
    tool = _wanted_tool(body)
    if tool is None:
        return None
    function = tool["function"]
    arguments = instance_of(function.get("parameters") or {"type": "object"}, len(text))
    return {
        "index": 0,
        "id": f"call_{digest(body)[:16]}",
        "type": "function",
        "function": {"name": function["name"], "arguments": json.dumps(arguments)},
    }


def prompt_tokens(body: Wire) -> int:
    said = body.get("messages") or body.get("prompt") or ""
    return len(json.dumps(said).split())


def digest(body: Wire) -> str:
    """Of what decides the answer."""
    kept = {k: body.get(k) for k in ("messages", "prompt", "seed", "response_format", "tools")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
