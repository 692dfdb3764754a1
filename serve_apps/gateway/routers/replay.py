"""Replay of a task: does its graph take the recorded path again?"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from actors.journal import output_of
from mesh.agents.agent import TaskInput
from mesh.agents.graph.replay import Replay, replay
from mesh.agents.registry import registry
from mesh.contracts.tasks import TaskRequest, TaskState
from serve_apps.gateway.answers import Json
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import good, problems


def replay_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/mesh/tasks", tags=["mesh"])

    @router.get(
        "/{task_id}/replay",
        summary="Walk the task's graph again over its record: no model, no tool, no change",
        responses=good(Replay, "Whether the same path was taken") | problems(404),
        response_class=Json,
    )
    async def replay_task(request: Request, task_id: UUID) -> Response:
        row = await gateway.tasks.get(task_id, context_of(request).who.workspace_id)
        steps = await gateway.tasks.steps(row.id)
        found = await replay(
            registry().spec_of(row.kind, row.graph),
            TaskInput(
                task_id=row.id,
                request=TaskRequest.model_validate(row.request),
                workspace_id=row.workspace_id,
                graph=row.graph,
            ),
            {step.name: output_of(step) for step in steps},
            succeeded=row.state is TaskState.SUCCEEDED,
            result=row.result,
        )
        return Json(found.model_dump(mode="json"))

    return router
