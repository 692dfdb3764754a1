"""Leaves in PostgreSQL: single ones by their index, whole batches page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mesh.storage.pool import Database
from mesh.trust.leaf import SALT_BYTES
from mesh.trust.merkle import HASH_BYTES
from mesh.trust.placement import bucket_of
from mesh.trust.stored import unit_of
from mesh.trust.vault import MARK_BYTES

ERASED = bytes(SALT_BYTES)
"""The salt of a leaf whose facts were forgotten."""
_AT_ONCE = 64
"""Pages of one statement."""

# Columns are stored uncompressed, so a slice reads only the pieces that it touches.
_CELL = """
WITH page AS (
    SELECT batch, first, leaves, sealed, offsets, at AS taken, $2::int - first AS place
    FROM trust_pages WHERE batch = $1 AND first <= $2 ORDER BY first DESC LIMIT 1
), cell AS (
    SELECT batch, first, leaves, sealed, taken, place,
        ('x' || encode(substring(offsets FROM place * 4 + 1 FOR 4), 'hex'))::bit(32)::int AS start,
        ('x' || encode(substring(offsets FROM place * 4 + 5 FOR 4), 'hex'))::bit(32)::int AS stop
    FROM page WHERE length(leaves) > place * 32
)
SELECT substring(c.leaves FROM c.place * 32 + 1 FOR 32) AS leaf, c.taken,
    substring(c.sealed FROM c.start + 1 FOR c.stop - c.start) AS sealed,
    substring(s.salts FROM c.place * 16 + 1 FOR 16) AS salt
FROM cell c
LEFT JOIN trust_salts s ON s.bucket = $3 AND s.batch = c.batch AND s.first = c.first
"""
_SLICE = """
SELECT first, leaves FROM trust_pages
WHERE batch = $1 AND first < $3 AND first >= coalesce(
    (SELECT max(first) FROM trust_pages WHERE batch = $1 AND first <= $2), 0
) ORDER BY first
"""
_LEAVES = """
SELECT first, count, leaves FROM trust_pages WHERE batch = $1 AND first >= $2
ORDER BY first LIMIT $3
"""
_MARKS = """
SELECT first, marks FROM trust_salts WHERE bucket = $1 AND batch = $2 AND first >= $3
ORDER BY first LIMIT $4
"""
_PEOPLE = """
SELECT first, people FROM trust_salts WHERE bucket = $1 AND batch = $2 AND first >= $3
ORDER BY first LIMIT $4
"""
_MARKS_AT = """
SELECT i.at, substring(s.marks FROM (i.at - s.first) * 24 + 1 FOR 24) AS mark
FROM unnest($3::int[]) AS i (at)
JOIN LATERAL (
    SELECT first, marks FROM trust_salts
    WHERE bucket = $1 AND batch = $2 AND first <= i.at ORDER BY first DESC LIMIT 1
) s ON true
"""
_PAGES = """
SELECT p.first, p.count, p.offsets, p.sealed, s.salts FROM trust_pages p
JOIN trust_salts s ON s.bucket = $2 AND s.batch = p.batch AND s.first = p.first
WHERE p.batch = $1 AND p.first >= coalesce(
    (SELECT max(first) FROM trust_pages WHERE batch = $1 AND first <= $3), 0
) ORDER BY p.first LIMIT $4
"""
_NODES = """
SELECT substring(t.nodes FROM n.at * 32 + 1 FOR 32) AS node
FROM trust_trees t, unnest($2::int[]) WITH ORDINALITY AS n (at, turn)
WHERE t.batch = $1 ORDER BY n.turn
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One leaf as it is stored."""

    leaf: bytes
    """Its hash."""
    sealed: bytes
    salt: bytes | None
    """None: it was erased, or this is no message's."""
    at: datetime
    """When it was taken in."""


@dataclass(frozen=True, slots=True)
class SealedPage:
    first: int
    offsets: bytes
    sealed: bytes
    salts: bytes


class TrustLeaves:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def cell(self, batch: UUID, index: int) -> Cell | None:
        row = await self._db.fetchrow(_CELL, batch, index, bucket_of(batch))
        if row is None:
            return None
        salt = row["salt"]
        return Cell(
            row["leaf"],
            row["sealed"],
            None if salt is None or salt == ERASED else salt,
            row["taken"],
        )

    async def unit(self, batch: UUID, index: int, size: int) -> bytes:
        """Hashes of the leaves around this one that its proof needs."""
        first, end = unit_of(index, size)
        rows = await self._db.fetch(_SLICE, batch, first, end)
        if not rows:
            return b""
        whole, begin = b"".join(row["leaves"] for row in rows), rows[0]["first"]
        return whole[(first - begin) * HASH_BYTES : (end - begin) * HASH_BYTES]

    async def upper(self, batch: UUID, places: Sequence[int]) -> list[bytes]:
        """Nodes of the stored tree."""
        if not places:
            return []
        return [row["node"] for row in await self._db.fetch(_NODES, batch, [*places])]

    async def leaves(self, batch: UUID, size: int) -> AsyncIterator[bytes]:
        """All leaf hashes in order, some pages at a time."""
        at = 0
        while at < size:
            rows = await self._db.fetch(_LEAVES, batch, at, _AT_ONCE)
            if not rows:
                return
            at = rows[-1]["first"] + rows[-1]["count"]
            yield b"".join(row["leaves"] for row in rows)

    async def marks(self, batch: UUID) -> AsyncIterator[tuple[int, bytes]]:
        """First index and marks of each page in order."""
        async for first, column in self._column(_MARKS, batch):
            yield first, column

    async def people(self, batch: UUID) -> AsyncIterator[tuple[int, bytes]]:
        async for first, column in self._column(_PEOPLE, batch):
            yield first, column

    async def marks_at(self, batch: UUID, indexes: Sequence[int]) -> dict[int, bytes]:
        rows = await self._db.fetch(_MARKS_AT, bucket_of(batch), batch, [*indexes])
        return {row["at"]: row["mark"] for row in rows if len(row["mark"]) == MARK_BYTES}

    async def pages(self, batch: UUID, index: int, limit: int) -> list[SealedPage]:
        """The one that holds this index, and those after it."""
        rows = await self._db.fetch(_PAGES, batch, bucket_of(batch), index, limit)
        return [SealedPage(r["first"], r["offsets"], r["sealed"], r["salts"]) for r in rows]

    async def _column(self, sql: str, batch: UUID) -> AsyncIterator[tuple[int, bytes]]:
        at = 0
        while True:
            rows = await self._db.fetch(sql, bucket_of(batch), batch, at, _AT_ONCE)
            if not rows:
                return
            for row in rows:
                yield row["first"], row[1]
            at = rows[-1]["first"] + 1
