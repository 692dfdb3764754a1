"""From what the networks did to what is told: anchors' changes become states and events.

The chains' outbox is read in its order, and each change is taken note of once, in one transaction
with the batch's new state and the event that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from mesh.contracts.events import EventType
from mesh.contracts.trust import AnchorView, BatchState
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.leases import Lease, check_lease
from mesh.storage.pool import Connection, Database
from mesh.storage.trust_batches import locked_batch, put_anchor, set_state, tell
from mesh.trust.anchoring.records import Change
from mesh.trust.states import state_of

# A repeat after a lost answer finds them told.
_UNTOLD = "SELECT id FROM chain_changes WHERE id = ANY($1::bigint[]) AND NOT told FOR UPDATE"

_TO_TELL = "SELECT * FROM trust_outbox ORDER BY id LIMIT $1"
_TOLD = "DELETE FROM trust_outbox WHERE id = ANY($1::bigint[])"


@dataclass(frozen=True, slots=True)
class Told:
    """An entry of the outbox."""

    id: int
    workspace_id: UUID
    batch: UUID
    type: EventType
    data: dict[str, Any]


class TrustTelling:
    def __init__(self, db: Database, needed: int) -> None:
        """``needed``: how many networks make a root final."""
        self._db = db
        self._needed = needed

    async def take(self, lease: Lease, changes: Sequence[Change]) -> list[BatchState]:
        """Gives the new states, in order. ``lease``: of the anchoring. Raises Fenced."""

        async def work(connection: Connection) -> list[BatchState]:
            await check_lease(connection, lease)
            ids = [change.id for change in changes]
            fresh = {row["id"] for row in await connection.fetch(_UNTOLD, ids)}
            states = [await self._take(connection, c) for c in changes if c.id in fresh]
            await PostgresAnchorLedger.mark_told(connection, ids)
            return [state for state in states if state is not None]

        return await self._db.transact(work)

    async def to_tell(self, limit: int) -> Sequence[Told]:
        """Oldest first."""
        return [
            Told(
                row["id"],
                row["workspace_id"],
                row["batch"],
                EventType(row["type"]),
                row["data"],
            )
            for row in await self._db.fetch(_TO_TELL, limit)
        ]

    async def told(self, ids: Sequence[int]) -> None:
        await self._db.fetch(_TOLD, [*ids])

    async def _take(self, connection: Connection, change: Change) -> BatchState | None:
        """None: it is another root's by now, or nothing that is told."""
        row = await locked_batch(connection, change.batch_id)
        if row.root != change.root:
            return None
        anchors, before = await put_anchor(connection, row.id, change.anchor)
        state = state_of((anchor.state for anchor in anchors), self._needed)
        if state is row.state and not _news(before, change.anchor):
            return None
        changed = await set_state(connection, row, state)
        await tell(connection, changed, anchors)
        return None if state is row.state else state


def _news(before: AnchorView | None, now: AnchorView) -> bool:
    """Another state, transaction or block; one more confirmation is none."""
    return before is None or (before.state, before.tx, before.block_hash) != (
        now.state,
        now.tx,
        now.block_hash,
    )
