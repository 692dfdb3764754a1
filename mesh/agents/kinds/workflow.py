"""Kind ``workflow``: a graph that the caller writes as JSON, over our tools and kinds of task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mesh.agents.agent import Agent, StepOutput, TaskInput
from mesh.agents.graph import nodes
from mesh.agents.graph.check import GraphError
from mesh.agents.graph.graph import Graph
from mesh.agents.graph.refs import Ref
from mesh.agents.kinds.call_tool import CallTool
from mesh.agents.kinds.use_kind import Collect, UseKind
from mesh.agents.kinds.workflow_input import (
    ApprovalNode,
    ConditionNode,
    MapNode,
    ParallelNode,
    RetryRule,
    SequenceNode,
    TaskNode,
    ToolNode,
    UndoRule,
    WorkflowInput,
    WorkflowNode,
    WorkflowResult,
)
from mesh.agents.registry import KindSpec, spec_for
from mesh.contracts.base import Contract
from mesh.contracts.problems import invalid_field
from mesh.contracts.tasks import TaskKind
from mesh.core.errors import InvalidInput

RESULT = "result"


class _Builder:
    """From the caller's JSON to nodes; remembers where each node stands, for messages."""

    def __init__(self) -> None:
        self.paths: dict[int, str] = {}

    def node(self, given: WorkflowNode, path: str) -> nodes.Node:
        built = self._node(given, path)
        self.paths[id(built)] = path
        return built

    def _node(self, given: WorkflowNode, path: str) -> nodes.Node:
        if isinstance(given, ToolNode):
            return self._step(given, CallTool(given.tool))
        if isinstance(given, TaskNode):
            if given.kind is TaskKind.WORKFLOW:
                raise invalid_field(f"{path}.kind", "a workflow within a workflow")
            try:
                spec = spec_for(given.kind)
            except InvalidInput as error:
                raise invalid_field(f"{path}.kind", error.message) from None
            return self._step(given, UseKind(spec, given.model))
        if isinstance(given, ApprovalNode):
            return nodes.Approval(
                given.name, given.question, given.timeout_s, given.on_timeout, given.on_reject
            )
        if isinstance(given, SequenceNode):
            return nodes.Sequence(self._all(given.steps, f"{path}.steps"))
        if isinstance(given, ParallelNode):
            branches = self._all(given.branches, f"{path}.branches")
            return nodes.Parallel(branches, given.name, given.gather)
        if isinstance(given, MapNode):
            try:
                over = Ref.parse(given.over)
            except ValueError as error:
                raise invalid_field(f"{path}.over", str(error)) from None
            body = self.node(given.do, f"{path}.do")
            return nodes.Map(
                given.name, over, body, given.concurrency, given.max_items, given.gather
            )
        otherwise = given.otherwise
        return nodes.Condition(
            given.when,
            self.node(given.then, f"{path}.then"),
            None if otherwise is None else self.node(otherwise, f"{path}.otherwise"),
            given.name,
        )

    def _all(self, given: list[WorkflowNode], path: str) -> tuple[nodes.Node, ...]:
        return tuple(self.node(node, f"{path}.{i}") for i, node in enumerate(given))

    def _step(self, given: ToolNode | TaskNode, agent: Agent) -> nodes.Step:
        return nodes.Step(
            given.name,
            agent,
            given.input,
            retry=_retry(given.retry),
            timeout_s=given.timeout_s,
            undo=_undo(given.undo),
        )


def build(given: WorkflowInput) -> Graph:
    """The graph, checked. Raises InvalidInput naming the field of the request."""
    builder = _Builder()
    root = builder.node(given.graph, "input.graph")
    output = given.output
    if output is None:
        last = _last_name(root)
        output = {"$ref": f"{last}?"} if last else None
    result = nodes.Step(RESULT, Collect(), {"value": output})
    builder.paths[id(result)] = "input.output"
    try:
        return Graph(nodes.Sequence((root, result)), given=given.input)
    except GraphError as error:
        where = builder.paths.get(id(error.node), "input.graph")
        part = {"nodes": "steps"}.get(error.part, error.part)
        at_result = where == "input.output" or not part
        raise invalid_field(where if at_result else f"{where}.{part}", error.message) from None
    except ValueError as error:
        raise invalid_field("input.graph", str(error)) from None


def tools_of(given: Contract) -> Iterator[tuple[str, str]]:
    """Every tool that the workflow calls, with the field that names it."""
    if isinstance(given, WorkflowInput):
        yield from _tools(given.graph, "input.graph")


def _tools(node: WorkflowNode, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ToolNode):
        yield f"{path}.tool", node.tool
    if isinstance(node, ToolNode | TaskNode) and node.undo is not None:
        yield f"{path}.undo.tool", node.undo.tool
    if isinstance(node, TaskNode):
        names = node.input.get("tools")
        for i, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str):
                yield f"{path}.input.tools.{i}", name
    for child, where in _children(node, path):
        yield from _tools(child, where)


def _children(node: WorkflowNode, path: str) -> list[tuple[WorkflowNode, str]]:
    if isinstance(node, SequenceNode):
        return [(child, f"{path}.steps.{i}") for i, child in enumerate(node.steps)]
    if isinstance(node, ParallelNode):
        return [(child, f"{path}.branches.{i}") for i, child in enumerate(node.branches)]
    if isinstance(node, MapNode):
        return [(node.do, f"{path}.do")]
    if isinstance(node, ConditionNode):
        found = [(node.then, f"{path}.then")]
        if node.otherwise is not None:
            found.append((node.otherwise, f"{path}.otherwise"))
        return found
    return []


def _last_name(node: nodes.Node) -> str | None:
    if isinstance(node, nodes.Sequence):
        return _last_name(node.nodes[-1])
    return node.name


def _retry(rule: RetryRule | None) -> nodes.Retry | None:
    if rule is None:
        return None
    return nodes.Retry(rule.attempts, rule.first_s, max(rule.first_s, rule.max_s), tuple(rule.on))


def _undo(rule: UndoRule | None) -> nodes.Undo | None:
    return None if rule is None else nodes.Undo(CallTool(rule.tool), rule.input)


def _check(given: Contract) -> None:
    if isinstance(given, WorkflowInput):
        build(given)


def _graph(task: TaskInput) -> Graph:
    return build(WorkflowInput.model_validate(task.request.input))


def _result(_task: TaskInput, outputs: Mapping[str, StepOutput]) -> WorkflowResult:
    return WorkflowResult.model_validate(outputs[RESULT].output)


SPEC = KindSpec(
    kind=TaskKind.WORKFLOW,
    version=1,
    input_model=WorkflowInput,
    build=_graph,
    assemble=_result,
    does="A graph of tools and tasks that the caller writes: in sequence, parallel, map, on "
    "conditions, with approvals by people",
    check=_check,
    dynamic=True,
    result_model=WorkflowResult,
    tools_of=tools_of,
)
