"""What the tests of memory share: hosts without Ray, and vectors without a model."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from actors_support import workspace
from local_hosts import LocalHosts
from pydantic import SecretStr

from actors.context import ProcessContext
from actors.memory_loop import MemoryLoop
from actors.memory_open import host_options, open_host_parts, open_memory
from actors.memory_store import MemoryStore
from mesh.contracts.memory import MemoryKind, MemoryQuery, Namespace, NamespaceKind, NewMemory
from mesh.core.errors import Unavailable
from mesh.core.settings import PostgresSettings, RedisSettings, Settings
from mesh.core.settings_memory import MemorySettings
from mesh.core.settings_tree import SecuritySettings
from mesh.memory.placement import RING

SECRET = "a secret of more than thirty-two bytes for tests"
DIMENSIONS = 32
BRAND = Namespace(kind=NamespaceKind.WORKSPACE)


def contact(name: str) -> Namespace:
    return Namespace(kind=NamespaceKind.CONTACT, id=name)


def embed_text(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Texts that share words are alike."""
    total = np.zeros(dimensions)
    for word in text.casefold().replace(".", " ").replace(",", " ").split():
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        total += np.random.default_rng(seed).standard_normal(dimensions)
    if not total.any():
        total[0] = 1.0
    unit: list[float] = (total / np.linalg.norm(total)).tolist()
    return unit


class WordModel:
    """``ModelClient``, as far as memory needs it. ``away``: it does not answer."""

    def __init__(self) -> None:
        self.away = False
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        if self.away:
            raise Unavailable("the model is away")
        self.texts.extend(texts)
        return [embed_text(text) for text in texts]


def memory(text: str, namespace: Namespace = BRAND, **more: Any) -> NewMemory:
    return NewMemory(**{"namespace": namespace, "kind": MemoryKind.FACT, "text": text} | more)


def asked(text: str, *namespaces: Namespace, **more: Any) -> MemoryQuery:
    return MemoryQuery(text=text, namespaces=list(namespaces) or [BRAND], **more)


def local_hosts(context: ProcessContext) -> LocalHosts[MemoryLoop]:
    return LocalHosts(
        RING,
        lambda name: MemoryLoop(name, open_host_parts(context), host_options(context.settings)),
    )


def settings_for(dsn: str, valkey: str, home: Path, **memory_settings: Any) -> Settings:
    return Settings(
        home=home,
        postgres=PostgresSettings(url=SecretStr(dsn), pool_max=8),
        redis=RedisSettings(url=SecretStr(valkey)),
        security=SecuritySettings(secret=SecretStr(SECRET)),
        memory=MemorySettings(
            **{"lease_s": 0.8, "heartbeat_s": 0.1, "settle_s": 0.3, "pass_s": 3_600.0}
            | memory_settings
        ),
    )


@dataclass
class House:
    """Hosts, a client and a workspace."""

    context: ProcessContext
    hosts: LocalHosts[MemoryLoop]
    client: MemoryStore
    model: WordModel
    workspace: UUID

    async def new_workspace(self) -> UUID:
        return await workspace(self.context.db)

    async def remember(self, *items: NewMemory, workspace: UUID | None = None) -> list[Any]:
        return await self.client.remember(workspace or self.workspace, items, timeout_s=20)

    async def recall(self, query: MemoryQuery, workspace: UUID | None = None) -> Any:
        return await self.client.recall(workspace or self.workspace, query, timeout_s=20)


@asynccontextmanager
async def open_house(settings: Settings, *names: str) -> AsyncIterator[House]:
    context = await ProcessContext.open(settings, "test")
    hosts = local_hosts(context)
    model = WordModel()
    client = open_memory(context, model, caller=hosts)  # type: ignore[arg-type]
    house = House(context, hosts, client, model, UUID(int=0))
    try:
        for name in names or ("memory-host-0",):
            hosts.start(name)
        await hosts.settled(*hosts.hosts)
        house.workspace = await house.new_workspace()
        yield house
    finally:
        for name in list(hosts.hosts):
            await hosts.stop(name)
        await context.aclose()
