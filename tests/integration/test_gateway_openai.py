"""OpenAI's API: the official client, unmodified, and what it does not show."""

from __future__ import annotations

import asyncio
import base64
import json
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import pytest_asyncio
from gateway_support import EngineModels, House, build_house, until

from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app
from serve_apps.gateway.headers import timeout_of
from serve_apps.gateway.sse import EventStream

CHAT = "/v1/chat/completions"
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
HELLO: dict[str, Any] = {"model": "fake", "messages": MESSAGES, "max_tokens": 8}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


def with_faults(house: House, faults: FaultPlan, **gateway: Any) -> House:
    """The same house over an engine that fails by plan."""
    changed = house.changed(**gateway)
    engine = FakeEngine(faults=faults, slots=2, queue_limit=1)
    deps = replace(changed.gateway, models=EngineModels(engine))
    return replace(changed, gateway=deps, app=create_app(deps), engine=engine)


@pytest_asyncio.fixture
async def client(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    async with house.client() as http:
        yield openai.AsyncOpenAI(
            base_url="http://gateway/v1", api_key=house.key, http_client=http, max_retries=0
        )


async def test_official_client_models(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert names == ["fake", "fake-embed"]
    assert (await client.models.retrieve("fake")).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


async def test_official_client_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**HELLO)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    again = await client.chat.completions.create(**HELLO)
    assert again.choices[0].message.content == answer.choices[0].message.content


async def test_official_client_streams_the_same_text(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**HELLO)
    stream = await client.chat.completions.create(
        **HELLO, stream=True, stream_options={"include_usage": True}
    )
    pieces, usage = "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += choice.delta.content or ""
    assert pieces == whole.choices[0].message.content
    assert usage is not None
    assert usage.completion_tokens == 8


async def test_official_client_json_schema(client: openai.AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"subject": {"type": "string"}, "urgent": {"type": "boolean"}},
        "required": ["subject", "urgent"],
        "additionalProperties": False,
    }
    answer = await client.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "mail", "strict": True, "schema": schema},
        },
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert isinstance(value["urgent"], bool)


async def test_official_client_completions(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="fake", prompt="Once upon", max_tokens=5)
    assert answer.choices[0].text
    stream = await client.completions.create(
        model="fake", prompt="Once upon", max_tokens=5, stream=True
    )
    text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    assert text == answer.choices[0].text


async def test_official_client_embeddings_in_both_encodings(client: openai.AsyncOpenAI) -> None:
    texts = ["spring sale", "tax law"]
    default = await client.embeddings.create(model="fake-embed", input=texts)  # base64 inside
    plain = await client.embeddings.create(model="fake-embed", input=texts, encoding_format="float")
    for one, two in zip(default.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(two.embedding, abs=1e-6)
    assert len(default.data[0].embedding) == 16


async def test_base64_is_little_endian_float32(house: House) -> None:
    async with house.client() as http:
        body = {"model": "fake-embed", "input": "x"}
        plain = (await http.post("/v1/embeddings", json=body)).json()["data"][0]["embedding"]
        coded = (
            await http.post("/v1/embeddings", json=body | {"encoding_format": "base64"})
        ).json()["data"][0]["embedding"]
        assert array("f", base64.b64decode(coded)).tolist() == pytest.approx(plain, abs=1e-6)
        wrong = await http.post("/v1/embeddings", json=body | {"dimensions": 3})
        assert wrong.status_code == 422
        assert wrong.json()["details"]["field"] == "dimensions"


async def test_official_client_errors(house: House) -> None:
    async with house.client("") as http:
        client = openai.AsyncOpenAI(
            base_url="http://gateway/v1", api_key="mk_wrong", http_client=http, max_retries=0
        )
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
        assert caught.value.code == "invalid_api_key"
    async with house.client() as http:
        client = openai.AsyncOpenAI(
            base_url="http://gateway/v1", api_key=house.key, http_client=http, max_retries=0
        )
        with pytest.raises(openai.UnprocessableEntityError) as unprocessable:
            await client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=-1)
        assert unprocessable.value.param == "max_tokens"


async def test_a_refusal_before_the_first_token_is_a_status(house: House) -> None:
    refusing = with_faults(house, FaultPlan(refuse_first=1))
    async with refusing.client() as http:
        answer = await http.post(CHAT, json=HELLO | {"stream": True})
        assert answer.status_code == 503
        assert answer.json()["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) >= 1
        assert (await http.post(CHAT, json=HELLO | {"stream": True})).status_code == 200
    failing = with_faults(house, FaultPlan(fail_first=2))
    async with failing.client() as http:
        for stream in (True, False):
            answer = await http.post(CHAT, json=HELLO | {"stream": stream})
            assert answer.status_code == 502
            assert answer.json()["code"] == "engine_error"


async def test_a_death_in_the_middle_is_a_typed_event_and_the_end(house: House) -> None:
    dying = with_faults(house, FaultPlan(die_at_token=3))
    async with dying.client() as http:
        answer = await http.post(CHAT, json=HELLO | {"stream": True})
        assert answer.status_code == 200
        frames = answer.text.strip().split("\n\n")
        assert frames[-1].startswith("event: error\ndata: ")
        body = json.loads(frames[-1].split("data: ")[1])
        assert body["code"] == "engine_error"
        assert body["traceId"] == answer.headers["x-trace-id"]
        assert body["error"]["type"] == "server_error"
        assert "[DONE]" not in answer.text
        client = openai.AsyncOpenAI(
            base_url="http://gateway/v1", api_key=house.key, http_client=http, max_retries=0
        )
        stream = aiter(await client.chat.completions.create(**HELLO, stream=True))
        pieces = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
        assert [bool(piece) for piece in pieces] == [False, True, True]
        with pytest.raises(openai.APIError):
            await anext(stream)


async def test_the_deadline_of_the_caller_frees_the_slot(house: House) -> None:
    hanging = with_faults(house, FaultPlan(hang_at_token=2))
    async with hanging.client() as http:
        http.headers["x-request-timeout-seconds"] = "0.3"
        answer = await http.post(CHAT, json=HELLO)
        assert answer.status_code == 504
        assert answer.json()["code"] == "deadline_exceeded"
        answer = await http.post(CHAT, json=HELLO | {"stream": True})
        assert "deadline_exceeded" in answer.text
    assert hanging.engine.statistics()["active"] == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_slot(house: House, stream: bool) -> None:
    hanging = with_faults(house, FaultPlan(hang_at_token=3))
    sent: list[Any] = []
    gone = asyncio.Event()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            body = json.dumps(HELLO | {"stream": stream}).encode()
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "headers": [
            (b"authorization", f"Bearer {house.key}".encode()),
            (b"content-type", b"application/json"),
        ],
    }
    request = asyncio.create_task(hanging.app(scope, receive, send))
    await until(lambda: hanging.engine.statistics()["active"] > 0)
    gone.set()
    await asyncio.wait_for(request, 5)
    assert hanging.engine.statistics()["active"] == 0
    assert hanging.engine.statistics()["cancelled"] == 1
    assert sent[0]["status"] == (200 if stream else 499)


async def test_idempotent_answers_are_replayed(house: House) -> None:
    async with house.client() as http, house.client(house.other) as foreign:
        for name, path, body in (
            ("chat", CHAT, HELLO),
            ("stream", CHAT, HELLO | {"stream": True}),
            ("text", "/v1/completions", {"model": "fake", "prompt": "x", "max_tokens": 4}),
            ("vector", "/v1/embeddings", {"model": "fake-embed", "input": "x"}),
        ):
            headers = {"idempotency-key": name}
            before = len(house.engine.bodies)
            first = await http.post(path, json=body, headers=headers)
            again = await http.post(path, json=body, headers=headers)
            assert first.status_code == again.status_code == 200
            assert first.content == again.content
            assert first.headers["content-type"] == again.headers["content-type"]
            assert "idempotency-replayed" not in first.headers
            assert again.headers["idempotency-replayed"] == "true"
            assert len(house.engine.bodies) - before == (0 if name == "vector" else 1)
            other = await http.post(path, json=body | {"user": "u"}, headers=headers)
            assert other.status_code == 422
            assert other.json()["code"] == "idempotency_mismatch"
            theirs = await foreign.post(path, json=body | {"user": "u"}, headers=headers)
            assert theirs.status_code == 200  # another workspace's keys are its own


async def test_errors_are_not_kept(house: House) -> None:
    failing = with_faults(house, FaultPlan(fail_first=1))
    async with failing.client() as http:
        headers = {"idempotency-key": "after-an-error"}
        assert (await http.post(CHAT, json=HELLO, headers=headers)).status_code == 502
        second = await http.post(CHAT, json=HELLO, headers=headers)
        assert second.status_code == 200
        assert "idempotency-replayed" not in second.headers
    dying = with_faults(house, FaultPlan(die_at_token=3))
    async with dying.client() as http:
        headers = {"idempotency-key": "a-broken-stream"}
        body = HELLO | {"stream": True}
        await http.post(CHAT, json=body, headers=headers)
        again = await http.post(CHAT, json=body, headers=headers)
        assert "idempotency-replayed" not in again.headers
        assert len(dying.engine.bodies) == 2


async def test_a_repeat_while_the_first_runs_is_told_to_wait(house: House) -> None:
    hanging = with_faults(house, FaultPlan(hang_at_token=2))
    async with hanging.client() as http:
        headers = {"idempotency-key": "busy"}
        first = asyncio.create_task(http.post(CHAT, json=HELLO, headers=headers))
        await until(lambda: hanging.engine.statistics()["active"] > 0)
        answer = await http.post(CHAT, json=HELLO, headers=headers)
        assert answer.status_code == 409
        assert int(answer.headers["retry-after"]) >= 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_no_plain_text_answer_lies_in_the_database(house: House, database: Database) -> None:
    async with house.client() as http:
        headers = {"idempotency-key": "secret-key"}
        body = {"name": "x", "scopes": ["models:read"]}
        first = await http.post("/v1/keys", json=body, headers=headers)
        again = await http.post("/v1/keys", json=body, headers=headers)
        assert first.json() == again.json()
        key = first.json()["key"].encode()
    async with database.connection() as connection:
        kept = await connection.fetchval("SELECT body FROM idempotency WHERE key = 'secret-key'")
    assert kept
    assert key not in kept


async def test_an_event_stream_closes_its_source_however_it_ends() -> None:
    closed: list[str] = []

    async def source(name: str, count: int) -> AsyncIterator[bytes]:
        try:
            for _ in range(count):
                yield b"x"
                await asyncio.sleep(0)
        finally:
            closed.append(name)

    async def stay() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def broken(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the connection broke")

    async def fine(_: Any) -> None: ...

    scope = {"type": "http"}
    await EventStream(source("whole", 3), lambda _: b"")(scope, stay, fine)
    with pytest.raises(OSError, match="broke"):
        await EventStream(source("broken", 3), lambda _: b"")(scope, stay, broken)
    endless = asyncio.create_task(
        EventStream(source("cancelled", 10**9), lambda _: b"")(scope, stay, fine)
    )
    await asyncio.sleep(0.01)
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)
    assert closed == ["whole", "broken", "cancelled"]


async def test_timeouts_leave_room_for_our_own_answer() -> None:
    assert timeout_of({}, 300.0) == 300.0
    assert timeout_of({b"x-request-timeout-seconds": b"10"}, 300.0) == 9.75
    assert timeout_of({b"x-request-timeout-seconds": b"0.5"}, 300.0) == 0.4
    assert timeout_of({b"x-request-timeout-seconds": b"1000"}, 300.0) == 300.0
