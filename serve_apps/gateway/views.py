"""Rows of the database as callers see them."""

from __future__ import annotations

import base64
import binascii
from typing import Any
from uuid import UUID

from mesh.contracts.email import Brief
from mesh.contracts.tasks import Decision, StepView, TaskKind, TaskResult, TaskView
from mesh.security.keys import KeyInfo
from mesh.storage.task_rows import StepRow, TaskRow
from serve_apps.gateway.answers import invalid_field
from serve_apps.gateway.schemas import KeyView


def task_view(row: TaskRow, steps: list[StepRow] | None = None, *, whole: bool = True) -> TaskView:
    """``whole``: with the result (lists leave it out)."""
    result: TaskResult | dict[str, Any] | None = None
    if whole and row.result is not None:
        email = row.kind is TaskKind.WRITE_EMAIL
        result = TaskResult.model_validate(row.result) if email else row.result
    brief = row.request.get("brief")
    return TaskView(
        id=row.id,
        kind=row.kind,
        state=row.state,
        attempt=row.attempt,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        deadline_at=row.deadline_at,
        model=row.request.get("model"),
        brief=None if brief is None else Brief.model_validate(brief),
        input=row.request.get("input") if whole else None,
        degraded=row.degraded,
        result=result,
        error=row.error,
        steps=[step_view(step) for step in steps or () if not step.name.startswith("!")],
        events_url=f"/v1/mesh/tasks/{row.id}/events",
    )


def step_view(row: StepRow) -> StepView:
    return StepView(
        name=row.name,
        state="failed" if row.error else "succeeded",
        attempt=row.attempt,
        output=None if row.error else row.output,
        error=row.error,
        decisions=[Decision.model_validate(decision) for decision in row.decisions],
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def key_view(info: KeyInfo) -> dict[str, Any]:
    return KeyView(
        id=info.id,
        workspace=info.workspace,
        name=info.name,
        scopes=sorted(info.scopes),
        created_at=info.created_at,
        expires_at=info.expires_at,
        revoked_at=info.revoked_at,
        last_used_at=info.last_used_at,
    ).model_dump(mode="json")


def encode_cursor(task_id: UUID) -> str:
    return base64.urlsafe_b64encode(task_id.bytes).rstrip(b"=").decode()


def decode_cursor(text: str) -> UUID:
    """Raises InvalidInput."""
    try:
        return UUID(bytes=base64.b64decode(text + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise invalid_field("cursor", "is not one that we gave") from None
