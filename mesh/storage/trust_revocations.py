"""Revocations in PostgreSQL, and the state of documents."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from mesh.contracts.trust import BatchState, RevokeReason
from mesh.storage.leases import Lease, check_lease
from mesh.storage.pool import Connection, Database
from mesh.storage.trust_batches import BatchRow, tell
from mesh.trust.leaf import revocation_hash

_REVOKED = "SELECT * FROM trust_revocations WHERE leaf = $1"
_LOCK_CURRENT = """
SELECT * FROM trust_batches
WHERE workspace_id = $1 AND kind = 'revocations' AND closing_at IS NULL FOR NO KEY UPDATE
"""
_ADD = """
INSERT INTO trust_revocations (leaf, revoked, at_index, reason, time_s, batch, position)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_ADD_PAGE = """
INSERT INTO trust_pages (batch, first, count, leaves, offsets, sealed)
VALUES ($1, $2, 1, $3, '\\x0000000000000000', '')
"""
_GROW = """
UPDATE trust_batches SET size = size + 1, first_at = coalesce(first_at, now())
WHERE id = $1 RETURNING *
"""
_COUNT_REVOKED = """
UPDATE trust_documents SET revoked = revoked + 1
WHERE workspace_id = $1 AND document = $2 AND batch = $3
"""
_OF_LEAF = """
SELECT r.*, b.state, b.serial, b.note, b.size FROM trust_revocations r
JOIN trust_batches b ON b.id = r.batch WHERE r.leaf = $1
"""
_PROVEN = """
SELECT r.*, b.state, b.serial, b.note, b.size FROM trust_revocations r
JOIN trust_batches b ON b.id = r.batch
WHERE b.root IS NOT NULL AND (b.serial, r.position) > ($1, $2)
ORDER BY b.serial, r.position LIMIT $3
"""
_DOCUMENT = """
SELECT d.batch, d.count, d.revoked, b.state FROM trust_documents d
JOIN trust_batches b ON b.id = d.batch
WHERE d.workspace_id = $1 AND d.document = $2 ORDER BY b.serial
"""


@dataclass(frozen=True, slots=True)
class RevocationRow:
    leaf: bytes
    """Hash of the leaf that is taken back."""
    revoked: UUID
    """Its batch."""
    at_index: int
    reason: RevokeReason
    time_s: int
    batch: UUID
    """Whose leaf the revocation is."""
    position: int
    serial: int = 0
    """Of ``batch``, as with the next three."""
    size: int = 0
    note: str | None = None
    state: BatchState = BatchState.OPEN

    @property
    def hash(self) -> bytes:
        return revocation_hash(self.leaf, self.time_s, self.reason.code)


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """Certificates of a document's version in one batch."""

    batch: UUID
    count: int
    revoked: int
    state: BatchState


class TrustRevocations:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(
        self,
        lease: Lease,
        workspace: UUID,
        row: RevocationRow,
        certificate: str,
        of: BatchRow,
        document: bytes | None,
    ) -> bool:
        """Into the workspace's open batch of revocations (``row.batch`` and ``row.position`` are
        set here). False: it was revoked before, or that batch was closed meanwhile and is to be
        made anew: look and try again. Raises Fenced."""

        async def work(connection: Connection) -> bool:
            await check_lease(connection, lease)
            current = await connection.fetchrow(_LOCK_CURRENT, workspace)
            if current is None or await connection.fetchrow(_REVOKED, row.leaf) is not None:
                return False
            batch, position = current["id"], current["size"]
            reason = row.reason.code
            await connection.execute(
                _ADD, row.leaf, row.revoked, row.at_index, reason, row.time_s, batch, position
            )
            await connection.execute(_ADD_PAGE, batch, position, row.hash)
            await connection.execute(_GROW, batch)
            if document is not None:
                await connection.execute(_COUNT_REVOKED, workspace, document, row.revoked)
            await tell(connection, of, certificate=certificate, revoked=row.reason)
            return True

        return await self._db.transact(work)

    async def of(self, leaf: bytes) -> RevocationRow | None:
        """Also one that is in no closed batch yet."""
        row = await self._db.fetchrow(_OF_LEAF, leaf)
        return None if row is None else _revocation(row)

    async def proven(self, after: tuple[int, int], limit: int) -> list[RevocationRow]:
        """Of closed batches, in the order of their serials. ``after``: serial and position."""
        return [_revocation(row) for row in await self._db.fetch(_PROVEN, *after, limit)]

    async def document(self, workspace: UUID, document: bytes) -> list[DocumentPart]:
        return [
            DocumentPart(row["batch"], row["count"], row["revoked"], BatchState(row["state"]))
            for row in await self._db.fetch(_DOCUMENT, workspace, document)
        ]


def _revocation(row: asyncpg.Record) -> RevocationRow:
    reasons = list(RevokeReason)
    return RevocationRow(
        leaf=row["leaf"],
        revoked=row["revoked"],
        at_index=row["at_index"],
        reason=reasons[row["reason"]],
        time_s=row["time_s"],
        batch=row["batch"],
        position=row["position"],
        serial=row["serial"],
        size=row["size"],
        note=row["note"],
        state=BatchState(row["state"]),
    )
