"""What a graph is made of. Plain values: they say what happens, ``execute`` makes it happen.

A graph is a tree, so it can't loop; steps refer to earlier ones by name, and ``check`` refuses a
reference that does not surely come before. Only steps are durable (one row each, committed once);
what joins them follows from their outputs, so a new attempt takes the same path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mesh.agents.agent import Agent
from mesh.agents.graph.expr import Expr
from mesh.agents.graph.refs import Binding, Ref
from mesh.core.errors import MailyError

Gather = Literal["fail_fast", "collect"]
"""What one branch's failure does: end the others and the graph, or be one of the results."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried, and for which errors. Tries are counted within an attempt."""

    attempts: int = 1
    """Tries in all, the first included."""
    first_s: float = 0.2
    """Before the second try; it doubles with each further one …"""
    max_s: float = 30.0
    """… up to this, each shortened at random by up to half."""
    on: tuple[str, ...] = ("retryable",)
    """Codes of errors that are tried again. ``retryable``: those that say so themselves."""

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 100:
            raise ValueError("attempts must be between 1 and 100")
        if not 0 <= self.first_s <= self.max_s <= 3_600:
            raise ValueError("0 <= first_s <= max_s <= 3600")

    def applies(self, error: MailyError) -> bool:
        return error.code in self.on or ("retryable" in self.on and error.retryable)

    def pause_s(self, failures: int, roll: float, hint_s: float | None) -> float:
        """Seconds to wait after so many failures. ``roll``: 0 to 1, at random."""
        grown = min(self.max_s, self.first_s * 2.0 ** min(failures - 1, 16))
        return min(self.max_s, max(grown, hint_s or 0.0)) * (1.0 - roll / 2)


@dataclass(frozen=True, slots=True)
class Undo:
    """How a finished step is taken back when the task fails or is cancelled later on."""

    agent: Agent
    input: Binding = field(default_factory=dict)
    """May refer to the step's own output, and to whatever came before it."""
    retry: Retry = Retry(attempts=5)


@dataclass(frozen=True, slots=True)
class Step:
    """One durable step. Inside a map its name gets the item's number: ``step[3]``."""

    name: str
    agent: Agent
    input: Binding | None = None
    """Made into the agent's input; None: the task's own input."""
    retry: Retry | None = None
    """None: a failure is the task's; the worker waits for parts that are away."""
    timeout_s: float | None = None
    """Of one try."""
    undo: Undo | None = None
    handoffs: Mapping[str, Agent] = field(default_factory=dict)
    """Agents that the result may hand the work to (``StepResult.hand_to``), and no others. Each
    hop is a durable step: ``step:2``, ``step:3`` …"""
    max_hops: int = 4
    """How many times the work may change hands."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A person decides. The task waits without a worker until somebody does or time is up."""

    name: str
    question: Binding = ""
    """What the person is shown: any JSON, may hold references."""
    timeout_s: float = 86_400.0
    """Counted from when it was first asked; the task's deadline ends it, too."""
    on_timeout: Literal["fail", "reject", "approve"] = "fail"
    on_reject: Literal["fail", "continue"] = "fail"
    """``continue``: the graph goes on, and may look at ``name.approved``."""


@dataclass(frozen=True, slots=True)
class Sequence:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Parallel:
    """All at once. With a name its value is ``{"branches": […], "failed": […]}``."""

    nodes: tuple[Node, ...]
    name: str | None = None
    gather: Gather = "fail_fast"


@dataclass(frozen=True, slots=True)
class Map:
    """The body once per element of a list. Its value is ``{"items": […], "failed": […]}``."""

    name: str
    over: Ref
    body: Node
    concurrency: int = 4
    max_items: int = 100
    gather: Gather = "fail_fast"


@dataclass(frozen=True, slots=True)
class Condition:
    """With a name its value is the taken branch's, or null."""

    when: Expr
    then: Node
    otherwise: Node | None = None
    name: str | None = None


Node = Step | Approval | Sequence | Parallel | Map | Condition


def children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Sequence | Parallel):
        return node.nodes
    if isinstance(node, Map):
        return (node.body,)
    if isinstance(node, Condition):
        return (node.then,) if node.otherwise is None else (node.then, node.otherwise)
    return ()


def describe(node: Node) -> dict[str, Any]:
    """The node as JSON: what two versions of a graph are compared by."""
    if isinstance(node, Step):
        return {
            "step": node.name,
            "agent": node.agent.name,
            "input": node.input,
            "retry": None if node.retry is None else [node.retry.attempts, list(node.retry.on)],
            "undo": None if node.undo is None else [node.undo.agent.name, node.undo.input],
            "handoffs": {name: agent.name for name, agent in sorted(node.handoffs.items())},
        }
    if isinstance(node, Approval):
        return {"approval": node.name, "reject": node.on_reject, "timeout": node.on_timeout}
    if isinstance(node, Sequence):
        return {"sequence": [describe(child) for child in node.nodes]}
    if isinstance(node, Parallel):
        return {
            "parallel": [describe(child) for child in node.nodes],
            "name": node.name,
            "gather": node.gather,
        }
    if isinstance(node, Map):
        return {
            "map": node.name,
            "over": str(node.over),
            "body": describe(node.body),
            "gather": node.gather,
        }
    return {
        "when": node.when.model_dump(mode="json"),
        "then": describe(node.then),
        "otherwise": None if node.otherwise is None else describe(node.otherwise),
        "name": node.name,
    }
