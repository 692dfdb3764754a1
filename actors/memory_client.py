"""Memory as the gateway and the agents hold it: the owner is found, asked, and found again.

Texts are embedded here, before the owner is asked, so that owners need no model. A write waits for
its owner (moving takes a second or two) until the deadline; a repeat of it changes nothing. A read
waits less and then goes to the database itself, saying so.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np

from actors.directory import Caller, Directory
from actors.memory_fallback import Fallback
from actors.owners import Owners
from actors.patience import PatienceOptions
from actors.places import memory_place
from mesh.agents.ledger import note_read
from mesh.contracts.memory import (
    Consolidation,
    ForgetReceipt,
    ForgetSelector,
    MemoryAnswer,
    MemoryItem,
    MemoryPatch,
    MemoryQuery,
    Namespace,
    NewMemory,
    SearchMode,
)
from mesh.contracts.trace import ReadKind, ReadRecord
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    Fenced,
    NotFound,
    Overloaded,
    RateLimited,
    Unavailable,
)
from mesh.core.genai import retrieval_span
from mesh.llm.call import current_call
from mesh.memory.options import MemoryOptions
from mesh.memory.placement import shard_of
from mesh.memory.ranking import answer
from mesh.memory.record import item_of, open_payload
from mesh.memory.shapes import Found
from mesh.memory.vault import Vault
from mesh.storage.memory import MemoryRepository

Embed = Callable[[Sequence[str], float], Awaitable[list[list[float]]]]
"""Texts and seconds that are left → vectors. Raises Unavailable, EngineError, Overloaded …"""
Forget = Callable[[UUID, ForgetSelector, float], Awaitable[ForgetReceipt]]

_NO_MODEL = (Unavailable, EngineError, Overloaded, RateLimited, DeadlineExceeded)
_OWNER_AWAY = (Unavailable, Fenced, DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How long it waits for whom."""

    owner_s: float = 2.0
    """For an owner that should answer a read, before the database is asked (and never more than
    half of the deadline)."""
    embed_batch: int = 64
    """Texts given to the model at once."""
    try_s: float = 2.5
    """For one answer of an owner: a call to an actor that is being restarted hangs until it is
    back, while another host may have taken over long since. (Long work has the whole deadline.)"""
    patience: PatienceOptions = field(
        default_factory=lambda: PatienceOptions(first_pause_s=0.05, longest_pause_s=0.3)
    )


@dataclass(frozen=True, slots=True)
class ClientParts:
    """What a client works with."""

    caller: Caller
    directory: Directory
    repository: MemoryRepository
    fallback: Fallback
    vault: Vault
    clock: Clock
    embed: Embed
    forget: Forget
    changed: Callable[[UUID], Awaitable[object]]
    """Told of each workspace whose memory was written to: answers that were cached before must not
    be served. Does not raise."""
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    options: ClientOptions = field(default_factory=ClientOptions)


class ShardedMemoryClient:
    """Implements ``mesh.memory.client.MemoryClient``. One per process."""

    def __init__(self, parts: ClientParts) -> None:
        self._parts = parts
        self._owners = Owners(parts.caller, parts.directory, parts.clock, parts.options.patience)
        self._degraded = 0

    async def remember(
        self, workspace_id: UUID, items: Sequence[NewMemory], *, timeout_s: float
    ) -> list[MemoryItem]:
        until = self._parts.clock.monotonic() + timeout_s
        vectors = await self._vectors(items, until)
        stored: dict[int, MemoryItem] = {}
        left = set(range(len(items)))
        where = [self._shard(workspace_id, item.namespace) for item in items]

        async def some(host: str, shards: Sequence[int]) -> None:
            mine = sorted(
                i for i in left if self._shard(workspace_id, items[i].namespace) in shards
            )
            bare = [items[i].model_copy(update={"vector": None}) for i in mine]
            args = (workspace_id, bare, [vectors[i] for i in mine])
            for i, item in zip(mine, await self._call(host, "remember", args, until), strict=True):
                stored[i] = item
                left.discard(i)

        await self._owners.each(sorted(set(where)), some, until)
        await self._parts.changed(workspace_id)
        return [stored[i] for i in range(len(items))]

    async def recall(
        self, workspace_id: UUID, query: MemoryQuery, *, timeout_s: float
    ) -> MemoryAnswer:
        clock = self._parts.clock
        until = clock.monotonic() + timeout_s
        reasons: list[str] = []
        vector: Any = query.vector
        if vector is None and query.mode is not SearchMode.TEXT:
            vector = await self._embed_query(query, until, reasons)
        began = clock.monotonic()
        with retrieval_span("memory"):
            found = await self._find(workspace_id, query, vector, until, reasons)
        told = answer(
            query,
            found,
            clock.now(),
            self._parts.memory.policies,
            degraded="; ".join(dict.fromkeys(reasons)) or None,
        )
        self._degraded += told.degraded
        metrics.MEMORY_RECALL_SECONDS.labels(
            query.mode.value, "degraded" if told.degraded else "ok"
        ).observe(clock.monotonic() - began)
        await self._note(told, clock.monotonic() - began)
        return told

    async def forget(
        self, workspace_id: UUID, selector: ForgetSelector, *, timeout_s: float
    ) -> ForgetReceipt:
        return await self._parts.forget(workspace_id, selector, timeout_s)

    async def get(self, workspace_id: UUID, identity: UUID, *, timeout_s: float) -> MemoryItem:
        """One memory with its history (without, while its owner is away). Raises NotFound."""
        until = self._parts.clock.monotonic() + timeout_s
        record = await self._parts.repository.one(workspace_id, identity)
        try:
            args = (workspace_id, record.namespace, identity)
            patient = min(until, self._parts.clock.monotonic() + self._parts.options.owner_s)
            item: MemoryItem = await self._ask(record.shard, "item", args, patient)
        except _OWNER_AWAY:
            return item_of(record, open_payload(self._parts.vault, record))
        return item

    async def patch(
        self, workspace_id: UUID, identity: UUID, patch: MemoryPatch, *, timeout_s: float
    ) -> MemoryItem:
        """Pin or weigh it. Raises NotFound."""
        until = self._parts.clock.monotonic() + timeout_s
        record = await self._parts.repository.one(workspace_id, identity)
        args = (workspace_id, record.namespace, identity, patch)
        item: MemoryItem = await self._ask(record.shard, "patch", args, until)
        await self._parts.changed(workspace_id)
        return item

    async def consolidate(
        self, workspace_id: UUID, namespace: Namespace, *, timeout_s: float
    ) -> Consolidation:
        """One bounded pass, now. Raises NotFound."""
        until = self._parts.clock.monotonic() + timeout_s
        identity = self._parts.vault.namespace_id(workspace_id, namespace)
        if await self._parts.repository.namespace(identity, workspace_id) is None:
            raise NotFound("Nothing was ever remembered there.")
        args = (workspace_id, identity)
        done: Consolidation = await self._ask(shard_of(identity), "consolidate", args, until)
        await self._parts.changed(workspace_id)
        return done

    def statistics(self) -> dict[str, int]:
        return {"degraded": self._degraded, **self._owners.statistics()}

    async def _find(
        self,
        workspace: UUID,
        query: MemoryQuery,
        vector: Any,
        until: float,
        reasons: list[str],
    ) -> list[Found]:
        clock, options = self._parts.clock, self._parts.options
        spaces = list(dict.fromkeys(query.namespaces))
        by_shard: dict[int, list[Namespace]] = defaultdict(list)
        for space in spaces:
            by_shard[self._shard(workspace, space)].append(space)
        found: dict[Namespace, list[Found]] = {}
        bare = query.model_copy(update={"vector": None})
        sent = None if vector is None else np.asarray(vector, dtype=np.float32)

        async def some(host: str, shards: Sequence[int]) -> None:
            mine = [s for shard in shards for s in by_shard[shard] if s not in found]
            args = (workspace, bare, mine, sent)
            lists = await self._call(host, "find", args, patient)
            found.update(zip(mine, lists, strict=True))

        half = (until - clock.monotonic()) / 2
        patient = clock.monotonic() + min(options.owner_s, max(half, 0.0))
        try:
            await self._owners.each(sorted(by_shard), some, patient)
        except _OWNER_AWAY as error:
            reasons.append(f"the memory's owner is away: {error.message}")
            left = max(0.05, until - clock.monotonic())
            try:
                async with asyncio.timeout(left):
                    for space in spaces:
                        if space not in found:
                            found[space] = await self._parts.fallback.find(
                                workspace, query, space, vector
                            )
            except TimeoutError:
                raise DeadlineExceeded("The memory did not answer in time.") from None
        return [candidate for space in spaces for candidate in found[space]]

    async def _call(self, host: str, method: str, args: tuple[Any, ...], until: float) -> Any:
        return await self._owners.call(host, method, args, until, self._try_s(method))

    async def _ask(self, shard: int, method: str, args: tuple[Any, ...], until: float) -> Any:
        return await self._owners.ask(shard, method, args, until, self._try_s(method))

    def _try_s(self, method: str) -> float:
        """Long work has the whole deadline."""
        return math.inf if method == "consolidate" else self._parts.options.try_s

    async def _vectors(self, items: Sequence[NewMemory], until: float) -> list[Any]:
        wanted = [i for i, item in enumerate(items) if item.vector is None]
        size = self._parts.options.embed_batch
        made: list[list[float]] = []
        for start in range(0, len(wanted), size):
            texts = [items[i].text for i in wanted[start : start + size]]
            left = until - self._parts.clock.monotonic()
            if left <= 0:
                raise DeadlineExceeded("The deadline passed while embedding.")
            made.extend(await self._parts.embed(texts, left))
        vectors = dict(zip(wanted, made, strict=True))
        return [
            np.asarray(vectors.get(i, item.vector), dtype=np.float32)
            for i, item in enumerate(items)
        ]

    async def _embed_query(
        self, query: MemoryQuery, until: float, reasons: list[str]
    ) -> list[float] | None:
        left = until - self._parts.clock.monotonic()
        try:
            (vector,) = await self._parts.embed([query.text], max(0.05, left / 2))
        except _NO_MODEL as error:
            if query.mode is SearchMode.DENSE:
                raise
            reasons.append(f"found by words alone: {error.message}")
            return None
        return vector

    async def _note(self, told: MemoryAnswer, seconds: float) -> None:
        call = current_call()
        if call is not None and call.task_id is not None:
            # Before the task sees them: a forgetting must find every journal that may hold them.
            ids = [hit.item.id for hit in told.hits]
            await self._parts.repository.cite(ids, call.task_id)
        now = datetime.fromtimestamp(self._parts.clock.now(), UTC)
        for hit in told.hits:
            note_read(
                ReadRecord(
                    kind=ReadKind.MEMORY,
                    ref=str(hit.item.id),
                    label=f"{hit.item.kind} of {hit.item.namespace.kind}",
                    score=hit.score,
                    seconds=round(seconds, 6),
                    at=now,
                )
            )

    def place_of(self, workspace: UUID, namespace: Namespace) -> str:
        """Where it lies, as the balancing names places."""
        return memory_place(self._shard(workspace, namespace))

    def _shard(self, workspace: UUID, namespace: Namespace) -> int:
        return shard_of(self._parts.vault.namespace_id(workspace, namespace))
