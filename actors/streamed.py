"""What the stream log has of a step's words: a new attempt of ``generate`` goes on with them.

The caller has appended under its own attempt first, so an earlier attempt's writer is fenced and
what is read here is final.
"""

from __future__ import annotations

from contextlib import aclosing
from uuid import UUID

from mesh.agents.services import Streamed
from mesh.contracts.events import EventType
from mesh.core.errors import NotFound
from mesh.streams.log import StreamLog


def streamed(log: StreamLog) -> Streamed:
    """A reader over this log."""

    async def read(task_id: UUID, step: str) -> str | None:
        stream = str(task_id)
        last = await log.last(stream)
        if last is None:
            return None
        text: list[str] | None = None
        try:
            async with aclosing(log.read(stream)) as events:  # type: ignore[type-var]
                async for event in events:
                    if event is None:
                        break
                    if event.data.get("step") == step:
                        if event.type in (EventType.STEP_STARTED, EventType.STEP_RETRIED):
                            text = []
                        elif event.type is EventType.TOKENS and text is not None:
                            text.append(str(event.data.get("text", "")))
                    if event.cursor >= last.cursor:
                        break
        except NotFound:
            return None
        # Without its beginning (the log keeps the newest events) the words are not whole.
        return None if text is None else "".join(text)

    return read
