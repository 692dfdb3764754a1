"""An engine whose replicas are all on this host: called over their sockets, past Ray Serve.

Serve stays the way for everything else (health, figures, faults), and for calls while a replica
is away or elsewhere. Serve's own routing costs each call more than all of the gateway does.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from actors.llm_backend import ServeEngine
from mesh.core.settings import EngineSettings
from mesh.llm.engine import Wire
from mesh.llm.local.client import LocalReplicas
from mesh.llm.routing import Backend


def socket_prefix(engine: str) -> str:
    """Of the sockets of this engine's replicas; short, whatever the engine is called."""
    return hashlib.sha256(engine.encode()).hexdigest()[:8]


def near_engine(name: str, engine: EngineSettings, served: ServeEngine, sockets: Path) -> Backend:
    """The engine by the short way where it has one (Ray's own servers have not)."""
    if engine.kind == "vllm":
        return served
    return NearEngine(served, LocalReplicas(sockets, socket_prefix(name), engine.replicas))


class NearEngine:
    """Implements ``mesh.llm.routing.Backend``."""

    def __init__(self, served: ServeEngine, replicas: LocalReplicas) -> None:
        self._served = served
        self._replicas = replicas

    async def aclose(self) -> None:
        await self._replicas.aclose()

    async def frames(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        replica = self._replicas.choose(body, avoid)
        if replica is None:
            items = self._served.frames(
                body, chat=chat, timeout_s=timeout_s, traceparent=traceparent, avoid=avoid
            )
        else:
            items = replica.frames(body, chat=chat, timeout_s=timeout_s, traceparent=traceparent)
        async with aclosing(items):
            async for item in items:
                yield item

    async def answer(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> Wire:
        replica = self._replicas.choose(body, avoid)
        if replica is None:
            return await self._served.answer(
                body, chat=chat, timeout_s=timeout_s, traceparent=traceparent, avoid=avoid
            )
        return await replica.answer(body, chat=chat, timeout_s=timeout_s, traceparent=traceparent)
