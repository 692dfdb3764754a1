"""Is a graph sound? Checked once, when it is built: before any of its steps can run.

Names are its own and well formed; every reference names something that surely comes before it
(so there are no cycles) and, where models are declared, leads to a field that exists and fits;
every node can be reached; the whole is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.agents.graph import types
from mesh.agents.graph.expr import refs_of_expr
from mesh.agents.graph.nodes import (
    Approval,
    Condition,
    Map,
    Node,
    Parallel,
    Sequence,
    Step,
    children,
)
from mesh.agents.graph.refs import INDEX, INPUT, ITEM, NAME, RESERVED, Ref, refs_of
from mesh.agents.graph.types import ANY, Schema

MAX_NODES = 400
MAX_DEPTH = 12


class GraphError(ValueError):
    """The graph is not sound. ``node`` is where, ``part`` which of its fields."""

    def __init__(self, message: str, node: Node | None = None, part: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.part = part


@dataclass(frozen=True, slots=True)
class _Known:
    """What may be referred to at one place."""

    surely: Mapping[str, Schema]
    maybe: Mapping[str, Schema] = field(default_factory=dict)
    """Only by an optional reference: the branch may not have been taken."""

    def plus(self, surely: Mapping[str, Schema], maybe: Mapping[str, Schema]) -> _Known:
        return _Known({**self.surely, **surely}, {**self.maybe, **maybe})


def check(root: Node, given: Schema = ANY) -> None:
    """Raises GraphError. ``given``: the schema of what ``input`` refers to."""
    _Check().run(root, given)


class _Check:
    def __init__(self) -> None:
        self._names: set[str] = set()
        self._count = 0

    def run(self, root: Node, given: Schema) -> None:
        self._shape(root, 0)
        self._node(root, _Known({INPUT: given}))

    def _shape(self, node: Node, depth: int) -> None:
        self._count += 1
        if self._count > MAX_NODES:
            raise GraphError(f"a graph may have {MAX_NODES} nodes", node)
        if depth > MAX_DEPTH:
            raise GraphError(f"a graph may be nested {MAX_DEPTH} deep", node)
        name = getattr(node, "name", None)
        if name is not None:
            self._name(node, name)
        if isinstance(node, Sequence | Parallel) and not node.nodes:
            raise GraphError("has nothing in it", node, "nodes")
        if isinstance(node, Map) and not (1 <= node.max_items <= 1_000 and node.concurrency >= 1):
            raise GraphError("max_items is 1 to 1000, concurrency at least 1", node, "max_items")
        if isinstance(node, Step) and node.timeout_s is not None and node.timeout_s <= 0:
            raise GraphError("must be more than zero", node, "timeout_s")
        if isinstance(node, Approval) and node.timeout_s <= 0:
            raise GraphError("must be more than zero", node, "timeout_s")
        for child in children(node):
            self._shape(child, depth + 1)

    def _name(self, node: Node, name: str) -> None:
        if not well_named(name):
            raise GraphError(f"{name[:60]!r} is no name; one looks like draft_2", node, "name")
        if name in RESERVED:
            raise GraphError(f"{name!r} is taken: it means something in references", node, "name")
        if name in self._names:
            raise GraphError(f"{name!r} is the name of another node, too", node, "name")
        self._names.add(name)

    def _node(self, node: Node, known: _Known) -> tuple[dict[str, Schema], dict[str, Schema]]:
        """Checks it; gives what it surely and maybe adds for those after it."""
        if isinstance(node, Step):
            return self._step(node, known)
        if isinstance(node, Approval):
            self._refs(node, "question", node.question, known)
            return {node.name: _VERDICT}, {}
        if isinstance(node, Sequence):
            surely: dict[str, Schema] = {}
            maybe: dict[str, Schema] = {}
            for child in node.nodes:
                more, perhaps = self._node(child, known.plus(surely, maybe))
                surely |= more
                maybe |= perhaps
            return surely, maybe
        if isinstance(node, Parallel):
            return self._parallel(node, known)
        if isinstance(node, Map):
            self._map(node, known)
            return {node.name: _GATHERED}, {}
        return self._condition(node, known)

    def _step(self, node: Step, known: _Known) -> tuple[dict[str, Schema], dict[str, Schema]]:
        if node.input is not None:
            self._refs(node, "input", node.input, known)
            self._fits(node, node.input, known)
        output = types.output_schema(node.agent)
        if node.undo is not None:
            self._refs(node, "undo", node.undo.input, known.plus({node.name: output}, {}))
        for name in node.handoffs:
            if not well_named(name):
                raise GraphError(f"{name[:60]!r} is no name", node, "handoffs")
        if node.handoffs:
            output = ANY  # whoever had it last has said it
        return {node.name: output}, {}

    def _parallel(
        self, node: Parallel, known: _Known
    ) -> tuple[dict[str, Schema], dict[str, Schema]]:
        surely: dict[str, Schema] = {}
        maybe: dict[str, Schema] = {}
        for child in node.nodes:
            more, perhaps = self._node(child, known)  # branches do not see each other
            if node.gather == "collect":
                maybe |= more  # it may have failed
            else:
                surely |= more
            maybe |= perhaps
        if node.name is not None:
            surely[node.name] = _BRANCHES
        return surely, maybe

    def _map(self, node: Map, known: _Known) -> None:
        self._ref(node, "over", node.over, known)
        found = types.at(self._schema(node.over, known), node.over.path)
        if not types.fits(types.kinds(found or [ANY]), frozenset({"array"})):
            raise GraphError(f"{node.over} is no list", node, "over")
        element = [
            item for arm in found or [ANY] for item in types.arms(arm.get("items", ANY), arm)
        ]
        item = element[0] if len(element) == 1 and "$ref" not in element[0] else ANY
        self._node(node.body, known.plus({ITEM: item, INDEX: {"type": "integer"}}, {}))

    def _condition(
        self, node: Condition, known: _Known
    ) -> tuple[dict[str, Schema], dict[str, Schema]]:
        try:
            refs = list(refs_of_expr(node.when))
        except ValueError as error:
            raise GraphError(str(error), node, "when") from None
        if not refs:
            raise GraphError(
                "compares constants: one of its branches can't be reached", node, "when"
            )
        for ref in refs:
            # A condition may ask whether something is there at all.
            self._ref(node, "when", replace(ref, optional=True), known)
        maybe: dict[str, Schema] = {}
        for child in children(node):
            more, perhaps = self._node(child, known)
            maybe |= more | perhaps
        return ({node.name: ANY} if node.name is not None else {}), maybe

    def _refs(self, node: Node, part: str, binding: Any, known: _Known) -> None:
        try:
            refs = list(refs_of(binding))
        except ValueError as error:
            raise GraphError(str(error), node, part) from None
        for ref in refs:
            self._ref(node, part, ref, known)

    def _ref(self, node: Node, part: str, ref: Ref, known: _Known) -> None:
        if ref.root in known.surely:
            if types.at(known.surely[ref.root], ref.path) is None:
                raise GraphError(f"{ref}: {ref.root} gives no such field", node, part)
        elif ref.root in known.maybe:
            if not ref.optional:
                raise GraphError(
                    f"{ref}: {ref.root} may not have run; write {ref}? for null then", node, part
                )
        elif ref.root in self._names:
            raise GraphError(f"{ref}: {ref.root} does not come before this", node, part)
        elif ref.root in (ITEM, INDEX):
            raise GraphError(f"{ref} means something only within a map", node, part)
        else:
            raise GraphError(f"{ref}: there is nothing named {ref.root}", node, part)

    def _schema(self, ref: Ref, known: _Known) -> Schema:
        return known.surely.get(ref.root, ANY)

    def _fits(self, node: Step, binding: Any, known: _Known) -> None:
        """The binding against the agent's input model, as far as both are known."""
        schema = types.input_schema(node.agent)
        if not schema or not isinstance(binding, Mapping) or "$ref" in binding:
            return
        properties = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in binding:
                raise GraphError(f"{node.agent.name} needs {name}", node, f"input.{name}")
        for name, value in binding.items():
            if name not in properties:
                if schema.get("additionalProperties", True) is False:
                    raise GraphError(f"{node.agent.name} takes no {name}", node, f"input.{name}")
                continue
            wanted = types.kinds(types.arms(properties[name], schema))
            if not types.fits(self._kinds(value, known), wanted):
                raise GraphError(
                    f"{node.agent.name} takes {' or '.join(sorted(wanted or ()))} here",
                    node,
                    f"input.{name}",
                )

    def _kinds(self, value: Any, known: _Known) -> frozenset[str] | None:
        if isinstance(value, Mapping) and "$ref" in value:
            ref = Ref.parse(value["$ref"])
            if ref.optional:
                return None
            return types.kinds(types.at(self._schema(ref, known), ref.path) or [ANY])
        if isinstance(value, Mapping) and "$text" in value:
            return frozenset({"string"})
        return types.kind_of(value)


def well_named(name: str) -> bool:
    """Whether it may be a node's name."""
    return _NAME.fullmatch(name) is not None


_NAME = re.compile(NAME)
_LIST: Schema = {"type": "array"}
_VERDICT: Schema = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "comment": {"type": "string"},
        "by": {},
        "timed_out": {"type": "boolean"},
    },
    "additionalProperties": False,
}
_GATHERED: Schema = {
    "type": "object",
    "properties": {"items": _LIST, "failed": _LIST},
    "additionalProperties": False,
}
_BRANCHES: Schema = {
    "type": "object",
    "properties": {"branches": _LIST, "failed": _LIST},
    "additionalProperties": False,
}
