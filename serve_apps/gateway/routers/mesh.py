"""The mesh: tasks, their events, and the agents that work on them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mesh.agents.registry import KindSpec, read_input, registry
from mesh.contracts.events import Cursor, EventType
from mesh.contracts.mesh import MeshView, mesh_view
from mesh.contracts.tasks import TaskPage, TaskRequest, TaskState, TaskView
from mesh.core.errors import MailyError
from mesh.core.ids import uuid7
from mesh.core.logging import get_logger
from mesh.security.principal import Principal
from mesh.security.scopes import TOOLS_CALL
from mesh.storage.task_rows import NewTask, TaskRow
from serve_apps.gateway.admission import create_admitted, wants
from serve_apps.gateway.answers import Json, invalid_field
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import IDEMPOTENCY_KEY, LAST_EVENT_ID, good, problems, reads
from serve_apps.gateway.failures import failure_frame
from serve_apps.gateway.idempotency import REPLAYED
from serve_apps.gateway.routers.openai import find_model
from serve_apps.gateway.sse import MEDIA, EventStream
from serve_apps.gateway.task_events import announce, has_nothing_more, task_frames
from serve_apps.gateway.views import decode_cursor, encode_cursor, task_view

ACCEPTED_WAIT_S = 0.5
"""The log gets this long to take ``task.accepted``: the task is safe in the database already."""

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "id: attempt-sequence; event: its type; data: the event as JSON",
        "content": {MEDIA: {"schema": {"type": "string"}}},
    },
    204: {"description": "Nothing comes after this Last-Event-ID: stop reconnecting"},
}
_log = get_logger("gateway.tasks")


class TaskQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=100)
    cursor: str | None = Field(
        default=None, pattern="^[A-Za-z0-9_-]{22}$", description="next_cursor of a page"
    )
    state: TaskState | None = None


def mesh_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/mesh", tags=["mesh"])
    limits = gateway.settings.gateway
    tasks = gateway.tasks

    @router.post(
        "/tasks",
        status_code=202,
        summary="Have something done",
        responses=good(TaskView, "Accepted: it will end, once", 202)
        | problems(404, 409, body=True),
        response_class=Json,
        openapi_extra=reads(TaskRequest, IDEMPOTENCY_KEY),
    )
    async def create_task(request: Request) -> Response:
        context = context_of(request)
        body = parse_body(TaskRequest, context.body, limits.max_json_depth)
        spec = registry().check(body)
        check_tools(gateway, context.who, spec, body)
        if body.model is not None:
            await find_model(gateway, body.model, "chat")
        now = datetime.fromtimestamp(gateway.clock.now(), UTC)
        workspace = context.who.workspace_id
        row, created = await create_admitted(
            gateway,
            NewTask(
                id=uuid7(),
                workspace_id=workspace,
                kind=body.kind,
                request=body.stored(),
                deadline_at=now + timedelta(seconds=body.deadline_s),
                priority=body.priority,
                idempotency_key=context.idempotency_key,
                traceparent=context.traceparent,
                graph=spec.graph,
                key_id=context.who.key_id,
                cost=await gateway.dispatch.cost(body.kind),
            ),
            body.deadline_s,
        )
        if row.state is TaskState.QUEUED:
            # On a repeat too: the first gateway may have died before it told anybody.
            await _accepted(gateway, row)
            await gateway.dispatch.offer(
                row.id, row.kind, workspace_id=workspace, wants=wants(gateway, workspace, body)
            )
        headers = {"location": f"/v1/mesh/tasks/{row.id}"}
        if not created:
            headers |= REPLAYED
        return Json(task_view(row).model_dump(mode="json"), 202, headers=headers)

    @router.get(
        "/tasks",
        summary="The workspace's tasks, newest first, without results and steps",
        responses=good(TaskPage, "A page of them") | problems(),
        response_class=Json,
    )
    async def list_tasks(request: Request, query: Annotated[TaskQuery, Query()]) -> Response:
        rows = await tasks.list(
            context_of(request).who.workspace_id,
            limit=query.limit + 1,
            before=None if query.cursor is None else decode_cursor(query.cursor),
            state=query.state,
        )
        page = TaskPage(
            items=[task_view(row, whole=False) for row in rows[: query.limit]],
            next_cursor=encode_cursor(rows[query.limit - 1].id)
            if len(rows) > query.limit
            else None,
        )
        return Json(page.model_dump(mode="json"))

    @router.get(
        "/tasks/{task_id}",
        summary="One task: its state, steps, result and the decisions behind it",
        responses=good(TaskView, "As it stands") | problems(404),
        response_class=Json,
    )
    async def get_task(request: Request, task_id: UUID) -> Response:
        row = await tasks.get(task_id, context_of(request).who.workspace_id)
        steps = await tasks.steps(row.id)
        return Json(task_view(row, steps).model_dump(mode="json"))

    @router.delete(
        "/tasks/{task_id}",
        summary="Cancel: at once when it waits, soon when it runs",
        responses=good(TaskView, "The cancel is known; see its state") | problems(404, 409),
        response_class=Json,
    )
    async def cancel_task(request: Request, task_id: UUID) -> Response:
        row = await tasks.request_cancel(task_id, context_of(request).who.workspace_id)
        if row.state is TaskState.CANCELLED:
            if row.announced_at is None:
                await announce(gateway, row)
        else:
            await gateway.dispatch.cancel(row.id)
        return Json(task_view(row).model_dump(mode="json"))

    @router.get(
        "/tasks/{task_id}/events",
        status_code=200,
        summary="What happens, as server-sent events; ends with the task",
        responses=_EVENTS | problems(404),
        response_class=EventStream,
        openapi_extra={"parameters": [LAST_EVENT_ID]},
    )
    async def task_events(request: Request, task_id: UUID) -> Response:
        context = context_of(request)
        after = _cursor(context.headers.get(b"last-event-id"))
        workspace = context.who.workspace_id
        row = await tasks.get(task_id, workspace)
        if await has_nothing_more(gateway, row, after):
            return Response(status_code=204)
        return EventStream(
            task_frames(gateway, task_id, workspace, after),
            lambda error: failure_frame(error, context, "task events"),
        )

    @router.get(
        "/agents",
        summary="The agents, and the workers that host them",
        responses=good(MeshView, "As the newest snapshot shows them") | problems(),
        response_class=Json,
    )
    async def agents(request: Request) -> Response:
        snapshot = await gateway.dispatch.snapshot()
        view = mesh_view(list(gateway.agents), snapshot, gateway.clock.now())
        return Json(view.model_dump(mode="json"))

    return router


def check_tools(gateway: Gateway, who: Principal, spec: KindSpec, request: TaskRequest) -> None:
    """Whoever has a task call tools must be allowed to call them. Raises InvalidInput (no such
    tool here) and Forbidden."""
    if spec.tools_of is None:
        return
    for where, name in spec.tools_of(read_input(spec, request)):
        if not gateway.tools.allows(name, who.workspace_id):
            raise invalid_field(where, "there is no such tool in this workspace")
        who.require(TOOLS_CALL)
        for scope in sorted(gateway.tools.find(name, who.workspace_id).scopes):
            who.require(scope)


def _cursor(value: bytes | None) -> Cursor:
    if not value:
        return Cursor()
    try:
        return Cursor.parse(value.decode("latin-1"))
    except ValueError:
        raise invalid_field("header.Last-Event-ID", "must look like 3-17") from None


async def _accepted(gateway: Gateway, row: TaskRow) -> None:
    """The stream's first event. Best effort, and never twice: a worker may be there already."""
    stream = str(row.id)
    try:
        async with asyncio.timeout(ACCEPTED_WAIT_S):
            if await gateway.streams.last(stream) is not None:
                return
            writer = gateway.streams.writer(stream, 0, workspace=row.workspace_id)
            try:
                await writer.append(EventType.TASK_ACCEPTED, {"kind": row.kind.value})
            finally:
                await writer.aclose()
    except (MailyError, TimeoutError) as error:
        _log.info("tasks.accepted", error=type(error).__name__, task_id=stream)
