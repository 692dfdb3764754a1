"""Forgets what certificates tell of a person: at once for every reader, then from disk, too."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import numpy as np

from actors.trust_reader import Place, TrustReader
from mesh.contracts.trust import ForgetTrustReceipt
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Gone, NotFound
from mesh.core.ids import uuid7
from mesh.storage.scrub import Scrubber
from mesh.storage.trust_batches import BatchRow, TrustBatches
from mesh.storage.trust_erasures import TrustErasures
from mesh.storage.trust_leaves import TrustLeaves
from mesh.trust.ids import CertificateIds
from mesh.trust.leaf import recipient_commitment
from mesh.trust.placement import bucket_of
from mesh.trust.vault import PERSON_BYTES, TrustVault


class TrustForgetter:
    """One per process."""

    def __init__(
        self,
        reader: TrustReader,
        batches: TrustBatches,
        leaves: TrustLeaves,
        erasures: TrustErasures,
        scrubber: Scrubber,
        vault: TrustVault,
        ids: CertificateIds,
        clock: Clock,
    ) -> None:
        self._reader = reader
        self._batches = batches
        self._leaves = leaves
        self._erasures = erasures
        self._scrubber = scrubber
        self._vault = vault
        self._ids = ids
        self._clock = clock

    async def certificate(self, workspace: UUID, certificate: str) -> ForgetTrustReceipt:
        """Raises NotFound; Gone where it was forgotten before."""
        place = await self._reader.place(certificate, workspace)
        if place.cell.salt is None:
            raise Gone("This was forgotten before.", {"id": certificate})
        return await self._erase(place.batch, [place.index])

    async def recipient(self, workspace: UUID, batch: UUID, recipient: str) -> ForgetTrustReceipt:
        """Of one batch. Raises NotFound when nothing in it went to this address."""
        row = await self._batches.get(batch, workspace)
        mark = np.frombuffer(self._vault.person_mark(workspace, recipient), dtype=np.uint64)
        found: list[int] = []
        async for first, column in self._leaves.people(batch):
            people = np.frombuffer(column, dtype=np.uint64)
            assert people.itemsize == PERSON_BYTES
            found += [first + int(at) for at in np.flatnonzero(people == mark[0])]
        # Marks are short: the commitment says whether it is this address.
        indexes = [at for at in found if await self._went_to(row, at, recipient)]
        if not indexes:
            raise NotFound("Nothing in this batch went to this address.")
        return await self._erase(row, indexes)

    async def _went_to(self, batch: BatchRow, index: int, recipient: str) -> bool:
        cell = await self._leaves.cell(batch.id, index)
        if cell is None or cell.salt is None:
            return False
        record = self._reader.record(Place(batch, index, cell))
        return record is not None and record.recipient == recipient_commitment(cell.salt, recipient)

    async def _erase(self, batch: BatchRow, indexes: list[int]) -> ForgetTrustReceipt:
        erasure = uuid7()
        certificates = [(index, self._ids.make(batch.serial, index)) for index in indexes]
        await self._erasures.erase(erasure, batch, certificates)
        metrics.TRUST_FORGOTTEN.inc(len(indexes))
        # From here on a host finishes it should this process die.
        done = await asyncio.shield(self._scrub(erasure, batch))
        return ForgetTrustReceipt(
            certificates=[identity for _, identity in certificates],
            batch=batch.id,
            forgotten_at=datetime.fromtimestamp(self._clock.now(), UTC),
            scrubbed=done is None,
            note=done,
        )

    async def _scrub(self, erasure: UUID, batch: BatchRow) -> str | None:
        """None: the bytes are gone; else what is left to do, and by whom."""
        scrub = await self._scrubber.scrub([bucket_of(batch.id)])
        if scrub.keys:
            await self._erasures.scrubbed([erasure])
        return None if scrub.keys and scrub.log else scrub.note or "a host goes on"
