"""The keys that sign our tokens: made, kept encrypted, rotated with an overlap.

The newest key that does not retire signs. A retiring key still verifies until ``retires_at``, so
tokens signed just before a rotation live out their time. The private part is encrypted with a key
derived from the instance's secret: who has a copy of the database can't sign.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.jwk import OKPKey

from mesh.core.errors import InvalidInput, Unavailable
from mesh.security.algorithm import ALGORITHM
from mesh.storage.pool import Connection, Database

MIN_SECRET_BYTES = 32
_LOCK_KEY = 0x6A776B73  # "jwks"

_LOCK = "SELECT pg_advisory_xact_lock($1)"
_LIVE = """
SELECT kid, public_jwk, private_jwk, retires_at, retires_at IS NULL AS signs FROM signing_keys
WHERE algorithm = $1 AND (retires_at IS NULL OR retires_at > now())
ORDER BY created_at DESC, kid
"""
_INSERT = """
INSERT INTO signing_keys (kid, algorithm, public_jwk, private_jwk, created_at)
VALUES ($1, $2, $3, $4, clock_timestamp())
"""
_RETIRE = """
UPDATE signing_keys
SET retires_at = least(coalesce(retires_at, 'infinity'), now() + make_interval(secs => $2))
WHERE algorithm = $1
"""
_YOUNG = """
SELECT EXISTS (
    SELECT FROM signing_keys
    WHERE algorithm = $1 AND retires_at IS NULL AND created_at > now() - make_interval(secs => $2)
)
"""
_FORGET = "DELETE FROM signing_keys WHERE retires_at <= now()"


@dataclass(frozen=True, slots=True)
class KeySet:
    """What was in the database when it was read."""

    signer: OKPKey
    verifiers: dict[str, OKPKey]
    """Public keys by kid."""
    retires: dict[str, float]
    """When those that retire do, Unix seconds."""
    jwks: dict[str, Any]
    """RFC 7517, as it may be published; ``exp`` of a key: when it retires."""


class Keyring:
    def __init__(self, db: Database, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise InvalidInput(
                f"The instance's secret needs at least {MIN_SECRET_BYTES} bytes.",
                {"field": "security.secret"},
            )
        self._db = db
        derived = HKDF(SHA256(), 32, salt=None, info=b"maily signing keys v1").derive(secret)
        self._fernet = Fernet(base64.urlsafe_b64encode(derived))

    async def load(self) -> KeySet:
        """The live keys; the first caller of a new instance makes one, the others wait for it."""

        async def ensure(connection: Connection) -> list[asyncpg.Record]:
            await connection.execute(_LOCK, _LOCK_KEY)
            rows = await connection.fetch(_LIVE, ALGORITHM)
            if not any(row["signs"] for row in rows):
                await self._insert(connection)
                rows = await connection.fetch(_LIVE, ALGORITHM)
            return rows

        rows = await self._db.fetch(_LIVE, ALGORITHM)
        if not any(row["signs"] for row in rows):
            rows = await self._db.transact(ensure)
        return self._key_set(rows)

    async def rotate(self, overlap_s: float, *, older_than_s: float | None = None) -> KeySet:
        """A new key signs; those before verify for ``overlap_s`` more, then they are deleted.

        ``older_than_s``: only if the key that signs is that old; so of many processes that find
        it too old at once, one rotates.
        """

        async def work(connection: Connection) -> list[asyncpg.Record]:
            await connection.execute(_LOCK, _LOCK_KEY)
            if older_than_s is not None:
                young = await connection.fetchval(_YOUNG, ALGORITHM, older_than_s)
                if young:
                    return await connection.fetch(_LIVE, ALGORITHM)
            await connection.execute(_RETIRE, ALGORITHM, overlap_s)
            await connection.execute(_FORGET)
            await self._insert(connection)
            return await connection.fetch(_LIVE, ALGORITHM)

        return self._key_set(await self._db.transact(work))

    async def _insert(self, connection: Connection) -> None:
        key = OKPKey.generate_key("Ed25519", auto_kid=True)  # kid: RFC 7638 thumbprint
        private = self._fernet.encrypt(orjson.dumps(key.as_dict(private=True)))
        public = {**key.as_dict(private=False), "use": "sig", "alg": ALGORITHM}
        await connection.execute(_INSERT, key.kid, ALGORITHM, public, private)

    def _key_set(self, rows: list[asyncpg.Record]) -> KeySet:
        newest = next(row for row in rows if row["signs"])
        try:
            signer = OKPKey.import_key(orjson.loads(self._fernet.decrypt(newest["private_jwk"])))
        except InvalidToken as error:
            raise Unavailable(
                "The signing keys were encrypted with another secret. Put the instance's old "
                "secret back (security.secret), or delete the rows of signing_keys.",
                {"part": "signing keys"},
                retry_after_s=30.0,
            ) from error
        retires = {
            row["kid"]: row["retires_at"].timestamp()
            for row in rows
            if row["retires_at"] is not None
        }
        return KeySet(
            signer=signer,
            verifiers={row["kid"]: OKPKey.import_key(row["public_jwk"]) for row in rows},
            retires=retires,
            jwks={"keys": [_published(row["public_jwk"], retires.get(row["kid"])) for row in rows]},
        )


def _published(jwk: dict[str, Any], retires: float | None) -> dict[str, Any]:
    return jwk if retires is None else {**jwk, "exp": int(retires)}
