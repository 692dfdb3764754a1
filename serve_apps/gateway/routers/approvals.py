"""People's answers to what tasks ask them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from mesh.contracts.approvals import ApprovalPage, ApprovalRequest, ApprovalView
from mesh.contracts.tasks import TaskState
from mesh.core.errors import Unavailable
from mesh.storage.waits import ApprovalRow
from serve_apps.gateway.answers import Json
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import ApprovalStore, Gateway
from serve_apps.gateway.documented import good, problems, reads

StepName = Annotated[
    str,
    Path(max_length=200, pattern=r"^[A-Za-z0-9_\[\]:.-]+$", description="As step.waiting said"),
]


def approvals_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/mesh/tasks/{task_id}/approvals", tags=["mesh"])
    limits = gateway.settings.gateway

    @router.get(
        "",
        summary="What the task has asked people, and what they said",
        responses=good(ApprovalPage, "Oldest first") | problems(404),
        response_class=Json,
    )
    async def list_approvals(request: Request, task_id: UUID) -> Response:
        row = await gateway.tasks.get(task_id, context_of(request).who.workspace_id)
        found = [] if gateway.waits is None else await gateway.waits.of_task(row.id)
        page = ApprovalPage(items=[_view(approval) for approval in found])
        return Json(page.model_dump(mode="json"))

    @router.post(
        "/{step}",
        summary="Approve or reject; once, and the task goes on",
        responses=good(ApprovalView, "It is decided") | problems(404, 409, body=True),
        response_class=Json,
        openapi_extra=reads(ApprovalRequest),
    )
    async def decide(request: Request, task_id: UUID, step: StepName) -> Response:
        context = context_of(request)
        body = parse_body(ApprovalRequest, context.body, limits.max_json_depth)
        approval, row = await _store(gateway).decide(
            task_id,
            context.who.workspace_id,
            step,
            approved=body.decision == "approve",
            comment=body.comment,
            by=context.who.key_id,
        )
        if row.state is TaskState.QUEUED:
            await gateway.dispatch.offer(row.id, row.kind, workspace_id=row.workspace_id)
        return Json(_view(approval).model_dump(mode="json"))

    return router


def _store(gateway: Gateway) -> ApprovalStore:
    if gateway.waits is None:
        raise Unavailable("Approvals are not kept here.")
    return gateway.waits


def _view(row: ApprovalRow) -> ApprovalView:
    state = "expired" if row.expired else "waiting"
    if row.approved is not None:
        state = "approved" if row.approved else "rejected"
    return ApprovalView.model_validate(
        {
            "step": row.step,
            "state": state,
            "question": row.question,
            "asked_at": row.asked_at,
            "expires_at": row.expires_at,
            "comment": row.comment,
            "decided_by": row.decided_by,
            "decided_at": row.decided_at,
        }
    )
