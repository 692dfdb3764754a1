"""Events encoded once per process, however many readers they go to."""

from __future__ import annotations

import orjson

from mesh.contracts.events import Event

_Key = tuple[str, str, int, int, int]


class Frames:
    """Encoded events, the oldest of them forgotten beyond ``limit_bytes``.

    A frame is a function of the event alone, so what is forgotten is only made again.
    """

    def __init__(self, limit_bytes: int = 16_777_216) -> None:
        self._limit = limit_bytes
        self._kept: dict[_Key, bytes] = {}
        self._texts: dict[_Key, str] = {}
        self._bytes = 0
        self.made = 0

    def body(self, event: Event) -> bytes:
        """The event as JSON."""
        return self._kept.get(_key("b", event)) or self._keep(
            _key("b", event), orjson.dumps(event.model_dump(mode="json"))
        )

    def sse(self, event: Event) -> bytes:
        """A whole server-sent event; its id is the cursor."""
        key = _key("s", event)
        return self._kept.get(key) or self._keep(
            key,
            b"id: %s\nevent: %s\ndata: %s\n\n"
            % (str(event.cursor).encode(), event.type.value.encode(), self.body(event)),
        )

    def wire(self, event: Event, run: int = 1) -> str:
        """The event as JSON that names its cursor too. ``run``: of how many it was merged."""
        key = ("w", event.stream, event.attempt, event.sequence, run)
        text = self._texts.get(key)
        if text is None:
            body = orjson.dumps(event.model_dump(mode="json")) if run > 1 else self.body(event)
            text = f'{{"cursor":"{event.cursor}",{body[1:].decode()}'
            self._texts[key] = text
            self.made += 1
            self._bytes += len(text)
            self._shrink()
        return text

    def statistics(self) -> dict[str, int | float]:
        return {
            "frames": len(self._kept) + len(self._texts),
            "bytes": self._bytes,
            "made": self.made,
        }

    def _keep(self, key: _Key, frame: bytes) -> bytes:
        self._kept[key] = frame
        self.made += 1
        self._bytes += len(frame)
        self._shrink()
        return frame

    def _shrink(self) -> None:
        while self._bytes > self._limit and (self._kept or self._texts):
            if self._kept:
                self._bytes -= len(self._kept.pop(next(iter(self._kept))))
            if self._texts:
                self._bytes -= len(self._texts.pop(next(iter(self._texts))))


def _key(kind: str, event: Event) -> _Key:
    return (kind, event.stream, event.attempt, event.sequence, 1)
