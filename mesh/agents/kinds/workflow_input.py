"""A workflow as callers write it: a tree of tools, tasks and decisions, as JSON.

Wherever an ``input``, ``question`` or ``output`` stands, ``{"$ref": "step.field"}`` is replaced by
an earlier step's output (``input.…``: the workflow's own input; in a map ``item`` and ``index``)
and ``{"$text": "… {step.field} …"}`` by a text made with it. A ``?`` at a reference's end allows
it to lead nowhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mesh.agents.graph.expr import Expr
from mesh.contracts.base import Contract
from mesh.contracts.tasks import TaskKind

VERSION = 1

NodeName = Annotated[str, Field(min_length=1, max_length=48)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Gather = Literal["fail_fast", "collect"]


class RetryRule(Contract):
    attempts: int = Field(default=3, ge=1, le=20, description="Tries in all")
    first_s: float = Field(default=0.2, ge=0, le=60, description="Before the second; doubles")
    max_s: float = Field(default=30.0, ge=0, le=600)
    on: list[Annotated[str, Field(min_length=1, max_length=60)]] = Field(
        default=["retryable"], min_length=1, max_length=16, description="Codes of errors"
    )


class UndoRule(Contract):
    """Called when the task fails or is cancelled after the step was done."""

    tool: Annotated[str, Field(min_length=1, max_length=64)]
    input: dict[str, Any] = Field(default_factory=dict)


class ToolNode(Contract):
    """Call a tool. Its output: ``{"tool", "ok", "content", "truncated"}``."""

    type: Literal["tool"]
    name: NodeName
    tool: Annotated[str, Field(min_length=1, max_length=64)]
    input: dict[str, Any] = Field(default_factory=dict)
    retry: RetryRule | None = None
    timeout_s: Seconds | None = None
    undo: UndoRule | None = None


class TaskNode(Contract):
    """Have another kind of task done. Its output is that kind's result."""

    type: Literal["task"]
    name: NodeName
    kind: TaskKind
    input: dict[str, Any] = Field(description="The kind's input; write_email's brief")
    model: Annotated[str, Field(max_length=200)] | None = None
    retry: RetryRule | None = None
    timeout_s: Seconds | None = None
    undo: UndoRule | None = None


class ApprovalNode(Contract):
    """Wait for a person. Output: ``{"approved", "comment", "by", "timed_out"}``."""

    type: Literal["approval"]
    name: NodeName
    question: Any = Field(default="", description="What the person is shown")
    timeout_s: Seconds = 86_400.0
    on_timeout: Literal["fail", "reject", "approve"] = "fail"
    on_reject: Literal["fail", "continue"] = "fail"


class SequenceNode(Contract):
    type: Literal["sequence"]
    steps: list[WorkflowNode] = Field(min_length=1, max_length=64)


class ParallelNode(Contract):
    """All branches at once. With a name its output is ``{"branches": […], "failed": […]}``."""

    type: Literal["parallel"]
    name: NodeName | None = None
    branches: list[WorkflowNode] = Field(min_length=1, max_length=32)
    gather: Gather = "fail_fast"


class MapNode(Contract):
    """Once per element of a list. Its output is ``{"items": […], "failed": […]}``."""

    type: Literal["map"]
    name: NodeName
    over: str = Field(max_length=500, description="A reference to a list")
    do: WorkflowNode
    concurrency: int = Field(default=4, ge=1, le=32)
    max_items: int = Field(default=100, ge=1, le=1_000)
    gather: Gather = "fail_fast"


class ConditionNode(Contract):
    """One of two ways. With a name its output is that of the way taken, or null."""

    type: Literal["condition"]
    name: NodeName | None = None
    when: Expr
    then: WorkflowNode
    otherwise: WorkflowNode | None = None


WorkflowNode = Annotated[
    ToolNode | TaskNode | ApprovalNode | SequenceNode | ParallelNode | MapNode | ConditionNode,
    Field(discriminator="type"),
]

for _model in (SequenceNode, ParallelNode, MapNode, ConditionNode):
    _model.model_rebuild()


class WorkflowInput(Contract):
    """``input`` of ``workflow``."""

    graph: WorkflowNode
    input: dict[str, Any] = Field(default_factory=dict, description="What input.… refers to")
    output: Any = Field(
        default=None, description="What the result is made of; null: the last step's output"
    )


class WorkflowResult(Contract):
    """What ``workflow`` gives."""

    output: Any = None
    degraded: bool = False
