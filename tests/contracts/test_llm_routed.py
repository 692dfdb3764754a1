"""A routed client is to its callers what an engine is, and an answer that breaks off is whole:
over the fake, llama.cpp in process, and llama.cpp's own HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson
import pytest
import pytest_asyncio
from llm_support import LIMIT_S, USER, collect, content_of, real_engine, text_of

from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    Unavailable,
    UnknownModel,
)
from mesh.llm.engine import Engine, Wire
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.llm.llamacpp import LlamaCppEngine
from mesh.llm.remote import RemoteEngine, RemoteOptions
from mesh.llm.routing import EngineBackend, RoutedClient, Target

SCHEMA = {
    "type": "object",
    "properties": {"subject": {"type": "string", "maxLength": 30}},
    "required": ["subject"],
    "additionalProperties": False,
}
JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "mail", "schema": SCHEMA}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def llama() -> AsyncIterator[LlamaCppEngine]:
    engine = await asyncio.to_thread(real_engine)
    yield engine
    await engine.aclose()


@pytest_asyncio.fixture(params=["fake", "llama.cpp", "remote"])
async def engine(request: pytest.FixtureRequest, llama: LlamaCppEngine) -> AsyncIterator[Engine]:
    if request.param == "fake":
        yield FakeEngine(model_id="smol", slots=2)
    elif request.param == "llama.cpp":
        yield llama
    else:
        remote = RemoteEngine(
            f"{llama.listening_address}/v1", "smol", llama.api_key, RemoteOptions(slots=2)
        )
        yield remote
        await remote.aclose()


class Broken(EngineBackend):
    """Streams break off after so many bytes of frames, ``times`` times."""

    def __init__(self, engine: Engine, after: int, times: int = 1) -> None:
        super().__init__(engine)
        self.after = after
        self.left = times
        self.bodies: list[Wire] = []

    async def frames(self, body: Wire, **more: Any) -> AsyncGenerator[bytes, None]:
        self.bodies.append(body)
        breaks, sent = self.left > 0, 0
        self.left -= breaks
        async with aclosing(super().frames(body, **more)) as items:
            async for item in items:
                if not item.startswith(b"data: "):
                    yield item
                    continue
                for frame in item.split(b"\n\n")[:-1]:
                    if breaks and sent >= self.after:
                        raise EngineError("broke off, as planned")
                    sent += 1
                    yield frame + b"\n\n"


def routed(*backends: EngineBackend) -> RoutedClient:
    targets = [
        Target(f"e{n}", backend, "smol", prefix="continue_final_message")
        for n, backend in enumerate(backends)
    ]
    return RoutedClient({"fast": targets, "smol": targets}, default="fast")


def said(chunks: list[Wire]) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)


async def test_streams_and_whole_answers_agree(engine: Engine) -> None:
    client = routed(EngineBackend(engine))
    two = routed(EngineBackend(engine), EngineBackend(engine))  # reads a stream inside
    body = {"model": "fast", "messages": USER, "max_tokens": 8, "seed": 3, "temperature": 0}
    stream = body | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = await collect(client.stream_chat(stream, timeout_s=LIMIT_S))
    answer = await client.chat(body, timeout_s=LIMIT_S)
    assert content_of(answer) == content_of(await two.chat(body, timeout_s=LIMIT_S))
    assert content_of(answer) == text_of(chunks)
    assert answer["usage"]["completion_tokens"] == 8
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    frames = [f async for f in client.stream_chat_encoded(stream, timeout_s=LIMIT_S)]
    encoded = [orjson.loads(f[6:]) for f in b"".join(frames).split(b"\n\n") if f]
    assert [c["choices"] for c in encoded] == [c["choices"] for c in chunks]
    text = {"model": "fast", "prompt": "Once upon", "max_tokens": 5, "seed": 3}
    whole = await client.complete(text, timeout_s=LIMIT_S)
    parts = await collect(client.stream_completion(text | {"stream": True}, timeout_s=LIMIT_S))
    assert whole["choices"][0]["text"] == "".join(
        choice["text"] for part in parts for choice in part["choices"]
    )


async def test_errors_are_those_of_an_engine(engine: Engine) -> None:
    client = routed(EngineBackend(engine))
    with pytest.raises(UnknownModel):
        await client.chat({"model": "gpt-9", "messages": USER}, timeout_s=LIMIT_S)
    long = {"messages": [{"role": "user", "content": "word " * 3_000}], "max_tokens": 3}
    with pytest.raises(InvalidInput):
        await collect(client.stream_chat(long | {"stream": True}, timeout_s=LIMIT_S))
    if not isinstance(engine, FakeEngine):
        endless = {"messages": USER, "max_tokens": 900, "ignore_eos": True}
        with pytest.raises(DeadlineExceeded):
            await client.chat(endless, timeout_s=0.2)
        with pytest.raises(DeadlineExceeded):
            await collect(client.stream_chat(endless | {"stream": True}, timeout_s=0.2))
    assert engine.statistics()["active"] == 0
    assert client.statistics()["engines"]["e0"]["breaker"]["failures"] == 0


@pytest.mark.parametrize("after", [0, 2, 5, 12])
@pytest.mark.parametrize("chat", [True, False])
async def test_an_answer_that_breaks_off_is_whole(engine: Engine, after: int, chat: bool) -> None:
    """Greedy, so that what would have been said is known: nothing twice, nothing lost."""
    body: Wire = {"max_tokens": 12, "temperature": 0, "seed": 1, "stream": True}
    body |= {"messages": USER} if chat else {"prompt": "Once upon a time there was a shoe"}
    body["stream_options"] = {"include_usage": True}
    plain, broken = routed(EngineBackend(engine)), routed(Broken(engine, after))

    async def ask(client: RoutedClient) -> list[Wire]:
        stream = client.stream_chat if chat else client.stream_completion
        return await collect(stream(body, timeout_s=LIMIT_S))

    expected, chunks = await ask(plain), await ask(broken)
    assert said(chunks) == said(expected)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [c["finish_reason"] for k in chunks for c in k["choices"]].count(None) == (
        sum(len(k["choices"]) for k in chunks) - 1
    )
    assert chunks[-1]["usage"] == expected[-1]["usage"] | {
        k: v for k, v in chunks[-1]["usage"].items() if k.endswith("_details")
    }
    assert engine.statistics()["active"] == 0


async def test_json_is_played_again(engine: Engine) -> None:
    """A grammar can't go on in the middle: the same seed says the same, and what went out is
    skipped."""
    body: Wire = {
        "messages": USER,
        "max_tokens": 40,
        "seed": 5,
        "stream": True,
        "response_format": JSON_FORMAT,
    }
    plain, backend = routed(EngineBackend(engine)), Broken(engine, 4)
    expected = text_of(await collect(plain.stream_chat(body, timeout_s=LIMIT_S)))
    client = routed(backend)
    again = text_of(await collect(client.stream_chat(body, timeout_s=LIMIT_S)))
    assert again == expected
    json.loads(again)
    assert "messages" in backend.bodies[1]
    assert backend.bodies[1]["messages"] == USER, "no prefix"


async def test_a_replay_that_says_something_else_ends_with_an_error() -> None:
    first = FakeEngine(['{"a": "one two three"}'], model_id="smol")
    second = FakeEngine(['{"a": "one zwei three"}'], model_id="smol")
    client = routed(Broken(first, 4), EngineBackend(second))
    body = {"messages": USER, "stream": True, "response_format": {"type": "json_object"}}
    chunks: list[Wire] = []

    async def read() -> None:
        async for chunk in client.stream_chat(body, timeout_s=LIMIT_S):
            chunks.append(chunk)  # noqa: PERF401 - kept though it ends with an error

    with pytest.raises(EngineError, match="another one"):
        await read()
    assert said(chunks) == '{"a": "one two'
    assert client.statistics()["resumed"] == {"prefix": 0, "replay": 1, "refused": 1}


async def test_a_demanded_tool_call_survives(engine: Engine) -> None:
    if isinstance(engine, RemoteEngine):
        pytest.skip("tools are up to the server over there")
    body: Wire = {
        "messages": [{"role": "user", "content": "Add 2 and 3"}],
        "max_tokens": 80,
        "seed": 1,
        "stream": True,
        "tool_choice": "required",
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "parameters": {
                        "type": "object",
                        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
                        "required": ["a"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
    }

    def call(chunks: list[Wire]) -> Any:
        deltas = [c["delta"] for k in chunks for c in k["choices"]]
        return [d["tool_calls"][0]["function"] for d in deltas if d.get("tool_calls")]

    plain = routed(EngineBackend(engine))
    expected = call(await collect(plain.stream_chat(body, timeout_s=LIMIT_S)))
    broken = routed(Broken(engine, 2))
    chunks = await collect(broken.stream_chat(body, timeout_s=LIMIT_S))
    assert call(chunks) == expected
    assert len(expected) == 1


async def test_closing_a_stream_frees_the_slot(engine: Engine) -> None:
    if isinstance(engine, FakeEngine):
        engine.faults = FaultPlan(token_delay_s=0.01)
    client = routed(EngineBackend(engine))
    body = {"messages": USER, "max_tokens": 900, "ignore_eos": True, "stream": True}
    stream: Any = client.stream_chat(body, timeout_s=LIMIT_S)
    async for _ in stream:
        break
    await stream.aclose()
    assert engine.statistics()["active"] == 0
    assert engine.statistics()["tokens_after_cancel_most"] <= 2
    assert client.statistics()["engines"]["e0"]["active"] == 0


async def test_an_engine_that_can_t_be_reached_is_passed_over(llama: LlamaCppEngine) -> None:
    gone = RemoteEngine("http://127.0.0.1:9/v1", "smol", options=RemoteOptions(connect_s=1))
    client = routed(EngineBackend(gone), EngineBackend(llama))
    answer = await client.chat({"messages": USER, "max_tokens": 3}, timeout_s=LIMIT_S)
    assert answer["usage"]["completion_tokens"] == 3
    alone = routed(EngineBackend(gone))
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await alone.chat({"messages": USER}, timeout_s=0.5)
    await gone.aclose()
