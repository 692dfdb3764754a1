"""Leases: one owner per key, fenced by an epoch that only grows.

Holding a lease is not enough to write: pauses have no bound, so by the time a write arrives the
lease may be somebody else's. A writer therefore checks its epoch in the transaction that writes:
``await check_lease(connection, lease)``. Times are the database's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from mesh.core.errors import Fenced
from mesh.storage.pool import Connection, Database

# A new owner gets the next epoch, also after an orderly release: the row stays for ever. The
# present owner acquiring again starts a new epoch as well: it may be another incarnation.
_ACQUIRE = """
INSERT INTO leases AS held (key, owner, epoch, expires_at)
VALUES ($1, $2, 1, now() + make_interval(secs => $3))
ON CONFLICT (key) DO UPDATE
SET owner = excluded.owner, epoch = held.epoch + 1, expires_at = excluded.expires_at
WHERE held.expires_at <= now() OR held.owner = excluded.owner
RETURNING *
"""
_RENEW = """
UPDATE leases SET expires_at = now() + make_interval(secs => $4)
WHERE key = $1 AND owner = $2 AND epoch = $3
RETURNING *
"""
_RELEASE = """
UPDATE leases SET expires_at = now()
WHERE key = $1 AND owner = $2 AND epoch = $3 AND expires_at > now()
"""
_GET = "SELECT * FROM leases WHERE key = $1"
_LIVING = "SELECT key FROM leases WHERE key = ANY($1::text[]) AND expires_at > now()"
_CHECK = "SELECT FROM leases WHERE key = $1 AND owner = $2 AND epoch = $3 FOR SHARE"

# Several rows are always locked in the order of their keys, so that two such statements can't
# wait for each other.
_RENEW_MANY = """
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (key, owner, epoch)
), held AS (
    SELECT l.key FROM leases l JOIN wanted w USING (key, owner, epoch)
    ORDER BY l.key FOR NO KEY UPDATE OF l
)
UPDATE leases SET expires_at = now() + make_interval(secs => $4)
FROM held WHERE leases.key = held.key
RETURNING leases.*
"""
_CHECK_MANY = """
SELECT l.key FROM leases l
JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS w (key, owner, epoch)
    USING (key, owner, epoch)
ORDER BY l.key FOR SHARE OF l
"""
_BY_PREFIX = "SELECT * FROM leases WHERE starts_with(key, $1) AND expires_at > now() ORDER BY key"
_RELEASE_FORMER = """
UPDATE leases SET expires_at = now()
WHERE starts_with(key, $1) AND starts_with(owner, $2) AND owner <> $3 AND expires_at > now()
"""


@dataclass(frozen=True, slots=True)
class Lease:
    key: str
    owner: str
    epoch: int
    expires_at: datetime


def _lease(record: asyncpg.Record) -> Lease:
    return Lease(record["key"], record["owner"], record["epoch"], record["expires_at"])


def _fenced(lease: Lease) -> Fenced:
    return Fenced(details={"key": lease.key, "epoch": lease.epoch})


async def check_lease(connection: Connection, lease: Lease) -> None:
    """Raises Fenced unless this epoch is the newest; holds that true till the transaction ends.

    A lease that ran out but that nobody took over still passes: nobody else has written.
    """
    if await connection.fetchrow(_CHECK, lease.key, lease.owner, lease.epoch) is None:
        raise _fenced(lease)


async def check_leases(connection: Connection, leases: Sequence[Lease]) -> None:
    """``check_lease`` of several in one statement; Fenced names those that are lost."""
    rows = await connection.fetch(_CHECK_MANY, *_columns(leases))
    lost = {lease.key for lease in leases} - {row["key"] for row in rows}
    if lost:
        raise Fenced(details={"keys": sorted(lost)})


def _columns(leases: Sequence[Lease]) -> tuple[list[str], list[str], list[int]]:
    return [i.key for i in leases], [i.owner for i in leases], [i.epoch for i in leases]


class Leases:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def acquire(self, key: str, owner: str, ttl_s: float) -> Lease | None:
        """None: another owner holds it. ``owner`` must name one incarnation, not a role.

        A repeat after a lost answer gets a newer epoch, so the answer that counts is the last.
        """
        record = await self._db.fetchrow(_ACQUIRE, key, owner, ttl_s)
        return None if record is None else _lease(record)

    async def renew(self, lease: Lease, ttl_s: float) -> Lease:
        """Hold it for ``ttl_s`` more seconds from now. Raises Fenced: a newer epoch exists."""
        record = await self._db.fetchrow(_RENEW, lease.key, lease.owner, lease.epoch, ttl_s)
        if record is None:
            raise _fenced(lease)
        return _lease(record)

    async def release(self, lease: Lease) -> None:
        """Give it up at once. Nothing happens when it is no longer ours."""
        await self._db.fetch(_RELEASE, lease.key, lease.owner, lease.epoch)

    async def get(self, key: str) -> Lease | None:
        """The newest lease of the key, run out or not; None: there never was one."""
        record = await self._db.fetchrow(_GET, key)
        return None if record is None else _lease(record)

    async def living(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of these keys that somebody holds now."""
        return frozenset(r["key"] for r in await self._db.fetch(_LIVING, [*keys]))

    async def renew_many(self, leases: Sequence[Lease], ttl_s: float) -> list[Lease]:
        """``renew`` of several in one statement. Those that are missing in the answer are lost."""
        if not leases:
            return []
        return [_lease(r) for r in await self._db.fetch(_RENEW_MANY, *_columns(leases), ttl_s)]

    async def held(self, prefix: str) -> list[Lease]:
        """Every lease that has not run out whose key begins so, in the order of the keys."""
        return [_lease(record) for record in await self._db.fetch(_BY_PREFIX, prefix)]

    async def release_former(self, prefix: str, role: str, owner: str) -> None:
        """Give up what other incarnations of this role still hold among keys that begin so: for
        an owner that knows itself to be their only successor (``owner`` begins with ``role``)."""
        await self._db.fetch(_RELEASE_FORMER, prefix, role, owner)
