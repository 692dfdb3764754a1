"""Why a task came out as it did: ``GET /v1/mesh/tasks/{id}/trace``."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mesh.agents.explain import Remembered, cited, explain
from mesh.contracts.events import Event, EventType
from mesh.contracts.trace import TaskTrace
from mesh.core.errors import MailyError, NotFound
from mesh.core.logging import get_logger
from mesh.security.scopes import MEMORY_READ
from mesh.storage.task_rows import StepRow, TaskRow
from serve_apps.gateway.answers import Json
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import good, problems

STREAM_S = 1.0
"""For reading what a task has told so far; what comes later is in the next answer."""
QUIET_S = 0.1
"""So long without an event, and everything there was has been read."""
MEMORY_S = 2.0

_log = get_logger("gateway.trace")


def trace_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/mesh", tags=["mesh"])

    @router.get(
        "/tasks/{task_id}/trace",
        summary="Why it came out so: attempts, steps, what each read, chose and asked",
        responses=good(TaskTrace, "As far as it has come") | problems(404),
        response_class=Json,
    )
    async def task_trace(request: Request, task_id: UUID) -> Response:
        who = context_of(request).who
        row = await gateway.tasks.get(task_id, who.workspace_id)  # whose it is, before all else
        attempts, steps = await asyncio.gather(
            gateway.tasks.attempts(row.id), gateway.tasks.steps(row.id)
        )
        incomplete: list[str] = []
        events: list[Event] = []
        if not (row.state.ended and row.error is None):
            # A task that ended well has a row for each of its steps.
            events = await _events(gateway, row, incomplete)
        may_read = MEMORY_READ in who.scopes
        memories = await _memories(gateway, row, steps, may_read, incomplete)
        trace = explain(
            row,
            attempts,
            steps,
            events,
            datetime.fromtimestamp(gateway.clock.now(), UTC),
            memories=memories,
            incomplete=incomplete,
        )
        return Json(trace.model_dump(mode="json"))

    return router


async def _events(gateway: Gateway, row: TaskRow, incomplete: list[str]) -> list[Event]:
    """What its stream holds now, tokens left out."""
    events: list[Event] = []
    reader = gateway.streams.read(str(row.id), heartbeat_s=QUIET_S)
    try:
        async with asyncio.timeout(STREAM_S):
            async for event in reader:
                if event is None:
                    break
                if event.type is not EventType.TOKENS:
                    events.append(event)
    except NotFound:
        pass  # it has told nothing yet, or the log has forgotten it
    except (MailyError, TimeoutError) as error:
        _log.info("trace.stream", error=type(error).__name__, task_id=str(row.id))
        incomplete.append("stream")
    finally:
        close = getattr(reader, "aclose", None)
        if close is not None:
            await close()
    return events


async def _memories(
    gateway: Gateway, row: TaskRow, steps: list[StepRow], may_read: bool, incomplete: list[str]
) -> Remembered | None:
    """Which of the memories that steps cite are still there. None: nobody can tell."""
    ids = cited(steps)
    if not ids or gateway.cited_memories is None:
        return None
    try:
        async with asyncio.timeout(MEMORY_S):
            texts = await gateway.cited_memories(row.workspace_id, ids)
    except (MailyError, TimeoutError) as error:
        _log.info("trace.memory", error=type(error).__name__, task_id=str(row.id))
        incomplete.append("memory")
        return None
    return Remembered(texts if may_read else dict.fromkeys(texts))
