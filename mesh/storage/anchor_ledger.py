"""The anchoring's ledger in PostgreSQL: what is written here is written before it happens.

Written by the owner of the lease alone (Fenced otherwise); read by anybody. ``want`` belongs to
the transaction that seals a batch, ``changes`` and ``mark_told`` to who tells the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from mesh.contracts.networks import AnchorView
from mesh.storage.anchor_rows import (
    ADD_ATTEMPT,
    ADD_CHANGE,
    ADD_NONCE,
    ANCHORS,
    ATTEMPTS,
    CLOSE_NONCE,
    GAPS,
    NEXT_NONCES,
    OPEN_ROOTS,
    PUT_ANCHOR,
    REOPEN_ANCHORS,
    REOPEN_NONCES,
    REOPEN_ROOTS,
    anchor_columns,
    anchor_of,
    attempt_of,
    instant,
    root_of,
)
from mesh.storage.leases import Lease, check_lease
from mesh.storage.pool import Connection, Database
from mesh.trust.anchoring.records import (
    AnchorRow,
    Attempt,
    Change,
    ClosedNonce,
    Loaded,
    Step,
    WantedRoot,
)

PAGE = 500

_WANT = """
INSERT INTO chain_roots (root, batch_id, workspace_id) VALUES ($1, $2, $3)
ON CONFLICT (root) DO NOTHING
"""
_WAITING = """
SELECT * FROM chain_roots WHERE settled_at IS NULL AND NOT taken ORDER BY seq LIMIT $1
"""
_TAKE = "UPDATE chain_roots SET taken = true WHERE root = $1 AND NOT taken"
_SETTLE = "UPDATE chain_roots SET settled_at = $2 WHERE root = $1 AND settled_at IS NULL"
_SENT = "UPDATE chain_attempts SET sent_at = $2 WHERE tx = $1"
_SPENT = """
SELECT coalesce(sum(fee_wei), 0) AS wei FROM chain_nonces
WHERE network = $1 AND closed_at >= $2 AND fee_wei IS NOT NULL
"""
_GENESIS = "SELECT chain_id, genesis FROM chain_networks WHERE name = $1"
_SET_GENESIS = """
INSERT INTO chain_networks (name, chain_id, genesis) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE
SET chain_id = excluded.chain_id, genesis = excluded.genesis, seen_at = now()
"""
_CHANGES = "SELECT * FROM chain_changes WHERE NOT told AND id > $1 ORDER BY id LIMIT $2"
_TOLD = "UPDATE chain_changes SET told = true WHERE id = ANY($1::bigint[])"
_OF_ROOTS = "SELECT * FROM chain_anchors WHERE root = ANY($1::bytea[]) ORDER BY root, network"
_SETTLED = "SELECT root FROM chain_roots WHERE root = ANY($1::bytea[]) AND settled_at IS NOT NULL"


class PostgresAnchorLedger:
    """``lease`` None: to read, to want and to tell; writing raises AssertionError then."""

    def __init__(self, db: Database, lease: Lease | None = None) -> None:
        self._db = db
        self._lease = lease

    @staticmethod
    async def want(connection: Connection, root: bytes, batch_id: UUID, workspace_id: UUID) -> None:
        """In the caller's transaction. Nothing happens when the root is wanted already."""
        await connection.execute(_WANT, root, batch_id, workspace_id)

    async def changes(self, after: int = 0, limit: int = PAGE) -> list[Change]:
        """Changes that were not told yet, oldest first, with ids greater than ``after``."""
        return [_change(row) for row in await self._db.fetch(_CHANGES, after, limit)]

    @staticmethod
    async def mark_told(connection: Connection, ids: Sequence[int]) -> None:
        """In the transaction that takes note of them."""
        await connection.execute(_TOLD, [*ids])

    async def anchors(self, roots: Sequence[bytes]) -> dict[bytes, list[AnchorRow]]:
        """Of each of these roots, all networks that have it or are to."""
        found: dict[bytes, list[AnchorRow]] = {root: [] for root in roots}
        for row in await self._db.fetch(_OF_ROOTS, [*roots]):
            found[row["root"]].append(anchor_of(row))
        return found

    async def settled(self, roots: Sequence[bytes]) -> frozenset[bytes]:
        """Those of these roots that are final on as many networks as were needed."""
        return frozenset(row["root"] for row in await self._db.fetch(_SETTLED, [*roots]))

    async def load(self) -> Loaded:
        async def work(connection: Connection) -> Loaded:
            roots = await connection.fetch(OPEN_ROOTS)
            return Loaded(
                roots=tuple(root_of(row) for row in roots),
                settled=frozenset(row["root"] for row in roots if row["settled_at"] is not None),
                anchors=tuple(
                    anchor_of(row)
                    for row in await connection.fetch(ANCHORS, [row["root"] for row in roots])
                ),
                attempts=tuple(attempt_of(row) for row in await connection.fetch(ATTEMPTS)),
                next_nonces={
                    (row["network"], row["address"]): row["next"]
                    for row in await connection.fetch(NEXT_NONCES)
                },
                gaps=tuple(
                    (row["network"], row["address"], row["first"], row["until"])
                    for row in await connection.fetch(GAPS)
                ),
            )

        return await self._db.transact(work)

    async def waiting(self, limit: int) -> list[WantedRoot]:
        return [root_of(row) for row in await self._db.fetch(_WAITING, limit)]

    async def write(self, step: Step) -> None:
        async with self._db.transaction() as connection:
            await self._check(connection)
            for attempt in step.attempts:
                await _sign(connection, attempt)
            for tx, at in step.sent:
                await connection.execute(_SENT, tx, instant(at))
            for anchor in step.anchors:
                await connection.execute(PUT_ANCHOR, *anchor_columns(anchor))
                await _tell(connection, anchor)
            for nonce in step.closed:
                await _close(connection, nonce)
            for root in step.settled:
                await connection.execute(_SETTLE, root, datetime.now(UTC))

    async def spent(self, network: str, since: float) -> int:
        row = await self._db.fetchrow(_SPENT, network, instant(since))
        assert row is not None
        return int(row["wei"])

    async def genesis(self, network: str) -> tuple[int, bytes] | None:
        row = await self._db.fetchrow(_GENESIS, network)
        return None if row is None else (row["chain_id"], row["genesis"])

    async def set_genesis(self, network: str, chain_id: int, genesis: bytes) -> None:
        async with self._db.transaction() as connection:
            await self._check(connection)
            await connection.execute(_SET_GENESIS, network, chain_id, genesis)

    async def reopen(self, network: str, address: bytes, first: int, at: float) -> int:
        async with self._db.transaction() as connection:
            await self._check(connection)
            rows = await connection.fetch(REOPEN_NONCES, network, address, first)
            roots = [row["root"] for row in rows if row["root"] is not None]
            await connection.execute(REOPEN_ROOTS, roots)
            for row in await connection.fetch(REOPEN_ANCHORS, network, roots, instant(at)):
                await _tell(connection, anchor_of(row))
        return len(rows)

    async def _check(self, connection: Connection) -> None:
        assert self._lease is not None, "this ledger is for reading"
        await check_lease(connection, self._lease)


async def _sign(connection: Connection, attempt: Attempt) -> None:
    place = (attempt.network, attempt.address, attempt.nonce)
    await connection.execute(ADD_NONCE, *place, attempt.root)
    await connection.execute(
        ADD_ATTEMPT,
        attempt.tx,
        *place,
        attempt.root,
        attempt.raw,
        attempt.gas,
        attempt.max_fee,
        attempt.tip,
        instant(attempt.signed_at),
    )
    if attempt.root is not None:
        await connection.execute(_TAKE, attempt.root)


async def _tell(connection: Connection, anchor: AnchorRow) -> None:
    view = anchor.view().model_dump(mode="json")
    await connection.execute(ADD_CHANGE, anchor.root, anchor.network, view, instant(anchor.at))


async def _close(connection: Connection, nonce: ClosedNonce) -> None:
    await connection.execute(
        CLOSE_NONCE,
        nonce.network,
        nonce.address,
        nonce.nonce,
        "foreign" if nonce.tx is None else "ours",
        nonce.tx,
        nonce.fee_wei,
        instant(nonce.at),
    )


def _change(row: asyncpg.Record) -> Change:
    view: dict[str, Any] = row["view"]
    return Change(
        id=row["id"],
        root=row["root"],
        batch_id=row["batch_id"],
        workspace_id=row["workspace_id"],
        anchor=AnchorView.model_validate(view),
    )
