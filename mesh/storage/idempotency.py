"""First answers of writes that carry an Idempotency-Key, kept for a day.

``begin`` takes the key for one request; others with it wait their turn (Conflict with
Retry-After) until ``complete`` stores the answer or ``abandon`` (an error that may be tried again)
frees it. A process that dies in between leaves a lock that runs out. The lock has no epoch: a
request that outlives its ``lock_s`` can run beside its repeat, so give it more than the request's
deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from mesh.core.errors import Conflict, IdempotencyMismatch
from mesh.storage.pool import RETRY_S, Database

MAX_BODY_BYTES = 4_194_304
"""An answer larger than this is not kept: its key is freed."""

_BEGIN = """
INSERT INTO idempotency AS kept (workspace_id, route, key, request_hash, locked_until)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
ON CONFLICT (workspace_id, route, key) DO UPDATE
SET locked_until = excluded.locked_until
WHERE kept.status IS NULL AND kept.locked_until <= now()
  AND kept.request_hash = excluded.request_hash
RETURNING key
"""
_KEPT = """
SELECT request_hash, status, content_type, body,
       greatest(extract(epoch FROM locked_until - now()), 0)::float8 AS locked_s
FROM idempotency WHERE workspace_id = $1 AND route = $2 AND key = $3
"""
_COMPLETE = """
UPDATE idempotency SET status = $4, content_type = $5, body = $6
WHERE workspace_id = $1 AND route = $2 AND key = $3 AND status IS NULL
"""
_ABANDON = """
DELETE FROM idempotency
WHERE workspace_id = $1 AND route = $2 AND key = $3 AND status IS NULL
"""
# In slices: a long transaction would keep dead rows of every table from being cleaned.
_SWEEP = """
DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency
    WHERE created_at < now() - make_interval(secs => $1) AND locked_until <= now() LIMIT 1000
))
RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """The first answer, to be given again as it was."""

    status: int
    content_type: str
    body: bytes


class IdempotencyRepository:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(
        self, workspace_id: UUID, route: str, key: str, request_hash: bytes, lock_s: float
    ) -> Stored | None:
        """None: go on, the key is yours for ``lock_s`` seconds. Stored: answer with that.

        Raises IdempotencyMismatch (other request) and Conflict (the first is still running).
        """
        # Waits for the server, but never repeats: our own lock would look like another request's.
        async with self._db.transaction(wait_s=RETRY_S) as connection:
            # Twice: the row that made us fail may be gone (abandoned) when we look at it.
            for _ in range(2):
                taken = await connection.fetchrow(
                    _BEGIN, workspace_id, route, key, request_hash, lock_s
                )
                if taken is not None:
                    return None
                kept = await connection.fetchrow(_KEPT, workspace_id, route, key)
                if kept is None:
                    continue
                if kept["request_hash"] != request_hash:
                    raise IdempotencyMismatch
                if kept["status"] is not None:
                    return Stored(kept["status"], kept["content_type"], kept["body"])
                raise _in_progress(kept["locked_s"])
            raise _in_progress(1.0)

    async def complete(
        self,
        workspace_id: UUID,
        route: str,
        key: str,
        *,
        status: int,
        content_type: str,
        body: bytes,
    ) -> None:
        """Keep the answer. The first one stays, whatever comes later."""
        if len(body) > MAX_BODY_BYTES:
            await self.abandon(workspace_id, route, key)
            return
        await self._db.fetch(_COMPLETE, workspace_id, route, key, status, content_type, body)

    async def abandon(self, workspace_id: UUID, route: str, key: str) -> None:
        """Free the key: the request failed in a way that may be tried again."""
        await self._db.fetch(_ABANDON, workspace_id, route, key)

    async def sweep(self, older_than_s: float = 86_400) -> int:
        """Delete answers older than that; gives how many."""
        deleted = 0
        while rows := len(await self._db.fetch(_SWEEP, older_than_s)):
            deleted += rows
        return deleted


def _in_progress(locked_s: float) -> Conflict:
    return Conflict(
        "A request with this Idempotency-Key is still running.",
        {},
        retry_after_s=min(max(locked_s, 1.0), 5.0),
    )
