"""The response cache: who gets whose answer, and which answers are kept at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from mesh.core.clock import SystemClock
from mesh.core.errors import EngineError
from mesh.core.settings_spending import CacheSettings
from mesh.llm.cache.client import CachedClient
from mesh.llm.cache.note import cache_note
from mesh.llm.cache.request import cache_request, signs
from mesh.llm.cache.store import EPOCH_KEY, PREFIX, PURPOSE, CacheStore
from mesh.llm.call import Call, calling
from mesh.llm.engine import Wire
from mesh.llm.fake import FakeEngine
from mesh.security.sealing import Sealer, Unreadable
from mesh.streams.connect import connect

SECRET = b"a secret of thirty-two bytes ....."


class Models:
    """The fake engine as a ModelClient; embeddings by word, so that wordings can be near."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.embedded = 0

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        return await self.engine.chat(body, timeout_s=timeout_s)

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire:
        return await self.engine.complete(body, timeout_s=timeout_s)

    async def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        async for chunk in self.engine.stream_chat(body, timeout_s=timeout_s):
            yield b"data: " + orjson.dumps(chunk) + b"\n\n"

    async def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        async for chunk in self.engine.stream_completion(body, timeout_s=timeout_s):
            yield b"data: " + orjson.dumps(chunk) + b"\n\n"

    async def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async for chunk in self.engine.stream_chat(body, timeout_s=timeout_s):
            yield chunk

    async def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async for chunk in self.engine.stream_completion(body, timeout_s=timeout_s):
            yield chunk

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        self.embedded += 1
        return [[1.0, 0.0] if "refund" in text else [0.0, 1.0] for text in texts]


class Kit:
    def __init__(self, redis: Redis, mode: str = "exact", **settings: Any) -> None:
        self.redis = redis
        self.engine = FakeEngine()
        self.models = Models(self.engine)
        self.store = CacheStore(redis, Sealer(SECRET, PURPOSE))
        route = CacheSettings.model_validate({"mode": mode, **settings})
        self.client = CachedClient(self.models, self.store, {"fake": route}, SystemClock())

    async def ask(
        self, workspace: UUID, text: str = "Say hello.", policy: str = "default", **more: Any
    ) -> tuple[str, str | None]:
        """The answer, and where it came from."""
        body = {
            "model": "fake",
            "messages": [{"role": "user", "content": text}],
            "temperature": 0.0,
            **more,
        }
        with calling(Call(workspace, policy=policy)), cache_note() as note:
            if not more.get("stream"):
                answer = await self.client.chat(body, timeout_s=5)
                return answer["choices"][0]["message"]["content"], note.outcome
            frames = b"".join([f async for f in self.client.stream_chat_encoded(body, timeout_s=5)])
        parsed = [orjson.loads(f[6:]) for f in frames.split(b"\n\n") if f.startswith(b"data: ")]
        assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
        deltas = [c["choices"][0]["delta"].get("content") for c in parsed if c["choices"]]
        return "".join(d for d in deltas if d), note.outcome


@pytest_asyncio.fixture(loop_scope="session")
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url)
    yield client
    await client.aclose()


async def test_the_same_request_gets_the_same_answer_whole_and_streamed(redis: Redis) -> None:
    kit, workspace = Kit(redis), uuid4()
    first, outcome = await kit.ask(workspace)
    assert outcome == "miss"
    assert await kit.ask(workspace) == (first, "hit")
    assert await kit.ask(workspace, stream=True) == (first, "hit")
    assert len(kit.engine.bodies) == 1
    streamed, outcome = await kit.ask(workspace, "And again.", stream=True)
    assert outcome == "miss"
    assert await kit.ask(workspace, "And again.") == (streamed, "hit")
    assert len(kit.engine.bodies) == 2


async def test_usage_of_an_answer_given_again_is_marked(redis: Redis) -> None:
    kit, workspace = Kit(redis), uuid4()
    await kit.ask(workspace)
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "Say hello."}],
        "temperature": 0.0,
        "stream_options": {"include_usage": True},
    }
    with calling(Call(workspace)):
        chunks = [c async for c in kit.client.stream_chat(body, timeout_s=5)]
    assert chunks[-1]["usage"]["cached"] is True
    assert chunks[-1]["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    "other",
    [
        {"workspace": UUID(int=99)},
        {"policy": "strict"},
        {"temperature": 0.0, "seed": 4},
        {"max_tokens": 5},
        {"text": "Say hello!"},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_another_request_is_another_answer(redis: Redis, other: dict[str, Any]) -> None:
    kit, workspace = Kit(redis), uuid4()
    await kit.ask(workspace)
    changed = {"workspace": workspace} | other
    assert (await kit.ask(**changed))[1] == "miss"


async def test_a_value_moved_to_another_workspace_is_no_answer(redis: Redis) -> None:
    """Even who writes Valkey's keys himself gets nothing out of another's."""
    kit, mine, yours = Kit(redis), uuid4(), uuid4()
    await kit.ask(mine)
    keys = [key async for key in redis.scan_iter(f"{PREFIX}:{{{mine}}}:e:*")]
    assert len(keys) == 1
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "Say hello."}],
        "temperature": 0.0,
    }
    digest = cache_request(yours, "default", body, chat=True, semantic=False).digest
    sealed = await redis.get(keys[0])
    assert sealed is not None
    assert b"hello" not in sealed
    await redis.set(f"{PREFIX}:{{{yours}}}:e:{digest}", sealed)
    assert (await kit.ask(yours))[1] == "miss"
    with pytest.raises(Unreadable):
        Sealer(SECRET, "another purpose").open(sealed, keys[0])


async def test_only_whole_repeatable_answers_are_kept(redis: Redis) -> None:
    kit, workspace = Kit(redis), uuid4()
    for more in (
        {"temperature": 0.9},
        {"temperature": None},
        {"max_tokens": 2},  # finish_reason: length
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": "required",
        },
    ):
        for _ in range(2):
            body = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
            with calling(Call(workspace)), cache_note() as note:
                await kit.client.chat({**body, "temperature": 0.0, **more}, timeout_s=5)
            assert note.outcome in (None, "miss"), more
    seeded = {"temperature": 0.9, "seed": 7}
    assert (await kit.ask(workspace, "seeded", **seeded))[1] == "miss"
    assert (await kit.ask(workspace, "seeded", **seeded))[1] == "hit"


async def test_errors_and_streams_that_broke_off_are_not_kept(redis: Redis) -> None:
    kit, workspace = Kit(redis), uuid4()
    script: list[Any] = [EngineError("no"), "good"]
    kit.models.engine = FakeEngine(script)
    with pytest.raises(EngineError):
        await kit.ask(workspace)
    assert await kit.ask(workspace) == ("good", "miss")
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "cut"}],
        "temperature": 0.0,
    }
    with calling(Call(workspace)):
        stream = kit.client.stream_chat_encoded(body, timeout_s=5)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
    assert (await kit.ask(workspace, "cut"))[1] == "miss"


async def test_a_changed_memory_makes_every_answer_old(redis: Redis) -> None:
    kit, workspace = Kit(redis), uuid4()
    await kit.ask(workspace)
    assert (await kit.ask(workspace))[1] == "hit"
    await redis.incr(EPOCH_KEY.format(workspace=workspace))
    assert (await kit.ask(workspace))[1] == "miss"
    assert (await kit.ask(workspace))[1] == "hit"


async def test_forgetting_deletes_all_of_a_workspace_and_nothing_else(redis: Redis) -> None:
    kit, mine, yours = Kit(redis, "semantic"), uuid4(), uuid4()
    for workspace in (mine, yours):
        await kit.ask(workspace)
    assert await kit.store.forget(mine) == 2
    assert [key async for key in redis.scan_iter(f"{PREFIX}:{{{mine}}}*")] == []
    assert (await kit.ask(yours))[1] == "hit"


async def test_the_oldest_answers_make_room(redis: Redis) -> None:
    kit, workspace = Kit(redis, max_entries=3), uuid4()
    for n in range(5):
        await kit.ask(workspace, f"question {n}")
    kept = [key async for key in redis.scan_iter(f"{PREFIX}:{{{workspace}}}:e:*")]
    assert len(kept) == 3
    assert (await kit.ask(workspace, "question 4"))[1] == "hit"
    assert (await kit.ask(workspace, "question 0"))[1] == "miss"


async def test_an_answer_that_is_too_long_is_not_kept(redis: Redis) -> None:
    kit, workspace = Kit(redis, max_bytes=1_024), uuid4()
    kit.models.engine = FakeEngine(["word " * 1_000])
    for stream in (False, True, False):
        assert (await kit.ask(workspace, stream=stream))[1] == "miss"


async def test_another_wording_of_the_question_gets_its_answer(redis: Redis) -> None:
    kit, workspace = Kit(redis, "semantic"), uuid4()
    first, _ = await kit.ask(workspace, "How do I get a refund here?")
    assert await kit.ask(workspace, "How can I have a refund?") == (first, "semantic")
    assert (await kit.ask(workspace, "How do I find the shop there?"))[1] == "miss"
    for other in (
        "How do I not get a refund?",
        "How do I get 2 refunds?",
        "How does Anna get a refund?",
        "How do I get a refund " + "and so on " * 20,
    ):
        assert (await kit.ask(workspace, other))[1] == "miss", other
    assert (await kit.ask(uuid4(), "How can I have a refund?"))[1] == "miss"
    system = {"role": "system", "content": "Be rude."}
    question = {"role": "user", "content": "How can I have a refund?"}
    assert (await kit.ask(workspace, messages=[system, question]))[1] == "miss"


async def test_a_cache_that_is_away_costs_no_answer() -> None:
    nowhere = connect("redis://127.0.0.1:1/0")
    try:
        kit = Kit(nowhere)
        assert (await kit.ask(uuid4()))[1] == "miss"
        assert kit.store.failures
    finally:
        await nowhere.aclose()


async def test_what_is_not_opted_in_is_not_looked_at(redis: Redis) -> None:
    kit = Kit(redis)
    kit.client = CachedClient(kit.models, kit.store, {}, SystemClock())
    workspace = uuid4()
    for _ in range(2):
        assert (await kit.ask(workspace))[1] is None
    assert len(kit.engine.bodies) == 2


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("Where is my order?", "where is my order now?", True),
        ("Cancel order 17?", "Cancel order 71?", False),
        ("I can cancel it?", "I can't cancel it?", False),
        ("Flights to Rome?", "Flights to Oslo?", False),
        ('What is "net"?', 'What is "gross"?', False),
        ("Is it two weeks?", "Is it ten weeks?", False),
        ("See http://a.example/x?", "See http://a.example/y?", False),
    ],
)
def test_signs_tell_questions_apart(one: str, two: str, same: bool) -> None:
    assert (signs(one) == signs(two)) is same
