"""Leases: one owner per key, fenced by an epoch that only grows.

Holding a lease is not enough to write: pauses have no bound, so by the time a write arrives the
lease may be somebody else's. A writer therefore checks its epoch in the transaction that writes:
``await check_lease(connection, lease)``. Times are the database's.
"""

from __future__ import annotations

from collections.abc import Iterable
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
