"""What is no sound graph is refused when it is built; conditions and references are closed."""

from __future__ import annotations

from typing import Any

import pytest
from graph_support import Agent
from pydantic import Field, TypeAdapter, ValidationError

from mesh.agents.graph import (
    Approval,
    Condition,
    Graph,
    GraphError,
    Map,
    Node,
    Parallel,
    Ref,
    Retry,
    Sequence,
    Step,
    Undo,
)
from mesh.agents.graph.expr import Expr, holds, refs_of_expr
from mesh.agents.graph.refs import fill, refs_of
from mesh.contracts.base import Contract
from mesh.core.errors import InvalidInput


class Words(Contract):
    text: str
    tags: list[str] = Field(default_factory=list)
    count: int = 0


class Wants(Contract):
    text: str
    limit: int = 3


class Typed(Agent):
    input_model = Wants
    output_model = Words


EXPR: TypeAdapter[Expr] = TypeAdapter(Expr)


def expr(**given: Any) -> Expr:
    return EXPR.validate_python(given)


def step(name: str, binding: Any = None, **more: Any) -> Step:
    return Step(name, Agent(f"agent-{name}"), binding, **more)


def ref(text: str) -> dict[str, str]:
    return {"$ref": text}


def typed(name: str, binding: Any) -> Step:
    return Step(name, Typed(name), binding)


EXISTS = EXPR.validate_python({"op": "exists", "ref": "a.value"})
GOOD = typed("t", {"text": "x"})

WRONG: list[tuple[Node, str, str]] = [
    (Sequence(()), "nothing in it", "nodes"),
    (Parallel(()), "nothing in it", "nodes"),
    (Sequence((step("a"), step("a"))), "another node", "name"),
    (step("A"), "no name", "name"),
    (step("a/b"), "no name", "name"),
    (step("item"), "taken", "name"),
    (step("a", {"x": ref("b.y")}), "nothing named b", "input"),
    (step("a", {"x": ref("a.y")}), "does not come before", "input"),
    (Sequence((step("a", {"x": ref("b")}), step("b"))), "does not come before", "input"),
    (Parallel((step("a"), step("b", {"x": ref("a")}))), "does not come before", "input"),
    (step("a", {"x": ref("item")}), "within a map", "input"),
    (step("a", {"x": {"$text": "{b.y}"}}), "nothing named b", "input"),
    (step("a", {"x": ref("no ref")}), "no reference", "input"),
    (step("a", {"$ref": "input", "more": 1}), "stands alone", "input"),
    (step("a", undo=Undo(Agent("u"), ref("b"))), "nothing named b", "undo"),
    (step("a", timeout_s=0), "more than zero", "timeout_s"),
    (step("a", handoffs={"No name": Agent("x")}), "no name", "handoffs"),
    (Approval("a", ref("b.c")), "nothing named b", "question"),
    (
        Sequence((step("a"), Condition(EXISTS, step("b"), None), step("c", {"x": ref("b.value")}))),
        "may not have run",
        "input",
    ),
    (
        Sequence((Parallel((step("a"),), "p", "collect"), step("c", {"x": ref("a.value")}))),
        "may not have run",
        "input",
    ),
    (
        Condition(expr(op="eq", left={"value": 1}, right={"value": 1}), step("a"), None),
        "can't be reached",
        "when",
    ),
    (Condition(EXISTS, step("b"), None), "nothing named a", "when"),
    (Map("m", Ref.parse("x.items"), step("a")), "nothing named x", "over"),
    (Sequence((GOOD, Map("m", Ref.parse("t.text"), step("a")))), "no list", "over"),
    (Sequence((GOOD, step("b", {"x": ref("t.nothing")}))), "no such field", "input"),
    (typed("b", {"limit": 1}), "needs text", "input.text"),
    (typed("b", {"text": "x", "other": 1}), "takes no other", "input.other"),
    (typed("b", {"text": 1}), "takes string", "input.text"),
    (Sequence((GOOD, typed("b", {"text": ref("t.count")}))), "takes string", "input.text"),
    (
        Sequence((GOOD, typed("b", {"text": "x", "limit": {"$text": "{t.count}"}}))),
        "takes integer",
        "input.limit",
    ),
    (Map("m", Ref.parse("input.x"), step("a"), max_items=0), "max_items", "max_items"),
    (Sequence(tuple(step(f"s{i}") for i in range(500))), "400 nodes", ""),
]


@pytest.mark.parametrize(("node", "words", "part"), WRONG, ids=lambda v: v if v else "-")
def test_an_unsound_graph_is_refused(node: Node, words: str, part: str) -> None:
    with pytest.raises(GraphError, match=words) as caught:
        Graph(node)
    assert caught.value.part == part
    assert caught.value.node is not None


def test_what_is_nested_too_deep_or_too_large_is_refused() -> None:
    node: Node = step("a")
    for _ in range(14):
        node = Sequence((node,))
    with pytest.raises(GraphError, match="12 deep"):
        Graph(node)
    inner = Map("inner", Ref.parse("input.x"), step("b"), max_items=1_000)
    with pytest.raises(ValueError, match="more than 32000"):
        Graph(Map("outer", Ref.parse("input.x"), inner, max_items=1_000))


def test_what_fits_is_taken() -> None:
    optional = {"x": ref("b.value?")}
    Graph(
        Sequence(
            (
                GOOD,
                typed("u", {"text": ref("t.text"), "limit": ref("t.count")}),
                step("a"),
                Condition(EXISTS, step("b"), None, "either"),
                step("c", optional),
                Map("m", Ref.parse("t.tags"), typed("d", {"text": ref("item")})),
                step("e", {"x": ref("either?"), "y": ref("m.items.0"), "z": ref("input.any")}),
            )
        )
    )


def test_two_graphs_that_differ_hash_differently() -> None:
    def graphs() -> list[Graph]:
        return [
            Graph(step("a")),
            Graph(step("b")),
            Graph(Step("a", Agent("other"))),
            Graph(Sequence((step("a"),))),
            Graph(step("a", {"x": 1})),
            Graph(step("a", retry=Retry(2))),
            Graph(step("a", undo=Undo(Agent("u")))),
            Graph(Approval("a")),
            Graph(Approval("a", on_reject="continue")),
        ]

    hashes = [graph.hash() for graph in graphs()]
    assert len(set(hashes)) == len(hashes)
    assert [graph.hash() for graph in graphs()] == hashes


VALUES: dict[str, Any] = {"a": {"n": 2, "s": "abc", "yes": True, "l": [1, "x"], "none": None}}


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"op": "eq", "left": {"ref": "a.n"}, "right": {"value": 2}}, True),
        ({"op": "eq", "left": {"ref": "a.n"}, "right": {"value": 2.0}}, True),
        ({"op": "eq", "left": {"ref": "a.yes"}, "right": {"value": 1}}, False),
        ({"op": "ne", "left": {"ref": "a.yes"}, "right": {"value": True}}, False),
        ({"op": "lt", "left": {"ref": "a.n"}, "right": {"value": 3}}, True),
        ({"op": "le", "left": {"ref": "a.n"}, "right": {"value": 2}}, True),
        ({"op": "gt", "left": {"ref": "a.n"}, "right": {"value": "1"}}, False),
        ({"op": "ge", "left": {"ref": "a.s"}, "right": {"value": "abb"}}, True),
        ({"op": "gt", "left": {"ref": "a.yes"}, "right": {"value": 0}}, False),
        ({"op": "lt", "left": {"ref": "a.nothing"}, "right": {"value": 3}}, False),
        ({"op": "in", "left": {"value": "x"}, "right": {"ref": "a.l"}}, True),
        ({"op": "in", "left": {"value": "b"}, "right": {"ref": "a.s"}}, True),
        ({"op": "in", "left": {"value": 1}, "right": {"ref": "a.s"}}, False),
        ({"op": "in", "left": {"value": True}, "right": {"ref": "a.l"}}, False),
        ({"op": "exists", "ref": "a.n"}, True),
        ({"op": "exists", "ref": "a.none"}, False),
        ({"op": "exists", "ref": "b.n"}, False),
        ({"op": "exists", "ref": "a.l.1"}, True),
        ({"op": "exists", "ref": "a.l.2"}, False),
        ({"op": "not", "of": {"op": "exists", "ref": "b"}}, True),
        (
            {"op": "all", "of": [{"op": "exists", "ref": "a"}, {"op": "exists", "ref": "b"}]},
            False,
        ),
        ({"op": "any", "of": [{"op": "exists", "ref": "a"}, {"op": "exists", "ref": "b"}]}, True),
    ],
)
def test_conditions(given: dict[str, Any], answer: bool) -> None:
    assert holds(EXPR.validate_python(given), VALUES) is answer


@pytest.mark.parametrize(
    "given",
    [
        {"op": "eval", "code": "1"},
        {"op": "eq", "left": {"ref": "__import__('os')"}, "right": {"value": 1}},
        {"op": "exists", "ref": "a.b()"},
        {"op": "exists", "ref": "a.__class__.x y"},
        {"op": "all", "of": []},
        {"op": "eq", "left": {"value": {"an": "object"}}, "right": {"value": 1}},
    ],
)
def test_conditions_are_closed(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EXPR.validate_python(given)


def test_a_reference_reads_json_and_no_attributes() -> None:
    for path in ("a.s.upper", "a.l.append", "a.n.real", "a.s.__class__"):
        with pytest.raises(InvalidInput, match="refers to nothing"):
            fill({"$ref": path}, VALUES)
        assert fill({"$ref": f"{path}?"}, VALUES) is None


def test_a_condition_may_not_be_nested_for_ever() -> None:
    deep: dict[str, Any] = {"op": "exists", "ref": "a"}
    for _ in range(10):
        deep = {"op": "not", "of": deep}
    with pytest.raises(ValueError, match="deep"):
        list(refs_of_expr(EXPR.validate_python(deep)))


def test_texts_are_filled() -> None:
    binding = {"$text": "{{{a.s}}} has {a.n} of {a.l} {a.none?}."}
    assert fill(binding, VALUES) == '{abc} has 2 of [1,"x"] .'
    assert [str(found) for found in refs_of(binding)] == ["a.s", "a.n", "a.l", "a.none?"]
    with pytest.raises(InvalidInput, match="longer than"):
        fill({"$text": "{a.s}"}, {"a": {"s": "x" * 200_001}})


def test_retries_say_what_they_are() -> None:
    for wrong in ({"attempts": 0}, {"attempts": 101}, {"first_s": 2.0, "max_s": 1.0}):
        with pytest.raises(ValueError, match=r"attempts|first_s"):
            Retry(**wrong)  # type: ignore[arg-type]
    pauses = [Retry(9, 1.0, 5.0).pause_s(n, 0.0, None) for n in (1, 2, 3, 4)]
    assert pauses == [1.0, 2.0, 4.0, 5.0]
    assert Retry(9, 1.0, 5.0).pause_s(1, 1.0, 4.0) == 2.0
