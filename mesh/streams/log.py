"""The stream log's seam: an append-only log that a writer never waits on a reader for.

Two implementations share one conformance suite: ``valkey.ValkeyStreamLog`` and
``memory.MemoryStreamLog`` (shipped, for tests on a laptop).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

from mesh.contracts.events import Cursor, Event, EventType
from mesh.streams.follow import Follower

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
    def writer(self, stream: str, attempt: int, *, workspace: UUID | None = None) -> StreamWriter:
        """A writer whose events are (attempt, 1), (attempt, 2), … A restarted writer of the
        same attempt goes on after the last event that it finds.

        ``workspace``: whose stream of all tasks is told of the lifecycle events too, each
        exactly once and in the same commit.
        """
        ...

    async def publish(
        self, streams: Sequence[str], type: EventType, data: dict[str, Any], *, key: str
    ) -> Event:
        """Append to shared streams (``names.endless``), all or none; gives the first's event.

        Anybody may, any number at once: the log numbers the events. A repeat with the same
        ``key`` within ten minutes appends nothing and gives the first one's place. Raises
        Unavailable (then it is unknown whether it was appended: repeat it), InvalidInput.
        """
        ...

    def read(
        self, stream: str, after: Cursor = START, *, heartbeat_s: float = 15.0
    ) -> AsyncIterator[Event | None]:
        """Every event after the cursor, then live ones; ``None`` is a heartbeat.

        Ends after a terminal event. Raises NotFound when the stream has expired or never was
        (the caller then asks the database how the task ended).
        """
        ...

    def follow(self, stream: str, after: Cursor, wake: Callable[[], None]) -> Follower:
        """A reader that a caller steps by itself, many of them in one task."""
        ...

    async def last(self, stream: str) -> Event | None:
        """The newest event, or None."""
        ...

    async def seal(
        self,
        stream: str,
        attempt: int,
        type: EventType,
        data: dict[str, Any],
        *,
        workspace: UUID | None = None,
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
