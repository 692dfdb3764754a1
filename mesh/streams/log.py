"""The stream log's seam: an append-only log that a writer never waits on a reader for.

Two implementations share one conformance suite: ``valkey.ValkeyStreamLog`` and
``memory.MemoryStreamLog`` (shipped, for tests on a laptop).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from mesh.contracts.events import Cursor, Event, EventType

START = Cursor()
"""Before the first event of any stream."""


class StreamWriter(Protocol):
    """The one writer of a stream under one attempt (the epoch of its lease)."""

    async def append(self, type: EventType, data: dict[str, Any]) -> Event:
        """Append and return once it is acknowledged. Flushes coalesced tokens first.

        Raises Fenced when a later attempt has written or a terminal event stands in the stream
        (so there is never more than one), Unavailable when the log stays away: then it is unknown
        whether this event was written. Raises InvalidInput for data that is not JSON or too large.
        """
        ...

    async def token(self, step: str, text: str) -> None:
        """Add streamed text. The first of a step goes out at once, later ones coalesce
        (10 to 20 ms or 64 pieces); bounded, and errors surface at the next ``append``
        (Fenced here too, so that a model stops writing for nobody)."""
        ...

    async def aclose(self) -> None:
        """Flush and stop."""
        ...


class StreamLog(Protocol):
    def writer(self, stream: str, attempt: int) -> StreamWriter:
        """A writer whose events are (attempt, 1), (attempt, 2), … A restarted writer of the
        same attempt goes on after the last event that it finds."""
        ...

    def read(
        self, stream: str, after: Cursor = START, *, heartbeat_s: float = 15.0
    ) -> AsyncIterator[Event | None]:
        """Every event after the cursor, then live ones; ``None`` is a heartbeat.

        Ends after a terminal event. Raises NotFound when the stream has expired or never was
        (the caller then asks the database how the task ended).
        """
        ...

    async def last(self, stream: str) -> Event | None:
        """The newest event, or None."""
        ...

    async def seal(
        self, stream: str, attempt: int, type: EventType, data: dict[str, Any]
    ) -> Event | None:
        """Append a terminal event unless the stream has one already; None: it had.

        Atomic against every writer and every other ``seal``: of several parties that want to end
        a stream (its worker, the gateway, the coordinator's sweep) one wins. The event is
        (attempt, last sequence of that attempt + 1); a writer that comes later is Fenced. Works
        on a stream that does not exist. Raises ValueError unless ``type`` is terminal, Fenced
        when a later attempt has written, Unavailable when the log stays away.
        """
        ...

    def statistics(self) -> dict[str, int | float]: ...

    async def aclose(self) -> None: ...
