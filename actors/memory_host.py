"""The memory host's Ray shell: a detached, named actor around ``MemoryLoop``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import ray

from actors.context import ProcessContext
from actors.directory import Directory, RayCaller
from actors.host import ActorHost
from actors.memory_erased import ErasedPart
from actors.memory_forget import Forgetter
from actors.memory_loop import MemoryLoop, Vector, Vectors
from actors.memory_open import host_options, open_forgetter, open_host_parts, open_journals
from actors.names import NAMESPACE
from actors.places import keep_saying, memory_place
from mesh.contracts.memory import (
    Consolidation,
    MemoryItem,
    MemoryPatch,
    MemoryQuery,
    Namespace,
    NewMemory,
)
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.memory.placement import RING
from mesh.memory.shapes import Found

log = get_logger("memory.host")

RESUME_S = 30.0


class MemoryHost(ActorHost):
    """Made by ``actors.reconcile``. Its methods are ``MemoryLoop``'s, on the main event loop."""

    def __init__(self, name: str, settings_json: str, namespace: str = NAMESPACE) -> None:
        self._memory: MemoryLoop | None = None
        self._namespace = namespace
        super().__init__(name, settings_json)

    async def remember(
        self, workspace: UUID, items: Sequence[NewMemory], vectors: Vectors
    ) -> list[MemoryItem]:
        return await self._there().remember(workspace, items, vectors)

    async def find(
        self,
        workspace: UUID,
        query: MemoryQuery,
        namespaces: Sequence[Namespace],
        vector: Vector | None,
    ) -> list[list[Found]]:
        return await self._there().find(workspace, query, namespaces, vector)

    async def item(self, workspace: UUID, namespace: UUID, identity: UUID) -> MemoryItem:
        return await self._there().item(workspace, namespace, identity)

    async def patch(
        self, workspace: UUID, namespace: UUID, identity: UUID, patch: MemoryPatch
    ) -> MemoryItem:
        return await self._there().patch(workspace, namespace, identity, patch)

    async def consolidate(self, workspace: UUID, namespace: UUID) -> Consolidation:
        return await self._there().consolidate(workspace, namespace)

    async def erase(
        self, ids: Sequence[UUID], namespaces: Sequence[UUID], shards: Sequence[int]
    ) -> ErasedPart:
        return await self._there().erase(ids, namespaces, shards)

    async def holds(self, workspace: UUID, ids: Sequence[UUID]) -> int:
        return await self._there().holds(workspace, ids)

    async def _run(self, context: ProcessContext) -> None:
        parts = open_host_parts(context)
        memory = MemoryLoop(self.name, parts, host_options(context.settings))
        directory = Directory(RING, context.leases, context.clock)
        journals = open_journals(context, parts)
        caller = RayCaller(self._namespace)
        forgetter = open_forgetter(context, parts, journals, caller, directory)
        self._memory = memory
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(memory.run())
                group.create_task(_resume(forgetter))
                group.create_task(
                    keep_saying(
                        context.redis,
                        lambda: map(memory_place, memory.shards.held),
                        ray.get_runtime_context().get_node_id(),
                        self.name,
                        context.clock,
                    )
                )
        finally:
            self._memory = None

    def _there(self) -> MemoryLoop:
        if self._memory is None:
            raise Unavailable("The memory's host is starting.", retry_after_s=0.5)
        return self._memory

    def _unhealthy(self) -> str | None:
        return self._memory.unhealthy() if self._memory else "it is starting"

    def _statistics(self) -> dict[str, int | float]:
        return self._memory.statistics() if self._memory else {}


async def _resume(forgetter: Forgetter) -> None:
    """Finish what a process that died had begun to forget."""
    while True:
        await asyncio.sleep(RESUME_S)
        try:
            await forgetter.resume()
        except (MailyError, TimeoutError) as error:
            log.info("forget.waits", error=type(error).__name__)
