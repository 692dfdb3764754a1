"""What of an answer has gone out: kept as bytes, read only when the answer breaks off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mesh.llm.engine import Wire
from mesh.llm.routing.target import chunks_of

_FINISH = b'"finish_reason":"'
_NAMES = ("content", "reasoning_content")


@dataclass(slots=True)
class Emitted:
    """The text of a journal, by where it belongs."""

    id: str = ""
    created: int = 0
    role: bool = False
    """Whether the chunk that names the role went out."""
    finished: bool = False
    pieces: dict[str, str] = field(default_factory=dict)
    """``content`` (or a completion's text), ``reasoning_content``, ``tool.0.name`` …"""
    tokens: int = 0
    """Chunks with something in them: engines send one per token."""

    def only_content(self) -> bool:
        return set(self.pieces) <= {"content"}


class Journal:
    """Frames of one answer, in order."""

    __slots__ = ("_frames", "_limit", "_size", "append")

    def __init__(self, limit_bytes: int) -> None:
        self._frames: list[bytes] = []
        self._limit = limit_bytes
        self.append = self._frames.append
        """Straight to the list: this is all that a burst costs."""

    def __bool__(self) -> bool:
        return bool(self._frames)

    def finished(self) -> bool:
        """Whether a finish reason went out. Inside a JSON string the quotes would be escaped, so
        text can't be mistaken for the field."""
        return any(_FINISH in frame for frame in self._frames[-3:])

    def overlong(self) -> bool:
        return sum(map(len, self._frames)) > self._limit

    def tail(self) -> list[Wire]:
        """The chunks of the last frames: where finish reason and usage are."""
        return [chunk for frame in self._frames[-2:] for chunk in chunks_of(frame)]

    def summary(self) -> Wire:
        """Model, usage and finish reason, as far as they went out."""
        said: Wire = {}
        for chunk in self.tail():
            said["model"] = chunk.get("model")
            said["usage"] = chunk.get("usage") or said.get("usage")
            for choice in chunk.get("choices") or ():
                said["finish_reason"] = choice.get("finish_reason") or said.get("finish_reason")
        return said

    def read(self) -> Emitted:
        """Everything, parsed."""
        emitted = Emitted()
        for frame in self._frames:
            for chunk in chunks_of(frame):
                emitted.id = emitted.id or str(chunk.get("id") or "")
                emitted.created = emitted.created or int(chunk.get("created") or 0)
                for choice in chunk.get("choices") or ():
                    said = pieces(choice)
                    delta = choice.get("delta") or {}
                    emitted.role = emitted.role or "role" in delta
                    emitted.finished = emitted.finished or choice.get("finish_reason") is not None
                    emitted.tokens += bool(said)
                    for name, text in said:
                        emitted.pieces[name] = emitted.pieces.get(name, "") + text
        return emitted


def begins(frames: bytes) -> bool:
    """Whether there is more in them than the name of the role."""
    return any(
        not chunk.get("choices")
        or any(pieces(c) or c.get("finish_reason") is not None for c in chunk["choices"])
        for chunk in chunks_of(frames)
    )


def pieces(choice: Wire) -> list[tuple[str, str]]:
    """The texts that one choice of a chunk adds, each with where it belongs."""
    if "delta" not in choice:
        text = choice.get("text")
        return [("content", text)] if text else []
    delta: dict[str, Any] = choice["delta"] or {}
    said = [(name, delta[name]) for name in _NAMES if delta.get(name)]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        at = f"tool.{call.get('index') or 0}"
        said += [(f"{at}.{n}", function[n]) for n in ("name", "arguments") if function.get(n)]
    return said
