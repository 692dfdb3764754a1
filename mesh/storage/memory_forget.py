"""Forgetting in PostgreSQL: what hangs together, erasing it, receipts, journals.

Deleting a row leaves its bytes in pages and in the write-ahead log. The bytes of a memory are
noise without its salt, so what has to leave the disk is the salt: ``scrub`` sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from mesh.contracts.memory import ForgetReceipt
from mesh.core.errors import NotFound
from mesh.memory.forgetting import Redactor
from mesh.memory.placement import bucket_of
from mesh.storage.leases import Lease, check_leases
from mesh.storage.memory_rows import Citing, Closure, Erased
from mesh.storage.pool import Connection, Database

MAX_DEPTH = 16
"""Of derivation: what was derived from what was derived …"""

# Merged memories say the same as their survivor, so one of them is asked for with all of them.
_CLOSURE = """
WITH RECURSIVE asked AS (
    SELECT id, 'asked' AS how, 0 AS depth FROM memory_items
    WHERE workspace_id = $1
      AND (id = ANY($2::uuid[]) OR namespace = ANY($3::uuid[]) OR contacts && $4::uuid[])
), whole AS (
    SELECT * FROM asked
    UNION
    SELECT i.id, n.how, w.depth + 1 FROM whole w JOIN memory_items h ON h.id = w.id
    JOIN LATERAL (
        SELECT d.id, 'derived' AS how FROM memory_items d WHERE d.derived_from @> ARRAY[w.id]
            AND d.derived_from <> '{}'
        UNION ALL
        SELECT m.id, 'merged' FROM memory_items m WHERE m.merged_into = w.id
        UNION ALL
        SELECT h.merged_into, 'merged' WHERE h.merged_into IS NOT NULL
    ) n ON true
    JOIN memory_items i ON i.id = n.id AND i.workspace_id = $1
    WHERE w.depth < $5
)
SELECT DISTINCT ON (w.id) w.id, w.how, i.shard FROM whole w JOIN memory_items i ON i.id = w.id
ORDER BY w.id, w.depth
"""
_DELETE_ITEMS = """
DELETE FROM memory_items WHERE id = ANY($1::uuid[]) AND shard = ANY($2::smallint[])
RETURNING id, shard, namespace
"""
_DELETE_KEYS = """
DELETE FROM memory_keys k USING unnest($1::smallint[], $2::uuid[]) AS w (bucket, id)
WHERE k.bucket = w.bucket AND k.id = w.id
"""
_DELETE_SNAPSHOTS = """
DELETE FROM memory_snapshots s USING memory_namespaces n
WHERE s.namespace = ANY($1::uuid[]) AND n.id = s.namespace RETURNING s.id, n.shard
"""
_DELETE_NAMESPACES = """
DELETE FROM memory_namespaces n WHERE n.id = ANY($1::uuid[]) AND n.shard = ANY($2::smallint[])
  AND NOT EXISTS (SELECT FROM memory_items i WHERE i.namespace = n.id)
RETURNING n.id, n.shard
"""
_BEGIN = """
INSERT INTO memory_receipts (id, workspace_id, state, items, namespaces, receipt, requested_at)
VALUES ($1, $2, 'begun', $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING
"""
_EXTEND = "UPDATE memory_receipts SET items = $2 WHERE id = $1 AND state = 'begun'"
_FINISH = """
UPDATE memory_receipts SET state = 'done', receipt = $2, finished_at = now() WHERE id = $1
"""
_RECEIPT = "SELECT * FROM memory_receipts WHERE id = $1 AND workspace_id = $2"
_BEGUN = """
SELECT * FROM memory_receipts
WHERE state = 'begun' AND requested_at < now() - make_interval(secs => $1) ORDER BY id LIMIT 20
"""
_REMAINING = """
SELECT (SELECT count(*) FROM memory_items WHERE id = ANY($1::uuid[]))
     + (SELECT count(*) FROM memory_keys WHERE id = ANY($1::uuid[]))
     + (SELECT count(*) FROM memory_items
        WHERE namespace = ANY($2::uuid[]) AND created_at < $3) AS n
"""
_CITING = """
SELECT c.task_id, t.state NOT IN ('succeeded', 'failed', 'cancelled') AS open,
    array_agg(c.item) AS items
FROM memory_citations c JOIN tasks t ON t.id = c.task_id
WHERE c.item = ANY($1::uuid[]) AND t.workspace_id = $2
GROUP BY c.task_id, t.state
"""
_TASK = "SELECT request, result, error FROM tasks WHERE id = $1 FOR NO KEY UPDATE"
_STEPS = "SELECT name, output, decisions FROM steps WHERE task_id = $1 FOR NO KEY UPDATE"
_BLACK_TASK = "UPDATE tasks SET request = $2, result = $3, error = $4 WHERE id = $1"
_BLACK_STEP = "UPDATE steps SET output = $3, decisions = $4 WHERE task_id = $1 AND name = $2"
_UNCITE = "DELETE FROM memory_citations WHERE item = ANY($1::uuid[])"


class ForgetRepository:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def closure(
        self,
        workspace: UUID,
        *,
        items: Sequence[UUID] = (),
        namespaces: Sequence[UUID] = (),
        contacts: Sequence[UUID] = (),
    ) -> Closure:
        """Everything that goes together with these, by blind ids."""
        rows = await self._db.fetch(
            _CLOSURE, workspace, [*items], [*namespaces], [*contacts], MAX_DEPTH
        )
        by = {
            how: tuple(row["id"] for row in rows if row["how"] == how)
            for how in ("asked", "derived", "merged")
        }
        return Closure(
            by["asked"], by["derived"], by["merged"], {r["id"]: r["shard"] for r in rows}
        )

    async def erase(
        self, leases: Sequence[Lease], shards: Sequence[int], ids: Sequence[UUID]
    ) -> Erased:
        """Rows, salts and snapshots of these memories, as far as they lie in these shards. A
        repeat erases what is left. Raises Fenced."""

        async def work(connection: Connection) -> Erased:
            await check_leases(connection, leases)
            rows = await connection.fetch(_DELETE_ITEMS, [*ids], [*shards])
            # Salts of rows that an earlier try erased may be left, wherever their shard was.
            pairs = {(bucket_of(shard), identity) for shard in shards for identity in ids}
            namespaces = list({row["namespace"] for row in rows})
            snapshots = await connection.fetch(_DELETE_SNAPSHOTS, namespaces)
            pairs |= {(bucket_of(row["shard"]), row["id"]) for row in snapshots}
            keys = await self._drop(connection, pairs)
            return Erased(len(rows), keys, len(snapshots), tuple(namespaces))

        return await self._db.transact(work)

    async def drop_namespaces(
        self, leases: Sequence[Lease], shards: Sequence[int], namespaces: Sequence[UUID]
    ) -> int:
        """Empty namespaces and their salts; with them the hashes of their words mean nothing."""

        async def work(connection: Connection) -> int:
            await check_leases(connection, leases)
            snapshots = await connection.fetch(_DELETE_SNAPSHOTS, [*namespaces])
            rows = await connection.fetch(_DELETE_NAMESPACES, [*namespaces], [*shards])
            pairs = {(bucket_of(row["shard"]), row["id"]) for row in (*rows, *snapshots)}
            await self._drop(connection, pairs)
            return len(rows)

        return await self._db.transact(work)

    async def begin(
        self, receipt: ForgetReceipt, items: Sequence[UUID], namespaces: Sequence[UUID]
    ) -> None:
        """From now on it will be finished, by whoever is there."""
        await self._db.fetch(
            _BEGIN,
            receipt.id,
            receipt.workspace_id,
            [*items],
            [*namespaces],
            receipt.model_dump(mode="json"),
            receipt.requested_at,
        )

    async def extend(self, receipt: UUID, items: Sequence[UUID]) -> None:
        await self._db.fetch(_EXTEND, receipt, [*items])

    async def finish(self, receipt: ForgetReceipt) -> None:
        await self._db.fetch(_FINISH, receipt.id, receipt.model_dump(mode="json"))

    async def receipt(self, identity: UUID, workspace: UUID) -> tuple[ForgetReceipt, int]:
        """It, and what of the erased is in the database again or still. Raises NotFound."""
        row = await self._db.fetchrow(_RECEIPT, identity, workspace)
        if row is None:
            raise NotFound("There is no such receipt.", {"id": str(identity)})
        receipt = ForgetReceipt.model_validate(row["receipt"])
        return receipt, await self.remaining(row["items"], row["namespaces"], receipt.requested_at)

    async def items_of(self, identity: UUID, workspace: UUID) -> list[UUID]:
        """Every id that it was about."""
        row = await self._db.fetchrow(_RECEIPT, identity, workspace)
        return [] if row is None else list(row["items"])

    async def begun(
        self, older_than_s: float
    ) -> list[tuple[ForgetReceipt, list[UUID], list[UUID]]]:
        """Forgettings that nobody finished: receipt, items, namespaces."""
        return [
            (ForgetReceipt.model_validate(row["receipt"]), row["items"], row["namespaces"])
            for row in await self._db.fetch(_BEGUN, older_than_s)
        ]

    async def remaining(
        self, items: Sequence[UUID], namespaces: Sequence[UUID], before: datetime
    ) -> int:
        """Rows and salts that are there. A namespace that was filled anew after ``before`` is no
        remainder of the old one."""
        row = await self._db.fetchrow(_REMAINING, [*items], [*namespaces], before)
        assert row is not None
        return int(row["n"])

    async def citing(self, workspace: UUID, items: Sequence[UUID]) -> list[Citing]:
        """Tasks that read one of these."""
        rows = await self._db.fetch(_CITING, [*items], workspace)
        return [Citing(row["task_id"], row["open"], tuple(row["items"])) for row in rows]

    async def black_out(self, task: UUID, redactor: Redactor) -> int:
        """In the task's request, result and steps; gives how many places."""

        async def work(connection: Connection) -> int:
            row = await connection.fetchrow(_TASK, task)
            if row is None:
                return 0
            values, places = redactor.redact([row["request"], row["result"], row["error"]])
            if places:
                await connection.execute(_BLACK_TASK, task, *values)
            for step in await connection.fetch(_STEPS, task):
                told, count = redactor.redact([step["output"], step["decisions"]])
                if count:
                    await connection.execute(_BLACK_STEP, task, step["name"], *told)
                places += count
            return int(places)

        return await self._db.transact(work)

    async def uncite(self, items: Sequence[UUID]) -> None:
        await self._db.fetch(_UNCITE, [*items])

    @staticmethod
    async def _drop(connection: Connection, pairs: set[tuple[int, UUID]]) -> int:
        done = await connection.execute(
            _DELETE_KEYS, [bucket for bucket, _ in pairs], [identity for _, identity in pairs]
        )
        return int(done.rsplit(" ", 1)[-1])
