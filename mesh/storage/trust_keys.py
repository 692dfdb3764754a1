"""The keys that sign checkpoints: made at first use, kept sealed, rotated with an overlap.

All live keys sign every checkpoint. A rotation makes a new one; those before go on signing beside
it, so that readers who know only the old key still find its signature, until they are retired. The
public halves stay for ever: a certificate must be checkable for as long as somebody keeps it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from mesh.core.errors import Unavailable
from mesh.security.sealing import Sealer, Unreadable
from mesh.storage.pool import Connection, Database
from mesh.trust.checkpoint import SigningKey, VerifierKey

_LOCK_KEY = 0x74727573  # "trus"
_LOCK = "SELECT pg_advisory_xact_lock($1)"
_LIVE = """
SELECT * FROM trust_keys WHERE name = $1 AND retired_at IS NULL ORDER BY created_at DESC, public
"""
_ALL = "SELECT * FROM trust_keys ORDER BY created_at DESC, public"
_ADD = """
INSERT INTO trust_keys (public, name, private, created_at) VALUES ($1, $2, $3, clock_timestamp())
"""
_RETIRE = """
UPDATE trust_keys SET retired_at = now(), private = NULL
WHERE name = $1 AND retired_at IS NULL AND public <> $2
"""


@dataclass(frozen=True, slots=True)
class TrustKey:
    """A verifier key and when it signed."""

    key: VerifierKey
    created_at: datetime
    retired_at: datetime | None


class TrustKeys:
    def __init__(self, db: Database, secret: bytes, name: str) -> None:
        """``name``: of the keys that are made from now on."""
        self._db = db
        self._name = name
        self._sealer = Sealer(secret, "maily trust signing keys v1")

    async def signers(self) -> list[SigningKey]:
        """The live keys, the newest first; there always is one. Raises Unavailable when they were
        sealed under another secret."""

        async def ensure(connection: Connection) -> list[asyncpg.Record]:
            await connection.execute(_LOCK, _LOCK_KEY)
            rows = await connection.fetch(_LIVE, self._name)
            if not rows:
                await self._add(connection)
                rows = await connection.fetch(_LIVE, self._name)
            return rows

        rows = await self._db.fetch(_LIVE, self._name) or await self._db.transact(ensure)
        return [self._signer(row) for row in rows]

    async def all(self) -> list[TrustKey]:
        """Also retired ones, and such of other names, the newest first."""
        return [_key(row) for row in await self._db.fetch(_ALL)]

    async def rotate(self, *, retire: bool) -> tuple[TrustKey, list[TrustKey]]:
        """A new key signs; those before sign beside it, or never more (``retire``: their private
        halves are erased). Gives the new key, and all."""

        async with self._db.transaction() as connection:  # not repeated: each run makes a key
            await connection.execute(_LOCK, _LOCK_KEY)
            public = await self._add(connection)
            if retire:
                await connection.execute(_RETIRE, self._name, public)
        keys = await self.all()
        return next(key for key in keys if key.key.public == public), keys

    async def _add(self, connection: Connection) -> bytes:
        seed = secrets.token_bytes(32)
        public = SigningKey(self._name, seed).verifier.public
        await connection.execute(_ADD, public, self._name, self._sealer.seal(seed, public))
        return public

    def _signer(self, row: asyncpg.Record) -> SigningKey:
        try:
            seed = self._sealer.open(row["private"], row["public"])
        except Unreadable as error:
            raise Unavailable(
                "The keys that sign checkpoints were sealed under another secret. Put the "
                "instance's old secret back (security.secret).",
                {"part": "trust keys"},
                retry_after_s=30.0,
            ) from error
        return SigningKey(row["name"], seed)


def _key(row: asyncpg.Record) -> TrustKey:
    return TrustKey(VerifierKey(row["name"], row["public"]), row["created_at"], row["retired_at"])
