"""The LLM service in a Ray Serve of its own, with the real model: relayed, cancelled, killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from llm_support import LIMIT_S, STORE, USER, collect, content_of, embedding_folder, model_file

from actors.llm_backend import ServeEmbedder, ServeEngine
from actors.llm_client import routes
from actors.names import LLM_APP, engine_deployment
from mesh.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    Unavailable,
    UnknownModel,
)
from mesh.core.settings import EngineSettings, LLMSettings, Settings
from mesh.llm.engine import Wire
from mesh.llm.routing import Backend, RoutedClient, Target

ROOT = Path(__file__).resolve().parents[2]
MODEL = LLMSettings().model
TWINS = EngineSettings(
    kind="fake", model="twins", replicas=2, slots=8, faults={"token_delay_s": 0.01}
)
LLM = LLMSettings(
    slots=2,
    queue_limit=4,
    threads=1,
    engines={"twins": TWINS},
    routes={"chain": ("twins", "default")},
)
ENDLESS = {"messages": USER, "max_tokens": 1_500, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def serve_instance() -> Iterator[None]:
    """A Ray head with a short temporary path, and Serve without any HTTP."""
    import ray
    from ray import serve

    folder = tempfile.mkdtemp(prefix="ml", dir="/tmp")
    ray.init(
        address="local",
        namespace="test-llm",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80_000_000,
        _temp_dir=folder,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Served(RoutedClient):
    """The routes of the settings, and the default engine's own word."""

    def __init__(self) -> None:
        super().__init__(routes(LLM), default=MODEL, embed=ServeEmbedder())
        self.engine = ServeEngine()
        self.info = self.engine.info


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(serve_instance: None) -> AsyncIterator[Served]:
    from ray import serve

    from serve_apps.llm.deployment import build_llm_app

    await asyncio.to_thread(model_file)
    await asyncio.to_thread(embedding_folder)
    settings = Settings(store=STORE, llm=LLM)
    await asyncio.to_thread(serve.run, build_llm_app(settings), name=LLM_APP, route_prefix=None)
    yield Served()


async def figures(client: Served) -> dict[str, int | float]:
    return await client.engine.statistics(timeout_s=LIMIT_S)


async def idle(client: Served) -> dict[str, int | float]:
    """Once no slot is held."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = await figures(client)
            if found["active"] == 0:
                return found
            await asyncio.sleep(0.05)


async def busy(client: Served) -> None:
    """Until a slot is held."""
    async with asyncio.timeout(LIMIT_S):
        while (await figures(client))["active"] == 0:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def test_it_chats_and_streams_the_same(client: Served) -> None:
    body = {"model": MODEL, "messages": USER, "max_tokens": 8, "seed": 4}
    answer = await client.chat(body, timeout_s=LIMIT_S)
    chunks = await collect(client.stream_chat(body | {"stream": True}, timeout_s=LIMIT_S))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == content_of(answer)
    assert answer["usage"]["completion_tokens"] == 8
    assert {chunk["model"] for chunk in chunks} == {MODEL}


async def test_frames_are_ready_for_the_wire(client: Served) -> None:
    body = {"model": MODEL, "messages": USER, "max_tokens": 8, "seed": 4, "stream": True}
    raw = b"".join([f async for f in client.stream_chat_encoded(body, timeout_s=LIMIT_S)])
    assert raw.endswith(b"\n\n")
    frames = raw[:-2].split(b"\n\n")
    encoded = [orjson.loads(frame.removeprefix(b"data: ")) for frame in frames]
    plain = await collect(client.stream_chat(body, timeout_s=LIMIT_S))
    assert [c["choices"] for c in encoded] == [c["choices"] for c in plain]


async def test_completions(client: Served) -> None:
    body = {"model": MODEL, "prompt": "Once upon", "max_tokens": 5, "seed": 1}
    answer = await client.complete(body, timeout_s=LIMIT_S)
    chunks = await collect(client.stream_completion(body | {"stream": True}, timeout_s=LIMIT_S))
    assert answer["choices"][0]["text"] == "".join(c["choices"][0]["text"] for c in chunks)


async def test_errors_come_back_as_they_were(client: Served) -> None:
    long = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 3_000}]}
    with pytest.raises(InvalidInput) as caught:
        await client.chat(long, timeout_s=LIMIT_S)
    assert caught.value.details["field"] == "messages"
    with pytest.raises(InvalidInput):
        await collect(client.stream_chat(long | {"stream": True}, timeout_s=LIMIT_S))
    with pytest.raises(UnknownModel):
        await client.chat({"model": "gpt-9", "messages": USER}, timeout_s=LIMIT_S)
    with pytest.raises(DeadlineExceeded):
        await client.chat(ENDLESS | {"model": MODEL}, timeout_s=0.5)
    await idle(client)


async def test_going_away_frees_the_slot(client: Served) -> None:
    before = await idle(client)
    async with aclosing(client.stream_chat(ENDLESS, timeout_s=LIMIT_S)) as chunks:  # type: ignore[type-var]
        async for _ in chunks:
            break
    await idle(client)  # the cancel travels: the slot of the one must not pass for the other's
    task = asyncio.create_task(client.chat(ENDLESS, timeout_s=LIMIT_S))
    await busy(client)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = await idle(client)
    assert after["cancelled"] - before["cancelled"] == 2
    assert after["tokens_after_cancel"] - before["tokens_after_cancel"] <= 2
    assert after["tokens_generated"] - before["tokens_generated"] < 1_500


async def test_embeddings(client: Served) -> None:
    shoes, boots, tax = await client.embed(
        ["red shoes", "crimson boots", "income tax form"], timeout_s=LIMIT_S
    )
    assert len(shoes) == 384
    assert sum(x * x for x in shoes) == pytest.approx(1, abs=1e-3)

    def likeness(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert likeness(shoes, boots) > likeness(shoes, tax)


async def test_the_replica_holds_no_torch(client: Served) -> None:
    """It would cost 300 MB in each."""
    pid = (await client.info())["pid"]
    maps = await asyncio.to_thread(Path(f"/proc/{pid}/maps").read_text)
    assert "libtorch" not in maps
    assert "xllamacpp" in maps


async def test_only_loopback_and_a_key(client: Served) -> None:
    """llama.cpp's own HTTP server can't be turned off: it must not answer strangers."""
    import httpx
    import psutil

    pid = (await client.info())["pid"]
    connections = psutil.Process(pid).net_connections("tcp")
    listening = {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
    guarded = []
    async with httpx.AsyncClient() as http:
        for address in listening:
            host = f"[{address.ip}]" if ":" in address.ip else address.ip
            body: dict[str, Any] = {"messages": USER, "max_tokens": 1}
            try:
                response = await http.post(
                    f"http://{host}:{address.port}/v1/chat/completions", json=body
                )
            except httpx.HTTPError:
                continue  # Ray's own gRPC
            guarded.append((address.ip, response.status_code))
    assert guarded == [("127.0.0.1", 401)]


async def test_killed_in_the_middle(client: Served) -> None:
    """One replica, no peer: the answer waits for its successor and goes on where it was."""
    pid = (await client.info())["pid"]
    body = ENDLESS | {"max_tokens": 40, "stream_options": {"include_usage": True}}
    chunks = []
    async for chunk in client.stream_chat(body, timeout_s=LIMIT_S):
        chunks.append(chunk)
        if len(chunks) == 10:
            os.kill(pid, signal.SIGKILL)
    assert len({chunk["id"] for chunk in chunks}) == 1
    reasons = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}
    assert [c["choices"][0]["delta"].get("role") for c in chunks if c["choices"]].count(
        "assistant"
    ) == 1
    assert chunks[-1]["usage"]["completion_tokens"] == 40
    assert (await client.info())["pid"] != pid


async def test_killed_before_the_first_token(client: Served) -> None:
    """Nothing was said yet: the caller sees none of it."""
    pid = (await client.info())["pid"]
    long = [{"role": "user", "content": "word " * 500}]  # seconds until its first token
    task = asyncio.create_task(
        client.chat({"messages": long, "max_tokens": 2, "ignore_eos": True}, timeout_s=LIMIT_S)
    )
    await busy(client)
    os.kill(pid, signal.SIGKILL)
    assert (await task)["usage"]["completion_tokens"] == 2


async def test_no_service_is_unavailable(client: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.llm_backend.PATIENCE_S", 0.2)
    absent = ServeEngine(app="no-such-app")
    with pytest.raises(Unavailable):
        await absent.answer({"messages": USER}, chat=True, timeout_s=LIMIT_S)
    with pytest.raises(Unavailable):
        async for _ in absent.frames({"messages": USER}, chat=True, timeout_s=LIMIT_S):
            pass


async def twin_pids(client: Served) -> dict[str, int]:
    """Replica → process, of the fake engine with two."""
    handle = await ServeEngine(engine_deployment("twins"))._handles.get("info")
    answers = await handle.broadcast("info").results_async()
    return {answer["replica"]: answer["pid"] for answer in answers}


class Watched:
    """A backend that tells which replicas take its requests."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.answer = inner.answer
        self.seen: list[str] = []

    async def frames(self, body: Wire, **more: Any) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._inner.frames(body, **more)) as items:
            async for item in items:
                if item.startswith(b": "):
                    self.seen.append(item.partition(b"\n")[0][2:].decode())
                yield item


async def test_a_twin_takes_over_at_once(client: Served) -> None:
    """kill -9 of the replica that speaks: the peer goes on, nothing twice, nothing lost."""
    pids = await twin_pids(client)
    assert len(pids) == 2
    backend = Watched(ServeEngine(engine_deployment("twins")))
    target = Target("twins", backend, "twins", replicas=2)
    routed = RoutedClient({"twins": [target]}, default="twins")
    body = {"model": "twins", "messages": USER, "seed": 7, "stream": True}
    whole = content_of(await client.chat(body, timeout_s=LIMIT_S))
    said = ""
    async for chunk in routed.stream_chat(body, timeout_s=LIMIT_S):
        said += chunk["choices"][0]["delta"].get("content") or ""
        if len(said.split()) == 3 and len(backend.seen) == 1:
            os.kill(pids[backend.seen[0]], signal.SIGKILL)
    assert said == whole
    assert len(set(backend.seen)) == 2
    assert routed.statistics()["resumed"] == {"prefix": 1, "replay": 0, "refused": 0}


async def test_faults_are_set_at_run_time_and_the_next_engine_answers(client: Served) -> None:
    twins = ServeEngine(engine_deployment("twins"))
    with pytest.raises(InvalidInput):
        await client.engine.set_faults({"unavailable": True})
    with pytest.raises(InvalidInput):
        await twins.set_faults({"explode": True})
    async with asyncio.timeout(LIMIT_S):
        while await twins.set_faults({"unavailable": True}) < 2:  # noqa: ASYNC110 - one was killed
            await asyncio.sleep(0.2)
    body = {"model": "chain", "messages": USER, "max_tokens": 4, "seed": 1}
    answer = await client.chat(body, timeout_s=LIMIT_S)
    assert answer["model"] == MODEL
    await twins.set_faults({})
    assert (await client.chat(body, timeout_s=LIMIT_S))["model"] == "twins"
