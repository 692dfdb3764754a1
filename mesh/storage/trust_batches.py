"""Batches in PostgreSQL: opened, filled, closed; and what is to be told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mesh.contracts.events import EventType
from mesh.contracts.trust import AnchorView, BatchState, TrustEvent
from mesh.core.errors import Conflict, Fenced, NotFound
from mesh.storage.leases import Lease, check_lease
from mesh.storage.pool import Connection, Database
from mesh.trust.pages import Page
from mesh.trust.placement import Kind, bucket_of

_CREATE = """
INSERT INTO trust_batches (id, workspace_id, shard, kind, name) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING *
"""
_COUNT_OPEN = """
SELECT count(*) FROM trust_batches
WHERE workspace_id = $1 AND kind = 'campaign' AND root IS NULL
"""
_GET = "SELECT * FROM trust_batches WHERE id = $1"
_BY_SERIAL = "SELECT * FROM trust_batches WHERE serial = $1"
_BY_ROOT = "SELECT * FROM trust_batches WHERE root = $1"
_CURRENT = """
SELECT * FROM trust_batches WHERE workspace_id = $1 AND kind = $2 AND closing_at IS NULL
"""
_LAST_CLOSED = """
SELECT * FROM trust_batches
WHERE workspace_id = $1 AND kind = $2 AND closing_at IS NOT NULL ORDER BY serial DESC LIMIT 1
"""
_LIST = """
SELECT * FROM trust_batches WHERE workspace_id = $1 AND serial < $2 ORDER BY serial DESC LIMIT $3
"""
_LOCK = "SELECT * FROM trust_batches WHERE id = $1 FOR NO KEY UPDATE"
_GROW = """
UPDATE trust_batches SET size = size + $2, first_at = coalesce(first_at, now()) WHERE id = $1
"""
_ADD_PAGE = """
INSERT INTO trust_pages (batch, first, count, leaves, offsets, sealed)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_ADD_SALTS = """
INSERT INTO trust_salts (bucket, batch, first, salts, marks, people)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_SAME_PAGE = "SELECT leaves FROM trust_pages WHERE batch = $1 AND first = $2"
_ADD_DOCUMENTS = """
INSERT INTO trust_documents AS known (workspace_id, document, batch, count)
SELECT $1, d.document, $2, d.count FROM unnest($3::bytea[], $4::int[]) AS d (document, count)
ON CONFLICT (workspace_id, document, batch) DO UPDATE SET count = known.count + excluded.count
"""
_CLOSING = """
UPDATE trust_batches SET closing_at = now() WHERE id = $1 AND closing_at IS NULL RETURNING *
"""
_SEAL = """
UPDATE trust_batches
SET root = $2, note = $3, state = 'included', closed_at = now(), state_at = now()
WHERE id = $1 AND root IS NULL RETURNING *
"""
_ADD_TREE = "INSERT INTO trust_trees (batch, nodes) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_DUE = """
SELECT * FROM trust_batches WHERE shard = ANY($1::smallint[]) AND root IS NULL AND (
    closing_at IS NOT NULL
    OR (kind = 'rolling' AND first_at < now() - make_interval(secs => $2))
    OR (kind = 'revocations' AND first_at < now() - make_interval(secs => $3))
) ORDER BY coalesce(closing_at, first_at) LIMIT 100
"""
# Whoever adds to it holds its row: it is looked at again when that is committed.
_DROP_EMPTY = """
DELETE FROM trust_batches
WHERE shard = ANY($1::smallint[]) AND kind = 'campaign' AND root IS NULL AND size = 0
  AND created_at < now() - make_interval(secs => $2)
"""
_SET_STATE = """
UPDATE trust_batches SET state = $2, state_at = now() WHERE id = $1 RETURNING *
"""
_PUT_ANCHOR = """
INSERT INTO trust_anchors (batch, network, view) VALUES ($1, $2, $3)
ON CONFLICT (batch, network) DO UPDATE SET view = excluded.view
"""
_ANCHORS = "SELECT * FROM trust_anchors WHERE batch = ANY($1::uuid[]) ORDER BY batch, network"
_OVERDUE = """
SELECT * FROM trust_batches
WHERE root IS NOT NULL AND state <> 'final' AND state <> 'confirmed'
  AND closed_at < now() - make_interval(secs => $1)
ORDER BY closed_at LIMIT 100
"""
_PENDING_AGE = """
SELECT count(*) AS pending,
    coalesce(extract(epoch FROM now() - min(closed_at)), 0)::float8 AS oldest_s
FROM trust_batches WHERE root IS NOT NULL AND state IN ('included', 'submitted', 'orphaned')
"""
_OUTBOX = "SELECT nextval(pg_get_serial_sequence('trust_outbox', 'id'))"
_TELL = """
INSERT INTO trust_outbox (id, workspace_id, batch, type, data) OVERRIDING SYSTEM VALUE
VALUES ($1, $2, $3, $4, $5)
"""


@dataclass(frozen=True, slots=True)
class BatchRow:
    id: UUID
    serial: int
    workspace_id: UUID
    shard: int
    kind: Kind
    name: str
    state: BatchState
    size: int
    root: bytes | None
    note: str | None
    created_at: datetime
    first_at: datetime | None
    closing_at: datetime | None
    closed_at: datetime | None
    state_at: datetime


class TrustBatches:
    """``None`` of a lookup: there is none. Workspaces are checked by who asks for them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(
        self,
        batch: UUID,
        workspace: UUID,
        shard: int,
        kind: Kind,
        name: str = "",
        *,
        most_open: int | None = None,
    ) -> BatchRow:
        """The one that is there, if there is: with this id, or the workspace's rolling one.
        Raises Conflict: ``most_open`` campaigns are open; NotFound: the id is another's."""

        async def work(connection: Connection) -> BatchRow:
            if most_open is not None and await connection.fetchrow(_GET, batch) is None:
                count = await connection.fetchval(_COUNT_OPEN, workspace)
                if count >= most_open:
                    raise Conflict("Too many batches are open.", {"limit": most_open})
            made = await connection.fetchrow(_CREATE, batch, workspace, shard, kind, name)
            if made is not None:
                row = batch_of(made)
                await tell(connection, row)
                return row
            there = await connection.fetchrow(_GET, batch)
            if there is None:
                there = await connection.fetchrow(_CURRENT, workspace, kind)
            if there is None or there["workspace_id"] != workspace:
                raise NotFound("There is no such batch.", {"id": str(batch)})
            return batch_of(there)

        return await self._db.transact(work)

    async def get(self, batch: UUID, workspace: UUID | None = None) -> BatchRow:
        """Raises NotFound, also for another workspace's."""
        row = await self._one(_GET, batch)
        if row is None or (workspace is not None and row.workspace_id != workspace):
            raise NotFound("There is no such batch.", {"id": str(batch)})
        return row

    async def by_serial(self, serial: int) -> BatchRow | None:
        return await self._one(_BY_SERIAL, serial)

    async def by_root(self, root: bytes) -> BatchRow | None:
        return await self._one(_BY_ROOT, root)

    async def current(self, workspace: UUID, kind: Kind) -> BatchRow | None:
        return await self._one(_CURRENT, workspace, kind)

    async def last_closed(self, workspace: UUID, kind: Kind) -> BatchRow | None:
        return await self._one(_LAST_CLOSED, workspace, kind)

    async def newest(self, workspace: UUID, before: int, limit: int) -> Sequence[BatchRow]:
        """In the order of their serials, those below ``before``."""
        return [batch_of(row) for row in await self._db.fetch(_LIST, workspace, before, limit)]

    async def append(
        self,
        lease: Lease,
        row: BatchRow,
        size: int,
        pages: Sequence[Page],
        documents: Mapping[bytes, int],
    ) -> None:
        """Add pages behind the first ``size`` leaves, all or none; acknowledged means kept.

        Raises Fenced, also when the batch has another size: then this is not its only writer.
        Raises Conflict when it is closed. A repeat after a lost answer changes nothing.
        """
        count = sum(page.count for page in pages)

        async def work(connection: Connection) -> None:
            await check_lease(connection, lease)
            there = await locked_batch(connection, row.id)
            if there.size == size + count:
                same = await connection.fetchval(_SAME_PAGE, row.id, size)
                if same == pages[0].leaves:
                    return  # an earlier try of this was committed
            if there.closing_at is not None:
                raise Conflict("This batch is closed.", {"id": str(row.id)})
            if there.size != size:
                raise Fenced(details={"key": lease.key, "size": there.size})
            await add_pages(connection, row.id, pages)
            await connection.execute(_GROW, row.id, count)
            if documents:
                await connection.execute(
                    _ADD_DOCUMENTS, row.workspace_id, row.id, [*documents], [*documents.values()]
                )

        await self._db.transact(work)

    async def closing(self, lease: Lease, batch: UUID) -> BatchRow:
        """From now on it takes no more. Raises Conflict when it is empty, Fenced."""

        async def work(connection: Connection) -> BatchRow:
            await check_lease(connection, lease)
            row = await locked_batch(connection, batch)
            if row.size == 0:
                raise Conflict("This batch is empty: there is nothing to sign.")
            changed = await connection.fetchrow(_CLOSING, batch)
            return row if changed is None else batch_of(changed)

        return await self._db.transact(work)

    async def seal(
        self,
        lease: Lease,
        batch: UUID,
        root: bytes,
        note: str,
        nodes: bytes,
        want: Any,
    ) -> BatchRow:
        """One transaction: root, checkpoint and tree are there, and the root is wanted on the
        networks (``want(connection, root, batch, workspace)``). The first one stays. Fenced."""

        async def work(connection: Connection) -> BatchRow:
            await check_lease(connection, lease)
            sealed = await connection.fetchrow(_SEAL, batch, root, note)
            if sealed is None:
                return await locked_batch(connection, batch)
            row = batch_of(sealed)
            await connection.execute(_ADD_TREE, batch, nodes)
            await want(connection, root, batch, row.workspace_id)
            await tell(connection, row)
            return row

        return await self._db.transact(work)

    async def due(
        self, shards: Sequence[int], rolling_s: float, revocations_s: float
    ) -> Sequence[BatchRow]:
        """Of these shards: batches that are closing, and such that have been filling so long."""
        rows = await self._db.fetch(_DUE, [*shards], rolling_s, revocations_s)
        return [batch_of(row) for row in rows]

    async def drop_empty(self, shards: Sequence[int], after_s: float) -> None:
        """Campaigns that were opened so long ago, and into which nothing ever came."""
        await self._db.fetch(_DROP_EMPTY, [*shards], after_s)

    async def anchors(self, batches: Sequence[UUID]) -> dict[UUID, list[AnchorView]]:
        """As they were last told."""
        found: dict[UUID, list[AnchorView]] = {batch: [] for batch in batches}
        for row in await self._db.fetch(_ANCHORS, [*batches]):
            found[row["batch"]].append(AnchorView.model_validate(row["view"]))
        return found

    async def overdue(self, after_s: float) -> Sequence[BatchRow]:
        """Closed so long ago, and not confirmed."""
        return [batch_of(row) for row in await self._db.fetch(_OVERDUE, after_s)]

    async def pending(self) -> tuple[int, float]:
        """How many closed batches wait for a network, and the age of the oldest in seconds."""
        row = await self._db.fetchrow(_PENDING_AGE)
        assert row is not None
        return row["pending"], row["oldest_s"]

    async def _one(self, sql: str, *args: Any) -> BatchRow | None:
        row = await self._db.fetchrow(sql, *args)
        return None if row is None else batch_of(row)


def batch_of(row: asyncpg.Record) -> BatchRow:
    return BatchRow(
        id=row["id"],
        serial=row["serial"],
        workspace_id=row["workspace_id"],
        shard=row["shard"],
        kind=row["kind"],
        name=row["name"],
        state=BatchState(row["state"]),
        size=row["size"],
        root=row["root"],
        note=row["note"],
        created_at=row["created_at"],
        first_at=row["first_at"],
        closing_at=row["closing_at"],
        closed_at=row["closed_at"],
        state_at=row["state_at"],
    )


async def locked_batch(connection: Connection, batch: UUID) -> BatchRow:
    row = await connection.fetchrow(_LOCK, batch)
    if row is None:
        raise NotFound("There is no such batch.", {"id": str(batch)})
    return batch_of(row)


async def add_pages(connection: Connection, batch: UUID, pages: Sequence[Page]) -> None:
    await connection.executemany(
        _ADD_PAGE, [(batch, p.first, p.count, p.leaves, p.offsets, p.sealed) for p in pages]
    )
    await connection.executemany(
        _ADD_SALTS,
        [(bucket_of(batch), batch, p.first, p.salts, p.marks, p.people) for p in pages if p.salts],
    )


async def put_anchor(
    connection: Connection, batch: UUID, view: AnchorView
) -> tuple[list[AnchorView], AnchorView | None]:
    """All of the batch's, this one as it is now; and how it was before."""
    rows = await connection.fetch(_ANCHORS, [batch])
    there = {row["network"]: AnchorView.model_validate(row["view"]) for row in rows}
    before = there.get(view.network)
    there[view.network] = view
    await connection.execute(_PUT_ANCHOR, batch, view.network, view.model_dump(mode="json"))
    return [*there.values()], before


async def set_state(connection: Connection, row: BatchRow, state: BatchState) -> BatchRow:
    if state is row.state:
        return row
    return batch_of(await _row(connection, _SET_STATE, row.id, state.value))


async def _row(connection: Connection, sql: str, *args: Any) -> asyncpg.Record:
    row = await connection.fetchrow(sql, *args)
    assert row is not None
    return row


async def tell(
    connection: Connection,
    row: BatchRow,
    anchors: Sequence[AnchorView] = (),
    **more: Any,
) -> None:
    """Say on the stream log what became of the batch, once this transaction is committed.
    ``more``: of one certificate."""
    change = await connection.fetchval(_OUTBOX)
    event = TrustEvent(
        change=change,
        batch=row.id,
        state=row.state,
        size=row.size,
        root=None if row.root is None else row.root.hex(),
        anchors=[*anchors],
        **more,
    )
    kind = EventType.TRUST_CERTIFICATE if more else EventType.TRUST_BATCH
    await connection.execute(
        _TELL, change, row.workspace_id, row.id, kind.value, event.model_dump(mode="json")
    )
