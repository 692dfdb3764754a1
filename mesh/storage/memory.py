"""Memories in PostgreSQL: read by anybody in the workspace, written by the shard's owner alone.

Every write takes the leases that entitle to it and checks them in its own transaction: a former
owner that was paused or cut off can't write (Fenced). Erasing and receipts: ``memory_forget``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mesh.core.errors import NotFound
from mesh.memory.placement import bucket_of, shard_of
from mesh.memory.record import Record
from mesh.memory.words import Lexeme
from mesh.storage.leases import Lease, check_leases
from mesh.storage.memory_rows import (
    INSERT_ITEMS,
    INSERT_KEYS,
    INSERT_NAMESPACE,
    SELECT,
    UPDATE_ITEMS,
    Draft,
    NamespaceRow,
    insert_columns,
    record_of,
    update_columns,
)
from mesh.storage.pool import Connection, Database

PAGE = 4_000

_NAMESPACE = """
SELECT n.*, k.salt FROM memory_namespaces n
JOIN memory_keys k ON k.bucket = n.shard % 16 AND k.id = n.id
"""
_GET = SELECT + " WHERE i.id = ANY($1::uuid[]) AND i.workspace_id = $2"
# The bucket is named where it is known, so that one part of the keys is looked at alone.
_SINCE = (
    SELECT
    + """ WHERE i.namespace = $1 AND i.change > $2 AND k.bucket = $4
    ORDER BY i.change LIMIT $3"""
)
_LATEST = (
    SELECT
    + """ WHERE i.namespace = $1 AND i.workspace_id = $2 AND i.state <> 'merged' AND k.bucket = $4
    ORDER BY i.change DESC LIMIT $3"""
)
_PAGE = (
    SELECT
    + """ WHERE i.workspace_id = $1 AND i.id > $2 AND ($3::uuid IS NULL OR i.namespace = $3)
    ORDER BY i.id LIMIT $4"""
)
# One look into an index for each: otherwise the planner, to whom these hashes are all alike, would
# read the namespaces whole.
_IDS_OF_CLIENTS = """
SELECT found.id FROM unnest($1::uuid[], $2::bytea[]) AS w (namespace, hash)
CROSS JOIN LATERAL (
    SELECT id FROM memory_items m WHERE m.namespace = w.namespace AND m.client_hash = w.hash LIMIT 1
) AS found
"""
_IDS_OF_CONTENTS = """
SELECT found.id FROM unnest($1::uuid[], $2::bytea[]) AS w (namespace, hash)
CROSS JOIN LATERAL (
    SELECT id FROM memory_items m
    WHERE m.namespace = w.namespace AND m.content_hash = w.hash AND m.state = 'active' LIMIT 1
) AS found
"""
_BY_IDS = SELECT + " WHERE i.id = ANY($1::uuid[])"
# Stop words of the language are left out of the plain words, too: both count places alike.
_LEXEMES = """
SELECT t.n, w.lexeme, w.positions
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (config, body, n)
CROSS JOIN LATERAL (
    SELECT array_agg(p) AS kept
    FROM unnest(to_tsvector(t.config::regconfig, t.body)) AS s, unnest(s.positions) AS p
) AS places
CROSS JOIN LATERAL (
    SELECT lexeme, positions FROM unnest(to_tsvector(t.config::regconfig, t.body))
    UNION
    SELECT lexeme, positions FROM unnest(to_tsvector('simple', t.body))
    WHERE positions && places.kept
) AS w
"""
# Words are hashed per namespace, so their index alone finds just this namespace's rows. The planner
# can't know that and would rather read the namespace whole: it is not shown the other conditions.
_SEARCH = """
WITH hits AS MATERIALIZED (
    SELECT id, words, state, namespace, workspace_id FROM memory_items WHERE words @@ $3::tsquery
)
SELECT id, ts_rank(words, $3::tsquery, 1) AS rank FROM hits
WHERE workspace_id = $1 AND namespace = $2
  AND ($5::uuid[] IS NULL OR id = ANY($5)) AND state = ANY($6::text[])
ORDER BY rank DESC, id LIMIT $4
"""
_COMMON = """
SELECT word, ndoc FROM ts_stat(
    format('SELECT words FROM memory_items WHERE namespace = %L', $1::uuid)
) WHERE ndoc >= $2
"""
_COUNT = "SELECT count(*) AS n FROM memory_items WHERE namespace = $1"
_OVERDUE = """
SELECT id, shard FROM memory_items
WHERE expires_at <= now() AND NOT pinned AND shard = ANY($1::smallint[])
ORDER BY expires_at LIMIT $2
"""
_STATS = """
SELECT kind, state, pinned, count(*) AS n, sum(length(sealed) + length(vector)) AS bytes,
    min(created_at) AS oldest, max(created_at) AS newest
FROM memory_items WHERE workspace_id = $1 GROUP BY kind, state, pinned
"""
_NAMESPACES = "SELECT count(*) AS n FROM memory_namespaces WHERE workspace_id = $1"
_RECEIPTS = "SELECT count(*) AS n FROM memory_receipts WHERE workspace_id = $1"
_SNAPSHOT = """
SELECT s.id, s.position, k.salt FROM memory_snapshots s
JOIN memory_namespaces n ON n.id = s.namespace
JOIN memory_keys k ON k.bucket = n.shard % 16 AND k.id = s.id
WHERE s.namespace = $1
"""
_OLD_SNAPSHOT = "DELETE FROM memory_snapshots WHERE namespace = $1 RETURNING id"
_NEW_SNAPSHOT = "INSERT INTO memory_snapshots (namespace, id, position) VALUES ($1, $2, $3)"
_DROP_KEYS = "DELETE FROM memory_keys WHERE bucket = $1 AND id = ANY($2::uuid[])"
_CONSOLIDATED = """
UPDATE memory_namespaces SET consolidated = greatest(consolidated, $2) WHERE id = $1
"""
_CITE = """
INSERT INTO memory_citations (item, task_id)
SELECT i.id, t.id FROM memory_items i, tasks t
WHERE i.id = ANY($1::uuid[]) AND t.id = $2 AND t.workspace_id = i.workspace_id
ON CONFLICT DO NOTHING
"""


class MemoryRepository:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def namespace(self, identity: UUID, workspace: UUID) -> NamespaceRow | None:
        """By its blind id; None: nothing was ever remembered there, or another workspace has it."""
        row = await self._db.fetchrow(
            _NAMESPACE + " WHERE n.id = $1 AND n.workspace_id = $2", identity, workspace
        )
        return None if row is None else _namespace(row)

    async def namespaces_of(self, shards: Sequence[int]) -> list[NamespaceRow]:
        """Every namespace in these shards, of all workspaces: for their owner."""
        sql = _NAMESPACE + " WHERE n.shard = ANY($1::smallint[]) ORDER BY n.id"
        return [_namespace(row) for row in await self._db.fetch(sql, [*shards])]

    async def get(self, workspace: UUID, ids: Sequence[UUID]) -> list[Record]:
        """Those that are there, in no order."""
        return [record_of(row) for row in await self._db.fetch(_GET, [*ids], workspace)]

    async def one(self, workspace: UUID, identity: UUID) -> Record:
        """Raises NotFound, also when it belongs to another workspace."""
        found = await self.get(workspace, [identity])
        if not found:
            raise NotFound("There is no such memory.", {"id": str(identity)})
        return found[0]

    async def since(self, namespace: UUID, change: int) -> AsyncIterator[list[Record]]:
        """Rows written or changed after that change, oldest first, a page at a time."""
        bucket = bucket_of(shard_of(namespace))
        while True:
            rows = await self._in_order(_SINCE, namespace, change, PAGE, bucket)
            if rows:
                yield [record_of(row) for row in rows]
                change = rows[-1]["change"]
            if len(rows) < PAGE:
                return

    async def latest(self, workspace: UUID, namespace: UUID, limit: int) -> list[Record]:
        """The rows changed last, newest first, without merged ones."""
        bucket = bucket_of(shard_of(namespace))
        rows = await self._db.fetch(_LATEST, namespace, workspace, limit, bucket)
        return [record_of(row) for row in rows]

    async def pages(
        self, workspace: UUID, namespace: UUID | None, size: int = 500
    ) -> AsyncIterator[list[Record]]:
        """All rows of a workspace (or one of its namespaces) in the order of their ids."""
        after = UUID(int=0)
        while True:
            rows = await self._in_order(_PAGE, workspace, after, namespace, size)
            if rows:
                yield [record_of(row) for row in rows]
                after = rows[-1]["id"]
            if len(rows) < size:
                return

    async def lexemes(self, texts: Sequence[tuple[str, str]]) -> list[list[Lexeme]]:
        """(PostgreSQL configuration, text) of each → its lexemes: stems and plain words without
        stop words, in the order of the text."""
        if not texts:
            return []
        found: dict[int, list[Lexeme]] = defaultdict(list)
        rows = await self._db.fetch(_LEXEMES, [c for c, _ in texts], [t for _, t in texts])
        for row in rows:
            found[row["n"]].append(Lexeme(row["lexeme"], tuple(row["positions"] or ())))
        return [
            sorted(found[number], key=lambda lexeme: (lexeme.places, lexeme.text))
            for number in range(1, len(texts) + 1)
        ]

    async def search_words(
        self,
        workspace: UUID,
        namespace: UUID,
        query: str,
        limit: int,
        *,
        among: Sequence[UUID] | None = None,
        states: Sequence[str] = ("active",),
    ) -> list[tuple[UUID, float]]:
        """``query``: a tsquery of hashed words. (id, rank between 0 and 1), best first."""
        if not query:
            return []
        rows = await self._db.fetch(
            _SEARCH, workspace, namespace, query, limit, None if among is None else [*among],
            [*states],
        )  # fmt: skip
        return [(row["id"], float(row["rank"])) for row in rows]

    async def common_words(self, namespace: UUID, least: int) -> dict[str, int]:
        """Hashed words that so many memories or more have, and how many. Reads them all."""
        rows = await self._db.fetch(_COMMON, namespace, least)
        return {row["word"]: row["ndoc"] for row in rows}

    async def create_namespace(self, lease: Lease, row: NamespaceRow) -> None:
        """A repeat changes nothing. Raises Fenced."""

        async def work(connection: Connection) -> None:
            await check_leases(connection, [lease])
            made = await connection.fetchrow(
                INSERT_NAMESPACE, row.id, row.workspace_id, row.shard, row.sealed, row.dimensions
            )
            if made is not None:
                await connection.execute(INSERT_KEYS, [bucket_of(row.shard)], [row.id], [row.salt])

        await self._db.transact(work)

    async def known(
        self, clients: Sequence[tuple[UUID, bytes]], contents: Sequence[tuple[UUID, bytes]]
    ) -> list[Record]:
        """Rows with one of these clients' ids, and active rows with one of these contents; each
        by its namespace."""
        ids = {row["id"] for row in await self._pairs(_IDS_OF_CONTENTS, contents)}
        ids |= {row["id"] for row in await self._pairs(_IDS_OF_CLIENTS, clients)}
        if not ids:
            return []
        return [record_of(row) for row in await self._db.fetch(_BY_IDS, [*ids])]

    async def _pairs(self, sql: str, pairs: Sequence[tuple[UUID, bytes]]) -> list[asyncpg.Record]:
        if not pairs:
            return []
        return await self._db.fetch(sql, [one for one, _ in pairs], [other for _, other in pairs])

    async def overdue(self, shards: Sequence[int], limit: int) -> dict[UUID, int]:
        """Memories of these shards that have expired, the longest first, with their shards."""
        return {r["id"]: r["shard"] for r in await self._db.fetch(_OVERDUE, [*shards], limit)}

    async def count(self, namespace: UUID) -> int:
        row = await self._db.fetchrow(_COUNT, namespace)
        return 0 if row is None else int(row["n"])

    async def write(
        self, leases: Sequence[Lease], drafts: Sequence[Draft], updates: Sequence[Record]
    ) -> dict[UUID, int]:
        """Insert and change rows of many shards in one transaction: all or nothing. Gives the
        number of each row's change. Raises Fenced; a row that was inserted before (the answer to
        an earlier try was lost) is left as it is."""

        async def work(connection: Connection) -> dict[UUID, int]:
            await check_leases(connection, leases)
            ids = [draft.record.id for draft in drafts]
            there = await connection.fetch(
                "SELECT id, change FROM memory_items WHERE id = ANY($1::uuid[])", ids
            )
            changes = {row["id"]: row["change"] for row in there}
            fresh = [draft for draft in drafts if draft.record.id not in changes]
            if fresh:
                records = [draft.record for draft in fresh]
                buckets = [bucket_of(record.shard) for record in records]
                await connection.execute(
                    INSERT_KEYS, buckets, [r.id for r in records], [r.salt for r in records]
                )
                rows = await connection.fetch(INSERT_ITEMS, *insert_columns(fresh))
                changes |= {row["id"]: row["change"] for row in rows}
            if updates:
                rows = await connection.fetch(UPDATE_ITEMS, *update_columns(updates))
                changes |= {row["id"]: row["change"] for row in rows}
            return changes

        return await self._db.transact(work)

    async def snapshot(self, namespace: UUID) -> tuple[UUID, bytes, int] | None:
        """Id, salt and position of the valid one."""
        row = await self._db.fetchrow(_SNAPSHOT, namespace)
        return None if row is None else (row["id"], row["salt"], row["position"])

    async def replace_snapshot(
        self, lease: Lease, namespace: UUID, shard: int, identity: UUID, salt: bytes, position: int
    ) -> list[UUID]:
        """From now on this one is valid; gives the ids of those that are not any more."""

        async def work(connection: Connection) -> list[UUID]:
            await check_leases(connection, [lease])
            old = [row["id"] for row in await connection.fetch(_OLD_SNAPSHOT, namespace)]
            await connection.execute(_DROP_KEYS, bucket_of(shard), [*old, identity])
            await connection.execute(INSERT_KEYS, [bucket_of(shard)], [identity], [salt])
            await connection.execute(_NEW_SNAPSHOT, namespace, identity, position)
            return old

        return await self._db.transact(work)

    async def consolidated(self, lease: Lease, namespace: UUID, change: int) -> None:
        """Changes up to this one have been looked at."""

        async def work(connection: Connection) -> None:
            await check_leases(connection, [lease])
            await connection.execute(_CONSOLIDATED, namespace, change)

        await self._db.transact(work)

    async def cite(self, ids: Sequence[UUID], task: UUID) -> None:
        """The task is about to read these: a forgetting will look at its journal."""
        if ids:
            await self._db.fetch(_CITE, [*ids], task)

    async def stats(self, workspace: UUID) -> dict[str, Any]:
        """Counts and sizes, as ``MemoryStats`` names them (but for the shards)."""
        rows = await self._db.fetch(_STATS, workspace)
        by_kind: dict[str, int] = defaultdict(int)
        by_state: dict[str, int] = defaultdict(int)
        for row in rows:
            by_kind[row["kind"]] += row["n"]
            by_state[row["state"]] += row["n"]
        namespaces = await self._db.fetchrow(_NAMESPACES, workspace)
        receipts = await self._db.fetchrow(_RECEIPTS, workspace)
        assert namespaces is not None
        assert receipts is not None
        oldest: list[datetime] = [row["oldest"] for row in rows]
        newest: list[datetime] = [row["newest"] for row in rows]
        return {
            "items": sum(row["n"] for row in rows),
            "namespaces": namespaces["n"],
            "by_kind": dict(by_kind),
            "by_state": dict(by_state),
            "pinned": sum(row["n"] for row in rows if row["pinned"]),
            "bytes": sum(int(row["bytes"]) for row in rows),
            "receipts": receipts["n"],
            "oldest": min(oldest, default=None),
            "newest": max(newest, default=None),
        }

    async def _in_order(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """A page by an index that has its order. Before a table was ever analysed the planner
        would rather sort all that is left, for every page, and on disk."""

        async def work(connection: Connection) -> list[asyncpg.Record]:
            await connection.execute("SET LOCAL enable_sort = off")
            return await connection.fetch(sql, *args)

        return await self._db.transact(work)


def _namespace(row: Any) -> NamespaceRow:
    return NamespaceRow(
        id=row["id"],
        workspace_id=row["workspace_id"],
        shard=row["shard"],
        salt=row["salt"],
        sealed=row["sealed"],
        dimensions=row["dimensions"],
        consolidated=row["consolidated"],
    )
