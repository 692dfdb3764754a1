"""End a stream once, whoever gets there first.

A log takes no event after a terminal one, so of several parties that append one, one succeeds.
The rest here is to tell "another has ended it" from "another writer took the next place".
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from mesh.contracts.events import Event, EventType
from mesh.core.errors import Fenced
from mesh.streams.log import StreamWriter

_TRIES = 16
"""A former worker that still streams tokens may take the place so often before we give up."""


class Sealable(Protocol):
    def writer(
        self, stream: str, attempt: int, *, workspace: UUID | None = None
    ) -> StreamWriter: ...

    async def last(self, stream: str) -> Event | None: ...


async def seal(
    log: Sealable,
    stream: str,
    attempt: int,
    type: EventType,
    data: dict[str, Any],
    workspace: UUID | None = None,
) -> Event | None:
    """See ``StreamLog.seal``, which every log implements with this."""
    if not type.terminal:
        raise ValueError(f"{type} does not end a stream")
    for _ in range(_TRIES):
        writer = log.writer(stream, attempt, workspace=workspace)
        try:
            return await writer.append(type, data)
        except Fenced:
            last = await log.last(stream)
            if last is not None and last.type.terminal:
                return None
            if last is not None and last.attempt > attempt:
                raise
        finally:
            await writer.aclose()
    raise Fenced("Another writer of the same attempt does not stop.", {"stream": stream})
