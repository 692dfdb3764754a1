"""Another kind of task as one step: its steps are durable within it (``draft/strategy`` …)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from mesh.agents.agent import StepContext, StepResult, TaskInput
from mesh.agents.registry import KindSpec
from mesh.contracts.base import Contract
from mesh.contracts.problems import from_validation
from mesh.core.errors import Unavailable

DYNAMIC_ROOM = 256
"""Positions for the steps of a kind whose graph depends on the task."""


@dataclass(frozen=True, slots=True)
class UseKind:
    """Its output is the kind's result. ``model``: None: the task's own."""

    spec: KindSpec
    model: str | None = None
    step: str = "task"
    replays: bool = True
    """It only puts steps together: a replay runs it."""

    @property
    def room(self) -> int:
        return DYNAMIC_ROOM if self.spec.dynamic else self.spec.size

    @property
    def name(self) -> str:
        return f"kind:{self.spec.kind.value}@{self.spec.version}"

    @property
    def input_model(self) -> type[Contract]:
        return self.spec.input_model

    @property
    def output_model(self) -> type[Contract] | None:
        return self.spec.result_model

    async def run(self, context: StepContext) -> StepResult:
        if context.steps is None:
            raise Unavailable("Steps within steps can't be kept here.")
        task = self._task(context)
        spec = self.spec
        if spec.check is not None:
            spec.check(spec.input_model.model_validate(dict(context.input)))
        outputs = await context.steps.flow(spec.build(task), task)
        result = spec.assemble(task, outputs)
        body = result if isinstance(result, dict) else result.model_dump(mode="json")
        return StepResult(body, degraded=bool(body.get("degraded", False)))

    def _task(self, context: StepContext) -> TaskInput:
        """The task within the task. Raises InvalidInput for what the bindings made of it."""
        spec, given = self.spec, dict(context.input)
        try:
            model = spec.input_model.model_validate(given)
        except ValidationError as error:
            raise from_validation(error, given) from None
        changes: dict[str, Any] = {"kind": spec.kind, "brief": None, "input": None}
        changes[spec.reads] = model if spec.reads == "brief" else given
        if self.model is not None:
            changes["model"] = self.model
        request = context.task.request.model_copy(update=changes)
        return replace(context.task, request=request, graph=spec.graph)


@dataclass(frozen=True, slots=True)
class Collect:
    """The last step of a workflow: what its result is made of."""

    name: str = "result"
    step: str = "result"

    async def run(self, context: StepContext) -> StepResult:
        degraded = any(bool(out.get("degraded", False)) for out in context.previous.values())
        return StepResult({"output": context.input.get("value"), "degraded": degraded})
