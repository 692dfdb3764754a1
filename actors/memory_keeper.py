"""Namespaces that a host holds in memory: activated on first use, passivated when idle.

Activation reads the valid snapshot, if its file is here and whole, and the rows that changed since;
without one, all rows. Whatever was read is compared with the number of rows before it serves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from mesh.contracts.memory import Namespace
from mesh.core.clock import Clock
from mesh.core.errors import Internal
from mesh.core.ids import uuid7
from mesh.core.logging import get_logger
from mesh.memory.options import MemoryOptions
from mesh.memory.partition import Partition
from mesh.memory.placement import shard_of
from mesh.memory.shapes import Head
from mesh.memory.snapshot import SnapshotInfo, Torn, path_of, read_snapshot, shred, write_snapshot
from mesh.memory.vault import Vault, namespace_context
from mesh.storage.leases import Lease
from mesh.storage.memory import MemoryRepository
from mesh.storage.memory_rows import NamespaceRow

log = get_logger("memory.keeper")

_TRIES = 3


class _Overtaken(Exception):
    pass


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """Where snapshots lie and when memory is freed."""

    folder: Path
    idle_s: float = 900.0
    """A namespace that nobody used for so long leaves memory."""
    snapshot_changes: int = 5_000
    """A snapshot is made anew after so many changes."""


@dataclass(slots=True)
class Kept:
    """A namespace in memory."""

    partition: Partition
    used_at: float
    """Monotonic seconds."""
    snapshot_at: int = 0
    """The newest change that the valid snapshot holds; 0: there is none."""
    written: int = 0
    """Rows put in since the snapshot."""
    erasures: int = 0


@dataclass(slots=True)
class Keeper:
    """One per host. ``commits``: held by whoever writes, so that nothing is committed between the
    last look at the database and the moment from which a namespace hears of every commit."""

    repository: MemoryRepository
    vault: Vault
    clock: Clock
    options: KeeperOptions
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    commits: asyncio.Lock = field(default_factory=asyncio.Lock)
    _kept: dict[UUID, Kept] = field(default_factory=dict)
    _loading: dict[UUID, asyncio.Task[Kept | None]] = field(default_factory=dict)
    _from_snapshot: int = 0
    _from_rows: int = 0

    def here(self, namespace: UUID) -> Partition | None:
        """If it is in memory."""
        kept = self._kept.get(namespace)
        return None if kept is None else kept.partition

    async def get(self, workspace: UUID, namespace: UUID) -> Partition | None:
        """Activated if need be; None: nothing was ever remembered there."""
        kept = self._kept.get(namespace)
        if kept is None:
            loading = self._loading.get(namespace)
            if loading is None:
                loading = asyncio.create_task(self._activate(workspace, namespace))
                self._loading[namespace] = loading
                loading.add_done_callback(lambda _: self._loading.pop(namespace, None))
            # A caller that gives up does not stop what others wait for, or will.
            kept = await asyncio.shield(loading)
        if kept is None or kept.partition.head.workspace_id != workspace:
            return None
        kept.used_at = self.clock.monotonic()
        return kept.partition

    async def create(
        self, lease: Lease, workspace: UUID, namespace: Namespace, dimensions: int
    ) -> Partition:
        """Activated; made where there is none. Raises Fenced."""
        identity = self.vault.namespace_id(workspace, namespace)
        found = await self.get(workspace, identity)
        if found is not None:
            return found
        salt = self.vault.new_salt()
        context = namespace_context(workspace, identity)
        name = f"{namespace.kind}/{namespace.id}".encode()
        row = NamespaceRow(
            identity,
            workspace,
            shard_of(identity),
            salt,
            self.vault.seal(salt, context, name),
            dimensions,
        )
        await self.repository.create_namespace(lease, row)
        found = await self.get(workspace, identity)
        if found is None:
            raise Internal
        return found

    def erased(self, namespace: UUID) -> None:
        """Its snapshot is not valid any more."""
        if (kept := self._kept.get(namespace)) is not None:
            kept.erasures += 1
            kept.snapshot_at = 0

    def wrote(self, namespace: UUID, rows: int) -> None:
        if namespace in self._kept:
            self._kept[namespace].written += rows

    def drop(self, namespace: UUID) -> None:
        self._kept.pop(namespace, None)

    def drop_shards(self, shards: frozenset[int]) -> None:
        """Another host owns them now."""
        for namespace in [n for n in self._kept if shard_of(n) in shards]:
            del self._kept[namespace]

    def all(self) -> list[Partition]:
        return [kept.partition for kept in self._kept.values()]

    def idle(self) -> list[UUID]:
        """Namespaces that nobody used lately."""
        before = self.clock.monotonic() - self.options.idle_s
        return [namespace for namespace, kept in self._kept.items() if kept.used_at < before]

    def wants_snapshot(self, namespace: UUID, *, leaving: bool = False) -> bool:
        kept = self._kept.get(namespace)
        if kept is None or len(kept.partition) < 64:  # reading so few rows is as quick
            return False
        changed = kept.partition.position > kept.snapshot_at
        # Of a large namespace only when a good part of it has changed: it is written whole.
        enough = max(self.options.snapshot_changes, len(kept.partition) // 10)
        return changed and (leaving or kept.written >= enough)

    async def snapshot(self, lease: Lease, namespace: UUID) -> None:
        """Write one and make it the valid one. Raises Fenced; its file is then removed."""
        kept = self._kept.get(namespace)
        if kept is None:
            return
        info = SnapshotInfo(uuid7(), namespace, self.vault.new_salt())
        path = path_of(self.options.folder, namespace, info.id)
        written, erasures = kept.written, kept.erasures
        try:
            position = await asyncio.to_thread(
                write_snapshot, path, kept.partition, info, self.vault
            )
            async with self.commits:
                if kept.erasures != erasures or self._kept.get(namespace) is not kept:
                    raise _Overtaken
                old = await self.repository.replace_snapshot(
                    lease, namespace, kept.partition.head.shard, info.id, info.salt, position
                )
        except _Overtaken:  # it may hold what was erased meanwhile
            await asyncio.to_thread(shred, path)
            return
        except BaseException:
            await asyncio.to_thread(shred, path)
            raise
        kept.snapshot_at, kept.written = position, kept.written - written
        await self.shred(namespace, old)

    async def shred(self, namespace: UUID, snapshots: list[UUID] | tuple[UUID, ...]) -> int:
        """Remove files that are not valid any more, those of earlier crashes too."""
        removed = 0
        for identity in snapshots:
            path = path_of(self.options.folder, namespace, identity)
            removed += await asyncio.to_thread(shred, path)
        return removed

    async def sweep(self, namespace: UUID) -> int:
        """Remove every file of the namespace but the valid one."""
        valid = await self.repository.snapshot(namespace)
        folder = self.options.folder / namespace.hex

        def remove() -> int:
            keep = None if valid is None else path_of(self.options.folder, namespace, valid[0])
            return sum(shred(path) for path in folder.glob("*") if path != keep)

        return await asyncio.to_thread(remove)

    def statistics(self) -> dict[str, int | float]:
        partitions = self.all()
        return {
            "namespaces": len(partitions),
            "items": sum(len(partition) for partition in partitions),
            "from_snapshot": self._from_snapshot,
            "from_rows": self._from_rows,
        }

    async def _activate(self, workspace: UUID, namespace: UUID) -> Kept | None:
        row = await self.repository.namespace(namespace, workspace)
        if row is None:
            return None
        head = await asyncio.to_thread(self._head, row)
        for attempt in range(_TRIES):
            partition, position = await self._read_snapshot(head) if attempt == 0 else (None, 0)
            partition = partition or Partition(head, self.vault, self.memory)
            await self._catch_up(partition)
            async with self.commits:
                await self._catch_up(partition)
                if await self.repository.count(namespace) != len(partition):
                    continue  # rows were erased while it was read, or the snapshot is older
                kept = Kept(partition, self.clock.monotonic(), position)
                self._kept[namespace] = kept
            if position:
                self._from_snapshot += 1
            else:
                self._from_rows += 1
            return kept
        raise Internal

    async def _catch_up(self, partition: Partition) -> None:
        async for records in self.repository.since(partition.head.id, partition.position):
            await asyncio.to_thread(partition.put, records)

    async def _read_snapshot(self, head: Head) -> tuple[Partition | None, int]:
        valid = await self.repository.snapshot(head.id)
        if valid is None:
            return None, 0
        identity, salt, position = valid
        info = SnapshotInfo(identity, head.id, salt)
        path = path_of(self.options.folder, head.id, identity)
        try:
            partition = await asyncio.to_thread(
                read_snapshot, path, info, head, self.vault, self.memory
            )
        except Torn as error:
            log.info("snapshot.unread", why=error.message)
            return None, 0
        return partition, position

    def _head(self, row: NamespaceRow) -> Head:
        context = namespace_context(row.workspace_id, row.id)
        kind, _, name = self.vault.open(row.salt, context, row.sealed).decode().partition("/")
        namespace = Namespace.model_validate({"kind": kind, "id": name})
        return Head(row.workspace_id, row.id, row.shard, row.salt, namespace, row.dimensions)
