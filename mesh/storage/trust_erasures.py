"""Erasing what certificates tell of a person, in PostgreSQL.

To overwrite a salt makes the facts that were sealed with it unreadable at once; that the salt's
bytes leave the disk, too, is ``scrub``'s work, and an erasure is kept until that is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from mesh.storage.pool import Connection, Database
from mesh.storage.trust_batches import BatchRow, tell
from mesh.trust.leaf import SALT_BYTES
from mesh.trust.placement import bucket_of
from mesh.trust.vault import MARK_BYTES, PERSON_BYTES

_ERASE = """
UPDATE trust_salts SET
    salts = overlay(salts PLACING $4 FROM ($5::int - first) * 16 + 1),
    marks = overlay(marks PLACING $6 FROM ($5::int - first) * 24 + 1),
    people = overlay(people PLACING $7 FROM ($5::int - first) * 8 + 1)
WHERE bucket = $1 AND batch = $2 AND first = (
    SELECT max(first) FROM trust_salts WHERE bucket = $1 AND batch = $2 AND first <= $3
)
"""
_ADD_ERASURE = """
INSERT INTO trust_erasures (id, bucket, batch, indexes) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO NOTHING
"""
_SCRUBBED = "UPDATE trust_erasures SET scrubbed_at = now() WHERE id = ANY($1::uuid[])"
_UNSCRUBBED = """
SELECT id, bucket FROM trust_erasures
WHERE scrubbed_at IS NULL AND requested_at < now() - make_interval(secs => $1) LIMIT 100
"""


class TrustErasures:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def erase(
        self, erasure: UUID, batch: BatchRow, certificates: Sequence[tuple[int, str]]
    ) -> None:
        """Overwrite salts and keyed hashes of these (index, id). From now on the facts can't be
        read; the bytes are on disk until they are scrubbed. A repeat changes nothing."""
        bucket = bucket_of(batch.id)

        async def work(connection: Connection) -> None:
            indexes = [index for index, _ in certificates]
            done = await connection.execute(_ADD_ERASURE, erasure, bucket, batch.id, indexes)
            if done.endswith(" 0"):
                return
            for index, certificate in sorted(certificates):
                await connection.execute(
                    _ERASE,
                    bucket,
                    batch.id,
                    index,
                    bytes(SALT_BYTES),
                    index,
                    bytes(MARK_BYTES),
                    bytes(PERSON_BYTES),
                )
                await tell(connection, batch, certificate=certificate, forgotten=True)

        await self._db.transact(work)

    async def scrubbed(self, erasures: Sequence[UUID]) -> None:
        await self._db.fetch(_SCRUBBED, [*erasures])

    async def unscrubbed(self, older_than_s: float) -> dict[UUID, int]:
        """Erasures that nobody finished, and their buckets."""
        rows = await self._db.fetch(_UNSCRUBBED, older_than_s)
        return {row["id"]: row["bucket"] for row in rows}
