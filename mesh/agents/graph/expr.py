"""Conditions over earlier outputs: a closed tree of comparisons that is never evaluated as code.

::

    {"op": "all", "of": [
        {"op": "gt", "left": {"ref": "check.spam"}, "right": {"value": 0.5}},
        {"op": "not", "of": {"op": "exists", "ref": "draft.subject"}}]}

Comparing what can't be compared (a text with a number) is false, never an error: a condition
has an answer for every output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mesh.agents.graph.refs import Ref
from mesh.contracts.base import Contract

Plain = str | int | float | bool | None
MAX_DEPTH = 8


class Value(Contract):
    """A constant."""

    value: Plain | list[Plain]


class Reference(Contract):
    """What an earlier step gave; null where it gave nothing."""

    ref: str = Field(max_length=500)

    @field_validator("ref")
    @classmethod
    def _well_formed(cls, ref: str) -> str:
        Ref.parse(ref)
        return ref

    def read(self, values: Mapping[str, Any]) -> Any:
        ref = Ref.parse(self.ref)
        return Ref(ref.root, ref.path, optional=True).read(values)


Operand = Value | Reference


class Compare(Contract):
    """``in``: the left is an element, or a piece of text, of the right."""

    op: Literal["eq", "ne", "lt", "le", "gt", "ge", "in"]
    left: Operand
    right: Operand


class Exists(Contract):
    """The reference leads to something that is not null."""

    op: Literal["exists"]
    ref: str = Field(max_length=500)

    @field_validator("ref")
    @classmethod
    def _well_formed(cls, ref: str) -> str:
        Ref.parse(ref)
        return ref


class Not(Contract):
    op: Literal["not"]
    of: Expr


class Several(Contract):
    """``all`` or ``any`` of them."""

    op: Literal["all", "any"]
    of: list[Expr] = Field(min_length=1, max_length=16)


Expr = Annotated[Compare | Exists | Not | Several, Field(discriminator="op")]

Not.model_rebuild()
Several.model_rebuild()


def holds(expr: Expr, values: Mapping[str, Any]) -> bool:
    """Pure: the same outputs give the same answer."""
    if isinstance(expr, Compare):
        return _compare(expr.op, _operand(expr.left, values), _operand(expr.right, values))
    if isinstance(expr, Exists):
        return Reference(ref=expr.ref).read(values) is not None
    if isinstance(expr, Not):
        return not holds(expr.of, values)
    answers = (holds(part, values) for part in expr.of)
    return all(answers) if expr.op == "all" else any(answers)


def refs_of_expr(expr: Expr, depth: int = 0) -> Iterator[Ref]:
    """Every reference in it. Raises ValueError when it is nested too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"a condition may be nested {MAX_DEPTH} deep")
    if isinstance(expr, Compare):
        for side in (expr.left, expr.right):
            if isinstance(side, Reference):
                yield Ref.parse(side.ref)
    elif isinstance(expr, Exists):
        yield Ref.parse(expr.ref)
    elif isinstance(expr, Not):
        yield from refs_of_expr(expr.of, depth + 1)
    else:
        for part in expr.of:
            yield from refs_of_expr(part, depth + 1)


def _operand(operand: Operand, values: Mapping[str, Any]) -> Any:
    return operand.value if isinstance(operand, Value) else operand.read(values)


def _compare(op: str, left: Any, right: Any) -> bool:
    if op == "eq":
        return _same(left, right)
    if op == "ne":
        return not _same(left, right)
    if op == "in":
        if isinstance(right, str):
            return isinstance(left, str) and left in right
        return isinstance(right, list | tuple) and any(_same(left, item) for item in right)
    if not _ordered(left, right):
        return False
    if op == "lt":
        return bool(left < right)
    if op == "le":
        return bool(left <= right)
    return bool(left > right) if op == "gt" else bool(left >= right)


def _same(left: Any, right: Any) -> bool:
    # In Python True equals 1; in JSON it does not.
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _ordered(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return True
    return _number(left) and _number(right)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
