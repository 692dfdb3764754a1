"""One suite for every engine: the fake, llama.cpp in process, and the remote engine pointed at
llama.cpp's own HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from llm_support import LIMIT_S, USER, collect, content_of, real_engine, text_of, until

from mesh.contracts.llm import ChatRequest
from mesh.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    Unavailable,
    UnknownModel,
)
from mesh.llm.engine import Engine
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.llm.llamacpp import LlamaCppEngine
from mesh.llm.remote import RemoteEngine, RemoteOptions

SCHEMA = {
    "type": "object",
    "properties": {
        "subject": {"type": "string", "maxLength": 40},
        "score": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["subject", "score"],
    "additionalProperties": False,
}
LONG = [{"role": "user", "content": "word " * 3_000}]
ENDLESS = {"messages": USER, "max_tokens": 900, "ignore_eos": True}
"""Longer than any test waits."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def llama() -> AsyncIterator[LlamaCppEngine]:
    engine = await asyncio.to_thread(real_engine, queue_limit=1)
    yield engine
    await engine.aclose()


@pytest_asyncio.fixture(params=["fake", "llama.cpp", "remote"])
async def engine(request: pytest.FixtureRequest, llama: LlamaCppEngine) -> AsyncIterator[Engine]:
    if request.param == "fake":
        # slow and endless enough that a test can come in between two tokens
        fake = FakeEngine(
            lambda body: " ".join("word" for _ in range(900)) if "ignore_eos" in body else "hello.",
            FaultPlan(token_delay_s=0.005),
            model_id="smol",
            slots=2,
            queue_limit=1,
        )
        made_up = FakeEngine(model_id="smol", slots=2, queue_limit=1)
        yield fake if "endless" in request.node.keywords else made_up
        return
    if request.param == "llama.cpp":
        yield llama
        return
    remote = RemoteEngine(
        f"{llama.listening_address}/v1",
        "smol",
        llama.api_key,
        RemoteOptions(slots=2, queue_limit=1),
    )
    yield remote
    await remote.aclose()


async def test_a_stream_is_whole(engine: Engine) -> None:
    body = {
        "messages": USER,
        "max_tokens": 6,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chunks = await collect(engine.stream_chat(body, timeout_s=LIMIT_S))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}
    assert chunks[-1]["choices"] == []
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    assert text_of(chunks).strip()
    assert not [c for c in chunks if "timings" in c or "prompt_progress" in c]


async def test_unary_says_what_the_stream_says(engine: Engine) -> None:
    body = {"messages": USER, "max_tokens": 12, "seed": 11}
    streamed = text_of(
        await collect(engine.stream_chat(body | {"stream": True}, timeout_s=LIMIT_S))
    )
    answer = await engine.chat(body, timeout_s=LIMIT_S)
    assert content_of(answer) == streamed
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] == 12


async def test_no_usage_unless_asked(engine: Engine) -> None:
    chunks = await collect(
        engine.stream_chat({"messages": USER, "max_tokens": 3, "stream": True}, timeout_s=LIMIT_S)
    )
    assert not [chunk for chunk in chunks if chunk.get("usage")]


async def test_the_seed_decides(engine: Engine) -> None:
    def body(seed: int) -> dict[str, Any]:
        return {"messages": USER, "max_tokens": 12, "seed": seed, "temperature": 1.5}

    first = content_of(await engine.chat(body(5), timeout_s=LIMIT_S))
    again = content_of(await engine.chat(body(5), timeout_s=LIMIT_S))
    others = {content_of(await engine.chat(body(n), timeout_s=LIMIT_S)) for n in (6, 7, 8)}
    assert first == again
    assert others != {first}


async def test_json_schema_holds(engine: Engine) -> None:
    request = ChatRequest.model_validate(
        {
            "model": "smol",
            "messages": USER,
            "max_tokens": 80,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "mail", "schema": SCHEMA, "strict": True},
            },
        }
    )
    answer = json.loads(content_of(await engine.chat(request.to_wire(), timeout_s=LIMIT_S)))
    assert set(answer) == {"subject", "score"}
    assert isinstance(answer["subject"], str)
    assert len(answer["subject"]) <= 40
    assert 0 <= answer["score"] <= 9


async def test_json_object_is_json(engine: Engine) -> None:
    body = {
        "messages": [{"role": "user", "content": 'Give me a tiny JSON object: {"a": 1}'}],
        "max_tokens": 200,
        "seed": 3,
        "response_format": {"type": "json_object"},
    }
    answer = await engine.chat(body, timeout_s=LIMIT_S)
    if answer["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(content_of(answer)), dict)
    else:
        assert content_of(answer).lstrip().startswith("{")


async def test_a_schema_that_is_none(engine: Engine) -> None:
    if isinstance(engine, FakeEngine):
        pytest.skip("the fake answers any schema that it can")
    body = {
        "messages": USER,
        "max_tokens": 5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "obj"}},
        },
    }
    with pytest.raises(InvalidInput) as caught:
        await engine.chat(body, timeout_s=LIMIT_S)
    assert caught.value.details["field"] == "response_format"


async def test_stop_cuts_the_text(engine: Engine) -> None:
    body = {"messages": USER, "max_tokens": 40, "seed": 9, "temperature": 0}
    whole = content_of(await engine.chat(body, timeout_s=LIMIT_S))
    word = whole.split()[4]
    cut = await engine.chat(body | {"stop": [word]}, timeout_s=LIMIT_S)
    assert content_of(cut).strip() == whole.split(word)[0].strip()
    assert cut["choices"][0]["finish_reason"] == "stop"


async def test_completion(engine: Engine) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 6, "seed": 2}
    answer = await engine.complete(body, timeout_s=LIMIT_S)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"].strip()
    assert answer["usage"]["completion_tokens"] == 6
    chunks = await collect(engine.stream_completion(body | {"stream": True}, timeout_s=LIMIT_S))
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == answer["choices"][0]["text"]


async def test_another_model_is_unknown(engine: Engine) -> None:
    with pytest.raises(UnknownModel):
        await engine.chat({"model": "gpt-9", "messages": USER}, timeout_s=LIMIT_S)
    with pytest.raises(UnknownModel):
        await collect(engine.stream_chat({"model": "gpt-9", "messages": USER}, timeout_s=LIMIT_S))


@pytest.mark.parametrize("unary", [True, False])
async def test_a_prompt_over_the_context(engine: Engine, unary: bool) -> None:
    body = {"messages": LONG, "max_tokens": 5}
    call = (
        engine.chat(body, timeout_s=LIMIT_S)
        if unary
        else collect(engine.stream_chat(body | {"stream": True}, timeout_s=LIMIT_S))
    )
    with pytest.raises(InvalidInput) as caught:
        await call
    assert caught.value.details["field"] == "messages"
    assert caught.value.details["context_tokens"] == 2_048
    assert caught.value.details["prompt_tokens"] > 2_048


@pytest.mark.endless
async def test_closing_a_stream_frees_its_slot(engine: Engine) -> None:
    stream: Any = engine.stream_chat(ENDLESS | {"stream": True}, timeout_s=LIMIT_S)
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == 4:
            break
    assert engine.statistics()["active"] == 1
    await stream.aclose()
    figures = engine.statistics()
    assert figures["active"] == 0
    assert figures["cancelled"] >= 1
    assert figures["tokens_after_cancel"] <= figures["cancelled"]


@pytest.mark.endless
async def test_cancelling_a_unary_call_frees_its_slot(engine: Engine) -> None:
    before = engine.statistics()["tokens_generated"]
    task = asyncio.create_task(engine.chat(ENDLESS, timeout_s=LIMIT_S))
    await until(lambda: engine.statistics()["active"] == 1)
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.statistics()["active"] == 0
    assert engine.statistics()["tokens_generated"] - before < 900


@pytest.mark.endless
async def test_the_deadline_ends_it(engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.chat(ENDLESS, timeout_s=0.3)
    with pytest.raises(DeadlineExceeded):
        await collect(engine.stream_chat(ENDLESS | {"stream": True}, timeout_s=0.3))
    assert engine.statistics()["active"] == 0


@pytest.mark.endless
async def test_the_queue_is_bounded(engine: Engine) -> None:
    """Two run, one waits, the fourth is refused; whoever waits is served when a slot is free."""
    running = [asyncio.create_task(engine.chat(ENDLESS, timeout_s=LIMIT_S)) for _ in range(2)]
    await until(lambda: engine.statistics()["active"] == 2)
    waiting = asyncio.create_task(
        engine.chat({"messages": USER, "max_tokens": 2}, timeout_s=LIMIT_S)
    )
    await until(lambda: engine.statistics()["queued"] == 1)
    with pytest.raises(Overloaded) as caught:
        await engine.chat({"messages": USER, "max_tokens": 2}, timeout_s=LIMIT_S)
    assert caught.value.retry_after_s
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert (await waiting)["choices"]
    assert engine.statistics()["active"] == 0
    assert engine.statistics()["queued"] == 0


@pytest.mark.endless
async def test_a_deadline_may_pass_in_the_queue(engine: Engine) -> None:
    running = [asyncio.create_task(engine.chat(ENDLESS, timeout_s=LIMIT_S)) for _ in range(2)]
    await until(lambda: engine.statistics()["active"] == 2)
    with pytest.raises(DeadlineExceeded):
        await engine.chat({"messages": USER, "max_tokens": 2}, timeout_s=0.1)
    assert engine.statistics()["queued"] == 0
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert engine.statistics()["active"] == 0


async def test_it_says_what_it_is(engine: Engine) -> None:
    info = engine.info
    assert info.models == ("smol",)
    assert info.context_tokens == 2_048
    assert info.slots == 2
    await engine.check()


async def test_closed_means_closed() -> None:
    engines: list[Engine] = [await asyncio.to_thread(real_engine), FakeEngine(model_id="smol")]
    for engine in engines:
        running = asyncio.create_task(engine.chat({"messages": USER}, timeout_s=LIMIT_S))
        await asyncio.sleep(0)
        await engine.aclose()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(Unavailable):
            await engine.chat({"messages": USER, "max_tokens": 2}, timeout_s=LIMIT_S)
        assert engine.statistics()["active"] == 0


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
async def test_a_demanded_tool_is_called(engine: Engine, choice: str | dict[str, Any]) -> None:
    if isinstance(engine, RemoteEngine):
        pytest.skip("tools are up to the server over there")
    number = {"type": "integer", "minimum": 0, "maximum": 9}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Add 2 and 3"}],
        "max_tokens": 120,
        "seed": 1,
        "tool_choice": choice,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "description": "Add two numbers",
                    "parameters": {
                        "type": "object",
                        "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}},
                        "required": ["a", "b"],
                        "$defs": {"n": number},
                    },
                },
            }
        ],
    }
    answer = await engine.chat(body, timeout_s=LIMIT_S)
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    [call] = message["tool_calls"]
    assert call["function"]["name"] == "add"
    assert set(json.loads(call["function"]["arguments"])) == {"a", "b"}
    chunks = await collect(engine.stream_chat(body | {"stream": True}, timeout_s=LIMIT_S))
    deltas = [c["delta"] for chunk in chunks for c in chunk["choices"]]
    assert not [d for d in deltas if d.get("content")]
    assert [d["tool_calls"][0]["function"] for d in deltas if "tool_calls" in d] == [
        call["function"]
    ]
