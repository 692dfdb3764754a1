"""A tool's call as a durable step: in a workflow, and in the loop of ``generate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.agents.agent import StepContext, StepResult
from mesh.agents.tools.tool import ToolCaller
from mesh.contracts.base import Contract
from mesh.contracts.tasks import Decision
from mesh.contracts.tools import ToolResult
from mesh.core.errors import StepFailed, Unavailable


@dataclass(frozen=True, slots=True)
class CallTool:
    """Its output is a ``ToolResult``. ``must``: a failed call fails the step."""

    tool: str
    must: bool = True
    allowed: frozenset[str] | None = None
    """The task's own allow-list; the process's narrows it further."""
    input_json_schema: Mapping[str, Any] | None = None
    step: str = "tool"
    output_model: type[Contract] = ToolResult

    @property
    def name(self) -> str:
        return f"tool:{self.tool}"

    async def run(self, context: StepContext) -> StepResult:
        box = context.services.tools
        if box is None:
            raise Unavailable("There are no tools here.")
        result = await box.narrow(self.allowed).call(
            self.tool,
            context.input,
            ToolCaller(
                workspace_id=context.task.workspace_id,
                clock=context.clock,
                deadline=context.deadline,
                services=context.services,
                task_id=context.task.task_id,
                step=context.step,
                idempotency_key=context.idempotency_key,
            ),
        )
        if self.must and not result.ok:
            error = result.error or {}
            raise StepFailed(
                f"The tool {self.tool} failed: {error.get('message', '')}"[:500],
                {"step": context.step, "tool": self.tool, "code": error.get("code")},
            )
        return StepResult(
            result.model_dump(mode="json", exclude={"seconds"}),
            (
                Decision(
                    agent=self.name,
                    what="tool",
                    chosen=self.tool,
                    reason="answered" if result.ok else str((result.error or {}).get("code")),
                ),
            ),
        )
