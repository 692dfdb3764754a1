"""Put a stream's chunks together to the object that a unary call answers."""

from __future__ import annotations

from typing import Any

from mesh.core.errors import EngineError
from mesh.llm.engine import Wire

_HEAD = ("id", "created", "model", "system_fingerprint")


def assemble_chat(chunks: list[Wire]) -> Wire:
    """``chat.completion.chunk`` objects → one ``chat.completion``. Raises EngineError when the
    stream ended without a finish reason: an answer cut short must not look whole."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    content: list[str] = []
    reasoning: list[str] = []
    logprobs: list[Any] = []
    finish: str | None = None
    for choice in _choices(chunks):
        delta = choice.get("delta") or {}
        if delta.get("content"):
            content.append(delta["content"])
        if delta.get("reasoning_content"):
            reasoning.append(delta["reasoning_content"])
        for call in delta.get("tool_calls") or ():
            _merge_call(calls, call)
        logprobs.extend((choice.get("logprobs") or {}).get("content") or ())
        finish = choice.get("finish_reason") or finish
    if content or not calls:
        message["content"] = "".join(content)
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return _whole(
        chunks,
        "chat.completion",
        {
            "index": 0,
            "message": message,
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": finish,
        },
    )


def assemble_completion(chunks: list[Wire]) -> Wire:
    """``text_completion`` chunks → one ``text_completion``."""
    text: list[str] = []
    logprobs: list[Any] = []
    finish: str | None = None
    for choice in _choices(chunks):
        text.append(choice.get("text") or "")
        logprobs.extend((choice.get("logprobs") or {}).get("content") or ())
        finish = choice.get("finish_reason") or finish
    return _whole(
        chunks,
        "text_completion",
        {
            "index": 0,
            "text": "".join(text),
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": finish,
        },
    )


def _choices(chunks: list[Wire]) -> list[dict[str, Any]]:
    return [choice for chunk in chunks for choice in chunk.get("choices") or ()]


def _merge_call(calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    call = calls.setdefault(
        int(delta.get("index") or 0),
        {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
    )
    call["id"] = delta.get("id") or call["id"]
    function = delta.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def _whole(chunks: list[Wire], kind: str, choice: dict[str, Any]) -> Wire:
    if choice["finish_reason"] is None:
        raise EngineError("the engine's answer ended before it was whole")
    whole: Wire = {"object": kind, "choices": [choice]}
    whole.update({key: chunks[0][key] for key in _HEAD if key in chunks[0]})
    for chunk in reversed(chunks):
        if chunk.get("usage"):
            whole["usage"] = chunk["usage"]
            break
    return whole
