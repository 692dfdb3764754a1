"""llama.cpp's chunks on their way to the caller."""

from __future__ import annotations

from typing import Any

import orjson

from mesh.llm.llamacpp_errors import from_chunk
from mesh.llm.reading import UNKNOWN
from mesh.llm.run import PROGRESS

_TIMINGS = b'"timings":'
_ROLE = b'"role":'
_ERROR = b'{"error":'


class Cleaner:
    """Takes out of a stream what is llama.cpp's own: progress, timings, errors as chunks.

    Only the first chunks and the last are parsed; a quoted name in a model's text can't be
    mistaken for a field, because inside a JSON string its quotes are escaped.
    """

    def __init__(self, chat: bool) -> None:
        self.unread = UNKNOWN
        """Tokens of the prompt that llama.cpp has not read yet, as it last said."""
        self._chat = chat
        self._in_prompt = True
        self._role: bytes | None = None
        """llama.cpp puts the role into its first progress report."""

    def __call__(self, burst: list[bytes]) -> list[bytes]:
        """Raises the error that the burst holds."""
        out: list[bytes] = []
        for chunk in burst:
            if chunk.startswith(_ERROR):
                raise from_chunk(chunk, chat=self._chat)
            if self._in_prompt:
                if PROGRESS in chunk:
                    self._role = self._role or chunk
                    progress = orjson.loads(chunk)["prompt_progress"]
                    self.unread = progress["total"] - progress["processed"]
                    continue
                self._in_prompt = False
                self.unread = 0
                if self._chat and self._role is not None and _ROLE not in chunk:
                    out.append(_without(self._role, "prompt_progress"))
            out.append(_without(chunk, "timings") if _TIMINGS in chunk else chunk)
        return out


def _without(chunk: bytes, name: str) -> bytes:
    wire: dict[str, Any] = orjson.loads(chunk)
    wire.pop(name, None)
    return orjson.dumps(wire)
