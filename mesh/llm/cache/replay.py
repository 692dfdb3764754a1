"""A kept answer as it is given again: whole, or as the stream that the caller asked for."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from mesh.llm.engine import Wire

_PIECE = re.compile(r"\S*\s*", re.DOTALL)
PIECE_WORDS = 8
"""Words to a chunk."""


def again(answer: Wire) -> Wire:
    """The answer with an id and a time of its own; its usage says that nothing was used anew."""
    fresh = dict(answer)
    fresh["id"] = f"{str(answer.get('id', 'cache')).partition('-')[0]}-{uuid.uuid4().hex}"
    fresh["created"] = int(time.time())
    if usage := answer.get("usage"):
        fresh["usage"] = usage | {"cached": True}
    return fresh


def chunks(answer: Wire, *, usage: bool) -> list[Wire]:
    """The stream of ``answer``; with its usage at the end where that was asked for."""
    choice: dict[str, Any] = answer["choices"][0]
    chat = "message" in choice
    head: Wire = {key: answer[key] for key in ("id", "created", "model") if key in answer}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    text: str = choice["message"]["content"] if chat else choice["text"]

    def chunk(delta: Wire, part: str, finish: str | None) -> Wire:
        one: Wire = {"index": 0, "finish_reason": finish}
        one |= {"delta": delta} if chat else {"text": part, "logprobs": None}
        return head | {"choices": [one]}

    made = [chunk({"role": "assistant", "content": None}, "", None)] if chat else []
    words = _PIECE.findall(text)
    parts = ("".join(words[at : at + PIECE_WORDS]) for at in range(0, len(words), PIECE_WORDS))
    made += [chunk({"content": part}, part, None) for part in parts if part]
    made.append(chunk({}, "", "stop"))
    if usage and answer.get("usage"):
        made.append(head | {"choices": [], "usage": answer["usage"]})
    return made
