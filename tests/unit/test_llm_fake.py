"""The fake engine: its schemas, scripts and faults."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llm_support import USER, collect, content_of, text_of

from mesh.core.errors import EngineError, InvalidInput, Overloaded, Unavailable
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.llm.fake_schema import instance_of


async def test_a_script_answers_in_turn_and_its_last_repeats() -> None:
    engine = FakeEngine(["one", {"n": 2}, InvalidInput("no")])
    body = {"messages": USER}
    assert content_of(await engine.chat(body, timeout_s=1)) == "one"
    assert json.loads(content_of(await engine.chat(body, timeout_s=1))) == {"n": 2}
    for _ in range(2):
        with pytest.raises(InvalidInput):
            await engine.chat(body, timeout_s=1)
    assert len(engine.bodies) == 4


async def test_faults_come_as_planned() -> None:
    engine = FakeEngine(["a b c"], FaultPlan(refuse_first=1, fail_first=1, die_at_token=3))
    body = {"messages": USER}
    with pytest.raises(Overloaded):
        await engine.chat(body, timeout_s=1)
    with pytest.raises(EngineError):
        await engine.chat(body, timeout_s=1)
    seen: list[dict[str, Any]] = []

    async def read() -> None:
        async for chunk in engine.stream_chat(body, timeout_s=1):
            seen.append(chunk)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(EngineError):
        await read()
    assert text_of(seen) == "a b"
    down = FakeEngine(faults=FaultPlan(unavailable=True))
    with pytest.raises(Unavailable):
        await down.check()


async def test_the_text_survives_its_tokens() -> None:
    for text in ("one two", " lead", "trail ", "a\n\nb\tc", ""):
        chunks = await collect(FakeEngine([text]).stream_chat({"messages": USER}, timeout_s=1))
        assert text_of(chunks) == text


SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "fixed": {"const": 3},
        "texts": {
            "type": "array",
            "items": {"type": "string", "minLength": 30, "maxLength": 31},
            "minItems": 2,
            "maxItems": 3,
        },
        "n": {"type": "integer", "minimum": 5, "maximum": 7},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "yes": {"type": "boolean"},
        "none": {"type": "null"},
        "child": {"$ref": "#/$defs/child"},
    },
    "required": ["kind"],
    "$defs": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
}


@pytest.mark.parametrize("seed", range(20))
def test_instances_obey_their_schema(seed: int) -> None:
    made = instance_of(SCHEMA, seed)
    assert made == instance_of(SCHEMA, seed)
    assert made["kind"] in ("a", "b")
    assert made["fixed"] == 3
    assert 2 <= len(made["texts"]) <= 3
    assert all(30 <= len(text) <= 31 for text in made["texts"])
    assert made["n"] in (5, 6, 7)
    assert 0 <= made["share"] <= 1
    assert isinstance(made["yes"], bool)
    assert made["none"] is None


def test_a_kind_that_json_lacks() -> None:
    with pytest.raises(ValueError):
        instance_of({"type": "date"})
