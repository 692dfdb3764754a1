"""What the tests of the gateway share: the whole gateway over real parts and a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import orjson
import uvicorn
from redis.asyncio import Redis

from actors.dispatch import Dispatcher
from mesh.agents.catalogue import AGENTS
from mesh.agents.tools.box import ToolBox
from mesh.agents.tools.own import OWN
from mesh.contracts.engines import BreakerView, EngineView
from mesh.core import metrics
from mesh.core.clock import SystemClock
from mesh.core.errors import NotFound
from mesh.core.settings import Settings
from mesh.llm.budgets.valkey import ValkeyCounters
from mesh.llm.engine import Wire
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.security.keys import KeyService
from mesh.security.scopes import ALL_SCOPES
from mesh.security.tokens import TokenService
from mesh.storage.idempotency import IdempotencyRepository
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository
from mesh.storage.waits import WaitRepository
from mesh.streams.connect import connect
from mesh.streams.log import StreamLog
from mesh.streams.memory import MemoryStreamLog
from serve_apps.gateway.app import create_app
from serve_apps.gateway.budget_admin import Budgets
from serve_apps.gateway.deps import Gateway, ModelCard
from serve_apps.gateway.edge import Edge
from serve_apps.gateway.key_admin import LinkedTokens, WorkspaceKeys
from serve_apps.gateway.sealing import AesSealer

SECRET = b"a secret of thirty-two bytes ....."


class EngineModels:
    """An engine of this process as the gateway's ModelService."""

    def __init__(self, engine: FakeEngine | None = None) -> None:
        self.engine = engine or FakeEngine(slots=8, queue_limit=64)
        info = self.engine.info
        chat = [ModelCard(name, "chat", 1_700_000_000, 2_048) for name in info.models]
        dimensions = info.embedding_dimensions
        self._cards = (*chat, ModelCard("fake-embed", "embedding", 1_700_000_000, None, dimensions))

    async def cards(self) -> Sequence[ModelCard]:
        return self._cards

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

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        return await self.engine.chat(body, timeout_s=timeout_s)

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire:
        return await self.engine.complete(body, timeout_s=timeout_s)

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        return await self.engine.embed(texts, timeout_s=timeout_s)


class OneEngine:
    """The fake engine as operators see it."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    async def views(self) -> list[EngineView]:
        return [
            EngineView(
                name="default",
                kind="fake",
                model="fake",
                routes=["fast"],
                context_tokens=self.engine.info.context_tokens,
                replicas=1,
                breaker=BreakerView(
                    state="closed", in_a_row=0, failures=0, opened=0, retry_after_s=0
                ),
                calls={"ok": 1, "failed": 0, "cancelled": 0},
                hedges=0,
                retries=0,
                figures=[self.engine.statistics()],
            )
        ]

    async def set_faults(self, name: str, faults: dict[str, Any]) -> int:
        if name != "default":
            raise NotFound("There is no such engine")
        self.engine.faults = FaultPlan.of(faults)
        return 1


@dataclass(frozen=True)
class Allowance:
    allowed: bool = True
    limit: int = 600_000
    remaining: int = 599_999
    reset_s: float = 60.0


class CountingLimiter:
    """Allows ``limit`` hits of a key, for ever."""

    def __init__(self, limit: int = 600_000) -> None:
        self.limit = limit
        self.hits: dict[str, int] = {}

    async def hit(self, key: str) -> Allowance:
        used = self.hits[key] = self.hits.get(key, 0) + 1
        left = self.limit - used
        return Allowance(left >= 0, self.limit, max(0, left), 30.0)


@dataclass
class House:
    """The gateway and the parts that a test may want to touch."""

    gateway: Gateway
    app: Edge
    keys: KeyService
    tokens: TokenService
    tasks: TaskRepository
    streams: StreamLog
    engine: FakeEngine
    key: str
    """Holds every scope, in the workspace ``one``."""
    other: str
    """Holds every scope, in the workspace ``two``."""
    redis: Redis

    def client(self, key: str | None = None, **more: Any) -> httpx.AsyncClient:
        headers = {} if key == "" else {"authorization": f"Bearer {key or self.key}"}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://gateway",
            headers=headers,
            timeout=30,
            **more,
        )

    def changed(self, **gateway: Any) -> House:
        """The same house with other settings of the gateway."""
        settings = self.gateway.settings
        new = settings.model_copy(update={"gateway": settings.gateway.model_copy(update=gateway)})
        deps = replace(self.gateway, settings=new)
        return replace(self, gateway=deps, app=create_app(deps))


async def build_house(
    database: Database,
    valkey_url: str,
    *,
    engine: FakeEngine | None = None,
    streams: StreamLog | None = None,
) -> House:
    clock = SystemClock()
    settings = Settings()
    keys = KeyService(database, clock)
    tokens = TokenService(database, settings.security, SECRET, clock)
    redis = connect(valkey_url)
    models = EngineModels(engine)
    gateway = Gateway(
        settings=settings,
        clock=clock,
        tasks=TaskRepository(database),
        idempotency=IdempotencyRepository(database),
        sealer=AesSealer(SECRET),
        keys=WorkspaceKeys(keys, redis.publish),
        tokens=LinkedTokens(tokens, keys),
        streams=streams or MemoryStreamLog(),
        models=models,
        engines=OneEngine(FakeEngine()),
        dispatch=Dispatcher(redis),
        limiter=CountingLimiter(),
        render_metrics=metrics.render,
        agents=AGENTS,
        tools=ToolBox.of(OWN),
        waits=WaitRepository(database),
        budgets=Budgets(database, ValkeyCounters(redis)),
        version="test",
    )
    one = await keys.create("one", "test", ALL_SCOPES)
    two = await keys.create("two", "test", ALL_SCOPES)
    return House(
        gateway=gateway,
        app=create_app(gateway),
        keys=keys,
        tokens=tokens,
        tasks=TaskRepository(database),
        streams=gateway.streams,
        engine=models.engine,
        key=one.key,
        other=two.key,
        redis=redis,
    )


def shaped(answer: httpx.Response, status: int, code: str, field: str | None = None) -> Any:
    """Assert our error shape and give the body."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert {"code", "message", "details", "traceId"} <= set(body)
    assert body["code"] == code, body
    assert re.fullmatch("[0-9a-f]{32}", body["traceId"])
    assert answer.headers["x-trace-id"] == body["traceId"]
    if field is not None:
        assert body["details"]["field"] == field, body
    return body


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that comes about by itself; at most ten seconds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 (what is waited for knows nothing of us)
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The application behind a real uvicorn in a thread, for what needs real sockets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until, "uvicorn did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
