"""Kinds of task, as ``GET /v1/mesh/kinds`` describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mesh.contracts.base import Contract
from mesh.contracts.tasks import TaskKind

VERSION = 1


class KindInfo(Contract):
    """One version of a kind."""

    kind: TaskKind
    version: int
    newest: bool = Field(description="New tasks take it; older versions run to their end")
    graph: str = Field(description="kind:version:hash")
    does: str
    reads: Literal["input", "brief"] = Field(description="The field that holds what it needs")
    input_schema: dict[str, Any]
    result_schema: dict[str, Any] | None = None


class KindPage(Contract):
    items: list[KindInfo]
