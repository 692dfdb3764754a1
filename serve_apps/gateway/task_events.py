"""A task's events as an endless reader sees them: the log's own, and what the database knows when
the log has lost them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from actors.ending import terminal_event
from mesh.contracts.events import Cursor, Event
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.core.metrics import STREAM_DELIVERED
from mesh.storage.task_rows import TaskRow
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.sse import HEARTBEAT, RETRY
from serve_apps.gateway.streaming import DRAINING, deliveries, subscribed

OWED_AFTER = 2
"""Heartbeats after which a terminal event that is missing is appended by the reader's side."""

_log = get_logger("gateway.events")
_delivered = STREAM_DELIVERED.labels("sse")


async def has_nothing_more(gateway: Gateway, row: TaskRow, after: Cursor) -> bool:
    """Whether a reader at ``after`` has seen the terminal event: it may stop reconnecting."""
    if not row.state.ended or after == Cursor():
        return False
    try:
        last = await gateway.streams.last(str(row.id))
    except Unavailable:
        return False
    return last is not None and last.type.terminal and last.cursor <= after


async def task_frames(
    gateway: Gateway, task_id: UUID, workspace_id: UUID, after: Cursor
) -> AsyncIterator[bytes]:
    """SSE frames until the terminal event. Outlasts a log that restarts: goes on at its cursor.

    Each event's frame is a function of the event alone: every reader gets the same bytes, however
    often it was cut. What has gathered goes out in one piece.
    """
    stream = str(task_id)
    heartbeat_s = gateway.settings.gateway.sse_heartbeat_s
    quiet = 0
    async with subscribed(gateway, merging=False) as (mux, bell):
        mux.add(stream, stream, stream, after)
        yield RETRY
        async with deliveries(gateway, mux, bell, heartbeat_s) as found:
            async for delivery in found:
                if delivery is None:
                    yield HEARTBEAT
                    quiet = await _heal(gateway, task_id, workspace_id, quiet)
                elif delivery.missing:
                    row = await _row(gateway, task_id, workspace_id)
                    if row is not None and row.state.ended:
                        # Expired: told from the row, to this reader alone.
                        yield gateway.frames.sse(remembered(row, delivery.subscription.cursor))
                        return
                else:
                    quiet = 0
                    _delivered.inc(len(delivery.events))
                    yield b"".join(map(gateway.frames.sse, delivery.events))
    if gateway.live.draining:
        yield DRAINING


async def _row(gateway: Gateway, task_id: UUID, workspace_id: UUID) -> TaskRow | None:
    """None: the database is away; the stream is looked for again anyway."""
    try:
        return await gateway.tasks.get(task_id, workspace_id)
    except Unavailable:
        return None


async def _heal(gateway: Gateway, task_id: UUID, workspace_id: UUID, quiet: int) -> int:
    """Whoever ended the task may have died before it told the stream; then we tell it."""
    try:
        row = await gateway.tasks.get(task_id, workspace_id)
        if not row.state.ended:
            return 0
        if quiet + 1 >= OWED_AFTER:
            await announce(gateway, row)
    except Unavailable as error:
        _log.info("events.heal", error=error.code)
    return quiet + 1


async def announce(gateway: Gateway, row: TaskRow) -> None:
    """Append the terminal event of an ended task unless its stream has one. Never raises: the
    coordinator's sweep does the same later."""
    kind, data = terminal_event(row)
    try:
        await gateway.streams.seal(str(row.id), row.attempt, kind, data, workspace=row.workspace_id)
        await gateway.tasks.mark_announced([row.id])
    except MailyError as error:
        _log.info("events.announce", error=error.code, task_id=str(row.id))


def remembered(row: TaskRow, after: Cursor) -> Event:
    """The end of a task whose stream is gone, as its row tells it to a reader at ``after``."""
    kind, data = terminal_event(row)
    attempt = max(row.attempt, after.attempt)
    ended = row.finished_at or row.updated_at
    return Event(
        stream=str(row.id),
        attempt=attempt,
        sequence=after.sequence + 1 if after.attempt == attempt else 1,
        type=kind,
        at=ended.timestamp(),
        data=data,
    )
