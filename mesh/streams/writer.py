"""The one writer of a stream: numbers events, lets tokens gather, hands them on in order.

Events wait in one queue per writer; a task that lives only while there is something to send
commits all of them at once and takes what gathered meanwhile next. A log that is slow thus makes
batches larger, never the memory: while a commit is under way tokens stay in one growing piece of
text, and beyond ``buffer_chars`` of it ``token`` waits.

A failure ends what was queued: each waiting ``append`` gets it, or the next one where only tokens
were lost. The caller then repeats the step (``step.retried`` voids the tokens so far). After
Unavailable it is unknown whether the last events were written, so the writer first looks where
the log ends before it goes on. Fenced is for good.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from mesh.contracts.events import Cursor, Event, EventType
from mesh.core.clock import Clock
from mesh.core.errors import Fenced, MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.core.metrics import FENCED, STREAM_EVENTS
from mesh.streams.codec import clean, decode, encode
from mesh.streams.names import workspace_stream
from mesh.streams.options import StreamOptions
from mesh.streams.pace import Pace

_log = get_logger(__name__)

_COPY_BYTES = 256
"""What a copy may be longer than its event by: the task's id and attempt."""


@dataclass(slots=True, eq=False)
class Entry:
    """An event on its way; ``sequence`` is 0 until it is sent."""

    type: EventType
    payload: bytes
    acknowledged: asyncio.Future[None] | None = None
    sequence: int = 0
    copy: bytes | None = None
    """The same event as the workspace's stream of all tasks tells it."""


@dataclass(slots=True, eq=False)
class Batch:
    """Successive events of one writer, committed together or not at all."""

    stream: str
    attempt: int
    writer: str
    entries: list[Entry] = field(default_factory=list)
    shared: str | None = None
    """Where copies go, in the same commit."""

    @property
    def first(self) -> int:
        return self.entries[0].sequence

    @property
    def terminal(self) -> bool:
        return self.entries[-1].type.terminal


class Sink(Protocol):
    """Where a writer's events go."""

    async def end(self, stream: str) -> Cursor:
        """The newest event's cursor, or the zero cursor. Raises Unavailable."""
        ...

    async def commit(self, batch: Batch) -> None:
        """All of it, acknowledged; a repeat of what is there already counts as done.

        Raises Fenced where a later attempt, another writer of this attempt, or a terminal event
        stands there, Unavailable when the log stays away.
        """
        ...


def ended(stream: str) -> Fenced:
    return Fenced("The stream has ended.", {"stream": stream, "ended": True})


class BufferedWriter:
    """See ``StreamWriter``. Belongs to one event loop."""

    def __init__(
        self,
        sink: Sink,
        stream: str,
        attempt: int,
        options: StreamOptions,
        clock: Clock,
        *,
        workspace: UUID | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._sink = sink
        self._stream = stream
        self._attempt = attempt
        self._options = options
        self._clock = clock
        self._shared = None if workspace is None else workspace_stream(workspace)
        self._pace = pace or Pace(options.coalesce_s, options.coalesce_most_s)
        self._id = uuid.uuid4().hex[:16]
        self._sequence: int | None = None
        self._queue: deque[Entry] = deque()
        self._pump_task: asyncio.Task[None] | None = None
        self._failure: MailyError | None = None
        self._step: str | None = None
        self._text: list[str] = []
        self._chars = 0
        self._due = False
        self._timer: asyncio.Task[None] | None = None

    async def append(self, type: EventType, data: dict[str, Any]) -> Event:
        self._raise_failure()
        self._seal_text()
        self._step = None  # the next token is a first one again
        entry = self._seal(type, data)
        acknowledged = asyncio.get_running_loop().create_future()
        entry.acknowledged = acknowledged
        self._wake()
        await acknowledged
        return decode(self._stream, self._attempt, entry.sequence, entry.payload)

    async def token(self, step: str, text: str) -> None:
        if isinstance(self._failure, Fenced):
            self._raise_failure()
        if not text:
            return
        first = step != self._step
        if first:
            self._seal_text()
            self._step = step
        self._text.append(text)
        self._chars += len(text)
        if first or self._options.coalesce_s <= 0:
            self._seal_text()
            self._wake()
        elif len(self._text) >= self._options.coalesce_pieces:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.create_task(self._flush_later())
        while self._chars > self._options.buffer_chars and self._pump_task is not None:
            self._due = True
            await asyncio.shield(self._pump_task)

    async def aclose(self) -> None:
        """Flush and stop. Text that could not be written by then is logged and lost; whatever
        ``append`` acknowledged is not."""
        self._seal_text()
        self._wake()
        if self._pump_task is not None:
            await asyncio.shield(self._pump_task)
        if isinstance(self._failure, Unavailable):
            _log.warning("stream text lost", stream=self._stream, error=str(self._failure))
        self._failure = self._failure or Fenced("The writer is closed.", {"closed": True})

    def _raise_failure(self) -> None:
        failure = self._failure
        if isinstance(failure, Fenced):
            raise Fenced(failure.message, failure.details)
        if failure is not None:
            self._failure = None  # said once; the caller may go on
            raise failure

    def _seal(self, type: EventType, data: dict[str, Any]) -> Entry:
        limit = self._options.max_event_bytes
        at = self._clock.now()
        entry = Entry(type, encode(type, at, data, limit))
        if self._shared is not None and type.lifecycle:
            told = {"task_id": self._stream, "attempt": self._attempt}
            # The copy names the task; where that makes it too long, it says no more than that.
            whole = len(entry.payload) + _COPY_BYTES <= limit
            entry.copy = encode(type, at, {**data, **told} if whole else told, limit)
        self._queue.append(entry)
        return entry

    def _seal_text(self) -> None:
        """Make what waits an event of its own, so that it keeps its place in the order."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = False
        if self._text:
            text = clean("".join(self._text))
            self._text.clear()
            self._chars = 0
            self._seal(EventType.TOKENS, {"step": self._step, "text": text})

    def _flush(self) -> None:
        if self._pump_task is not None:
            self._due = True  # a commit is under way: gather on until it is done
        else:
            self._seal_text()
            self._wake()

    async def _flush_later(self) -> None:
        wait_s = self._pace.hold_s
        until = self._clock.monotonic() + wait_s
        await self._clock.sleep(wait_s)
        self._pace.observe(self._clock.monotonic() - until)
        self._timer = None
        self._flush()

    def _wake(self) -> None:
        if self._pump_task is None and self._queue:
            self._pump_task = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            while self._queue:
                await self._send()
                if self._due:
                    self._seal_text()
        except MailyError as error:
            self._fail(error)
        except Exception as error:
            # Without this the writer would wait for ever on a bug of ours.
            _log.exception("stream writer failed", stream=self._stream)
            self._fail(Unavailable(f"The stream log failed: {type(error).__name__}"))
        finally:
            self._pump_task = None

    async def _send(self) -> None:
        if self._sequence is None:
            end = await self._sink.end(self._stream)
            if end.attempt > self._attempt:
                raise Fenced("A later attempt writes this stream.", {"stream": self._stream})
            self._sequence = end.sequence if end.attempt == self._attempt else 0
        batch = Batch(self._stream, self._attempt, self._id, shared=self._shared)
        while self._queue and len(batch.entries) < self._options.coalesce_pieces:
            entry = self._queue[0]
            if batch.entries and batch.terminal:
                break  # what follows a terminal event is refused by itself
            self._queue.popleft()
            entry.sequence = self._sequence + len(batch.entries) + 1
            batch.entries.append(entry)
        try:
            await self._sink.commit(batch)
        except BaseException:
            self._queue.extendleft(reversed(batch.entries))
            raise
        self._sequence += len(batch.entries)
        for entry in batch.entries:
            STREAM_EVENTS.labels(entry.type.value).inc()
            if entry.acknowledged is not None and not entry.acknowledged.done():
                entry.acknowledged.set_result(None)

    def _fail(self, error: MailyError) -> None:
        if isinstance(error, Fenced):
            FENCED.labels("stream").inc()
        self._sequence = None
        self._seal_text()
        told = False
        while self._queue:
            waiting = self._queue.popleft().acknowledged
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                told = True
        if isinstance(error, Fenced) or not told:
            self._failure = error
