"""Closes batches: reads their leaves, builds the tree, signs its root, and hands it to the chain.

Everything but the last step can be done again by anybody: the leaves and their order are fixed, so
the root is the same. The last step is one transaction, and the first one that is committed stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.logging import get_logger
from mesh.storage.leases import Lease
from mesh.storage.pool import Connection
from mesh.storage.trust_batches import BatchRow, TrustBatches
from mesh.storage.trust_keys import TrustKeys
from mesh.storage.trust_leaves import TrustLeaves
from mesh.trust.checkpoint import Checkpoint, sign
from mesh.trust.merkle import HASH_BYTES, check_leaves
from mesh.trust.stored import UNIT, Distinct, StoredTree, fold_units
from mesh.trust.work import Work

log = get_logger("trust.seal")

RANGE = 64 * UNIT
"""Leaves that one task hashes: 2 MB of them, some 50 ms."""
TASK_S = 60.0
AHEAD = 4
"""Ranges that are read and not hashed yet, so that memory is bounded."""

Want = Callable[[Connection, bytes, UUID, UUID], Awaitable[None]]
"""Of the networks' ledger: connection, root, batch, workspace."""


class Sealer:
    """``lease``: of a shard, as with the writer. ``sealed``: told of each batch."""

    def __init__(
        self,
        batches: TrustBatches,
        leaves: TrustLeaves,
        keys: TrustKeys,
        work: Work,
        want: Want,
        clock: Clock,
        lease: Callable[[int], Lease],
        sealed: Callable[[BatchRow], object],
    ) -> None:
        self._batches = batches
        self._leaves = leaves
        self._keys = keys
        self._work = work
        self._want = want
        self._clock = clock
        self._lease = lease
        self._sealed = sealed
        self._running = self._count = 0

    async def seal(self, batch: BatchRow) -> BatchRow:
        """``batch`` takes no more. The caller asks once at a time for each batch."""
        self._running += 1
        try:
            return await self._seal(batch)
        finally:
            self._running -= 1

    def statistics(self) -> dict[str, int | float]:
        return {"sealing": self._running, "sealed": self._count}

    async def _seal(self, batch: BatchRow) -> BatchRow:
        began = self._clock.monotonic()
        tree = await self._tree(batch)
        signers = await self._keys.signers()
        note = sign(Checkpoint.of(signers[0].name, tree.size, tree.root), signers)
        row = await self._batches.seal(
            self._lease(batch.shard), batch.id, tree.root, note, tree.nodes, self._want
        )
        seconds = self._clock.monotonic() - began
        self._count += 1
        metrics.TRUST_BATCHES.labels(row.kind).inc()
        metrics.TRUST_SEAL_SECONDS.observe(seconds)
        log.info("batch.sealed", batch=str(batch.id), size=tree.size, seconds=round(seconds, 3))
        self._sealed(row)
        return row

    async def _tree(self, batch: BatchRow) -> StoredTree:
        """Some ranges in memory at a time, and 8 bytes a leaf to see that each is there once."""
        distinct = Distinct()
        tasks: list[asyncio.Task[bytes]] = []
        gate = asyncio.Semaphore(AHEAD)

        async def fold(leaves: bytes) -> bytes:
            try:
                return await self._work.run(fold_units, leaves, timeout_s=TASK_S)
            finally:
                gate.release()

        try:
            buffer = bytearray()
            async for leaves in self._leaves.leaves(batch.id, batch.size):
                await asyncio.to_thread(distinct.add, leaves)
                buffer += leaves
                while len(buffer) >= RANGE * HASH_BYTES:
                    await gate.acquire()
                    tasks.append(asyncio.create_task(fold(bytes(buffer[: RANGE * HASH_BYTES]))))
                    del buffer[: RANGE * HASH_BYTES]
            if buffer:
                await gate.acquire()
                tasks.append(asyncio.create_task(fold(bytes(buffer))))
            units = b"".join(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if suspects := await asyncio.to_thread(distinct.suspects):
            await self._compare(batch, suspects)
        return await asyncio.to_thread(StoredTree.build, batch.size, units)

    async def _compare(self, batch: BatchRow, suspects: frozenset[bytes]) -> None:
        """Raises InvalidInput when one of these really is there twice."""
        found: list[bytes] = []
        async for leaves in self._leaves.leaves(batch.id, batch.size):
            found += [
                leaves[at : at + HASH_BYTES]
                for at in range(0, len(leaves), HASH_BYTES)
                if leaves[at : at + 8] in suspects
            ]
        check_leaves(b"".join(found))
