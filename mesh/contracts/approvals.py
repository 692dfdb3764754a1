"""Questions that tasks put to people."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from mesh.contracts.base import Contract

VERSION = 1


class ApprovalRequest(Contract):
    """Body of ``POST /v1/mesh/tasks/{id}/approvals/{step}``."""

    decision: Literal["approve", "reject"]
    comment: str = Field(default="", max_length=2_000, pattern=r"^[^\x00]*$")


class ApprovalView(Contract):
    """One question and how it stands."""

    step: str
    state: Literal["waiting", "approved", "rejected", "expired"]
    question: Any = None
    asked_at: datetime
    expires_at: datetime
    comment: str = ""
    decided_by: str | None = Field(default=None, description="Id of the key")
    decided_at: datetime | None = None


class ApprovalPage(Contract):
    """What ``GET /v1/mesh/tasks/{id}/approvals`` answers."""

    items: list[ApprovalView]
