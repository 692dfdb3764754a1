"""OpenAI's bodies: what is accepted, what is dropped, what is refused and by which name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesh.contracts.json_schema import MAX_DEPTH, MAX_NODES, check_schema
from mesh.contracts.llm import ChatRequest, CompletionRequest, EmbeddingRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def refused_at(body: dict[str, Any], model: type = ChatRequest) -> set[str]:
    """The fields that the refusal names."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return {str(part) for error in caught.value.errors() for part in error["loc"]}


def test_everything_that_openai_clients_send() -> None:
    body = CHAT | {
        "max_completion_tokens": 5,
        "temperature": 1,
        "top_p": 0.5,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["a", "b"],
        "seed": 1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"15": -100},
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "text"},
        "tools": [TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "y",
        "modalities": ["text"],
        "reasoning_effort": "low",
        "verbosity": "low",
    }
    wire = ChatRequest.model_validate(body).to_wire()
    assert wire["max_tokens"] == 5
    dropped = body.keys() - wire.keys()
    assert dropped == ChatRequest.DROPPED | {
        "max_completion_tokens",
        "modalities",
        "reasoning_effort",
        "verbosity",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("n", 2),
        ("stop", ""),
        ("stop", []),
        ("stop", ["x"] * 17),
        ("seed", 2**63),
        ("seed", 1.5),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"1": 101}),
        ("messages", []),
        ("messages", "hi"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("tools", [{"type": "code"}]),
        ("stream", "yes"),
        ("grammar", "root ::= x"),
        ("functions", []),
        ("cache_prompt", True),
        ("id_slot", 1),
    ],
)
def test_wrong_values_are_named(field: str, value: Any) -> None:
    assert field in refused_at(CHAT | {field: value})


@pytest.mark.parametrize(
    "message",
    [
        {"role": "alien", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": 5},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "tool", "content": "x"},
        {"role": "user", "content": "x", "tool_call_id": "1"},
        {"role": "assistant"},
        {"role": "user", "content": "x", "extra": 1},
    ],
)
def test_wrong_messages(message: dict[str, Any]) -> None:
    assert "messages" in refused_at(CHAT | {"messages": [message]})


@pytest.mark.parametrize(
    "more",
    [
        {"stream_options": {"include_usage": True}},
        {"top_logprobs": 2},
        {"tool_choice": "required"},
        {
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "other"}},
        },
        {"max_tokens": 5, "max_completion_tokens": 6},
    ],
)
def test_what_does_not_fit_together(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate(CHAT | more)


def test_a_conversation_with_tools() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c", "content": "5"},
    ]
    wire = ChatRequest.model_validate(CHAT | {"messages": messages, "tools": [TOOL]}).to_wire()
    assert [m["role"] for m in wire["messages"]] == ["system", "user", "assistant", "tool"]
    assert wire["messages"][2] == {"role": "assistant", "tool_calls": [call]}


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_fits_the_engine(seed: int) -> None:
    """32 bits, and never all ones, which engines take for "random"."""
    wire = ChatRequest.model_validate(CHAT | {"seed": seed}).to_wire()
    assert 0 <= wire["seed"] < 2**32 - 1


def test_completions() -> None:
    body = {"model": "m", "prompt": ["one"], "echo": False, "best_of": 1, "suffix": None}
    assert CompletionRequest.model_validate(body).to_wire() == {"model": "m", "prompt": "one"}
    for field, value in (("prompt", ["a", "b"]), ("prompt", []), ("echo", True), ("logprobs", 6)):
        assert field in refused_at(body | {field: value}, CompletionRequest)


def test_embeddings() -> None:
    request = EmbeddingRequest.model_validate({"model": "m", "input": "x", "user": "u"})
    assert request.texts == ["x"]
    assert request.to_wire() == {"model": "m", "input": "x"}
    for value in ("", [], [""], ["x"] * 257, [1, 2], None):
        assert "input" in refused_at({"model": "m", "input": value}, EmbeddingRequest)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (deep(MAX_DEPTH), "deeper"),
        ({"enum": ["x"] * MAX_NODES}, "more than"),
        ({"type": "string", "maxLength": 10**9}, "schema.maxLength"),
        ({"items": {"minItems": 2_001}}, "schema.items.minItems"),
        ({"maxItems": -1}, "schema.maxItems"),
        ({"$ref": "other.json#/a"}, "$ref"),
        ({"pattern": "^" + "a" * 500 + "$"}, "pattern"),
        ({"pattern": "^(a{0,1000}){0,1000}$"}, "pattern"),
        ({"pattern": "^(a{00000000000999}){3}$"}, "pattern"),
    ],
)
def test_schemas_are_bounded(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="schema") as caught:
        check_schema(schema)
    assert says in str(caught.value)
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert "response_format" in refused_at(CHAT | {"response_format": format_})


def test_ordinary_schemas_pass() -> None:
    check_schema(deep(MAX_DEPTH // 2))
    check_schema({"enum": ["x"] * (MAX_NODES - 2)})
    check_schema({"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,4}$", "maxLength": 2_000})
    check_schema({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"})
