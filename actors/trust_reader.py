"""Reads batches and certificates straight from the database: no owner is asked, so all of it can
be seen while a batch's owner is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import unpack_from
from typing import Literal
from uuid import UUID

from mesh.contracts.trust import (
    AnchorState,
    AnchorView,
    BatchPage,
    BatchState,
    BatchView,
    CertificateLine,
    CertificatePage,
    CertificateState,
    CertificateView,
    DocumentRef,
    DocumentTrustView,
    KeysView,
    RevocationPage,
    RevokedView,
)
from mesh.core.clock import Clock
from mesh.core.errors import Conflict, Gone, InvalidInput, NotFound
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.trust_batches import BatchRow, TrustBatches
from mesh.storage.trust_keys import TrustKeys
from mesh.storage.trust_leaves import ERASED, Cell, SealedPage, TrustLeaves
from mesh.storage.trust_revocations import RevocationRow, TrustRevocations
from mesh.trust import jcs
from mesh.trust.certificate import Certificate, Proof, Revocation
from mesh.trust.ids import CertificateIds
from mesh.trust.leaf import SALT_BYTES
from mesh.trust.receipt import Receipt
from mesh.trust.record import Record
from mesh.trust.stored import proof, upper_places
from mesh.trust.vault import TrustVault

_RANK = {
    BatchState.OPEN: 0,
    BatchState.ORPHANED: 1,
    BatchState.INCLUDED: 2,
    BatchState.SUBMITTED: 3,
    BatchState.CONFIRMED: 4,
    BatchState.FINAL: 5,
}
_PAGES = 4
_IN_BLOCK = (AnchorState.CONFIRMED, AnchorState.FINAL)


@dataclass(frozen=True, slots=True)
class ReaderParts:
    batches: TrustBatches
    leaves: TrustLeaves
    revocations: TrustRevocations
    keys: TrustKeys
    ledger: PostgresAnchorLedger
    vault: TrustVault
    ids: CertificateIds
    clock: Clock
    pending_alarm_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a certificate is, and what is stored there."""

    batch: BatchRow
    index: int
    cell: Cell


class TrustReader:
    def __init__(self, parts: ReaderParts) -> None:
        self._parts = parts

    async def batch(self, workspace: UUID, batch: UUID) -> BatchView:
        row = await self._parts.batches.get(batch, workspace)
        return (await self.views([row]))[0]

    async def batches(self, workspace: UUID, after: str | None, limit: int) -> BatchPage:
        before = 2**62 if after is None else _number(after)
        rows = await self._parts.batches.newest(workspace, before, limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        views = await self.views(rows)
        return BatchPage(batches=views, next=str(rows[-1].serial) if more else None)

    async def views(self, rows: Sequence[BatchRow]) -> list[BatchView]:
        anchors = await self._parts.batches.anchors([row.id for row in rows])
        return [self._view(row, anchors[row.id]) for row in rows]

    async def place(self, certificate: str, workspace: UUID | None = None) -> Place:
        """Raises NotFound, also where it is not of this workspace (if one is given)."""
        serial, index = self._parts.ids.read(certificate)
        batch = await self._parts.batches.by_serial(serial)
        unknown = NotFound("There is no such certificate.")
        if batch is None or batch.kind == "revocations":
            raise unknown
        if workspace is not None and batch.workspace_id != workspace:
            raise unknown
        cell = await self._parts.leaves.cell(batch.id, index)
        if cell is None:
            raise unknown
        return Place(batch, index, cell)

    def record(self, place: Place) -> Record | None:
        """None: it was forgotten."""
        if place.cell.salt is None:
            return None
        return self._open(place.batch.workspace_id, place.cell.salt, place.cell.sealed)

    async def view(self, certificate: str) -> CertificateView:
        place = await self.place(certificate)
        batch = place.batch
        record = self.record(place)
        anchors = await self._parts.batches.anchors([batch.id])
        revoked = await self.revoked(place.cell.leaf)
        return CertificateView(
            id=certificate.lower(),
            state=CertificateState(batch.state if revoked is None else "revoked"),
            batch=batch.id,
            index=place.index,
            size=0 if batch.root is None else batch.size,
            root=_hex(batch.root),
            leaf=place.cell.leaf.hex(),
            subject=record and record.subject,
            date=record and record.date,
            domain=record and record.domain,
            recipient_masked=record and record.masked,
            message_id=record and record.message_id,
            document=record and _document(record),
            certified_at=None if record is None else place.cell.at,
            as_of=self._now(),
            revoked=revoked,
            forgotten=record is None,
            anchors=anchors[batch.id],
        )

    async def certificate(self, certificate: str, form: Literal["json", "cbor"]) -> bytes:
        place = await self.place(certificate)
        batch, record, salt = place.batch, self.record(place), place.cell.salt
        if record is None or salt is None:
            raise Gone("What this certificate told was erased for good.", {"id": certificate})
        if batch.root is None or batch.note is None:
            raise Conflict(
                "The certificate's batch is still open: it has no proof yet.",
                {"id": certificate, "state": batch.state.value},
                retry_after_s=5.0,
            )
        found = await self._proof(batch, place.index)
        whole = Certificate(record.leaf(salt), record.origins, found, batch.note)
        return whole.to_json() if form == "json" else whole.compact().to_cbor()

    async def certificates(
        self, workspace: UUID, batch: UUID, after: int, limit: int
    ) -> CertificatePage:
        row = await self._parts.batches.get(batch, workspace)
        if row.kind == "revocations":
            return CertificatePage(certificates=[])
        first, lines = after + 1, list[CertificateLine]()
        while first < row.size and len(lines) < limit:
            pages = await self._parts.leaves.pages(batch, first, _PAGES)
            if not pages:
                break
            end = min(row.size, first + limit - len(lines))
            lines += await asyncio.to_thread(self._lines, row, pages, first, end)
            first = lines[-1].index + 1
        more = first < row.size
        return CertificatePage(certificates=lines, next=first - 1 if more else None)

    async def id_of(self, root: bytes, index: int) -> str | None:
        batch = await self._parts.batches.by_root(root)
        if batch is None or not 0 <= index < batch.size:
            return None
        return self._parts.ids.make(batch.serial, index)

    async def receipt(self, root: bytes) -> bytes:
        batch = await self._parts.batches.by_root(root)
        if batch is None or batch.note is None:
            raise NotFound("There is no batch with this root.", {"root": root.hex()})
        anchors = (await self._parts.ledger.anchors([root]))[root]
        proofs = tuple(a.proof for a in anchors if a.proof is not None and a.state in _IN_BLOCK)
        return Receipt(batch.note, proofs).to_json()

    async def revoked(self, leaf: bytes) -> RevokedView | None:
        row = await self._parts.revocations.of(leaf)
        if row is None:
            return None
        return RevokedView(
            reason=row.reason,
            at=datetime.fromtimestamp(row.time_s, UTC),
            state=CertificateState(row.state),
        )

    async def revocations(
        self, leaf: bytes | None, after: str | None, limit: int
    ) -> RevocationPage:
        if leaf is not None:
            row = await self._parts.revocations.of(leaf)
            rows = [row] if row is not None and row.note is not None else []
            more = False
        else:
            at = (0, -1) if after is None else _pair(after)
            rows = await self._parts.revocations.proven(at, limit + 1)
            rows, more = rows[:limit], len(rows) > limit
        documents = [jcs.read((await self._revocation(row)).to_json()) for row in rows]
        last = f"{rows[-1].serial}.{rows[-1].position}" if more else None
        return RevocationPage(revocations=documents, next=last, as_of=self._now())

    async def keys(self) -> KeysView:
        await self._parts.keys.signers()  # the first reader of a new instance makes one
        keys = await self._parts.keys.all()
        return KeysView(
            keys=[str(item.key) for item in keys],
            live=[str(item.key) for item in keys if item.retired_at is None],
        )

    async def document(self, workspace: UUID, document: str, version: str) -> DocumentTrustView:
        mark = self._parts.vault.document_mark(workspace, document, version)
        parts = await self._parts.revocations.document(workspace, mark)
        by_state: dict[str, int] = {}
        for part in parts:
            if count := part.count - part.revoked:
                by_state[part.state.value] = by_state.get(part.state.value, 0) + count
        revoked = sum(part.revoked for part in parts)
        if revoked:
            by_state["revoked"] = revoked
        living = [part.state for part in parts if part.count > part.revoked]
        state = min(living, key=_RANK.__getitem__).value if living else None
        return DocumentTrustView(
            document=document,
            version=version,
            state=CertificateState(state or "revoked") if parts else None,
            certificates=sum(part.count for part in parts),
            revoked=revoked,
            by_state=by_state,
            batches=[part.batch for part in parts],
            as_of=self._now(),
        )

    def _view(self, row: BatchRow, anchors: list[AnchorView]) -> BatchView:
        reason = self._late(row, anchors)
        return BatchView(
            id=row.id,
            serial=row.serial,
            name=row.name,
            kind=row.kind,
            state=row.state,
            size=row.size,
            root=_hex(row.root),
            checkpoint=row.note,
            created_at=row.created_at,
            closed_at=row.closed_at,
            state_at=row.state_at,
            anchors=anchors,
            degraded=reason is not None,
            reason=reason,
        )

    def _late(self, row: BatchRow, anchors: list[AnchorView]) -> str | None:
        waits = (BatchState.INCLUDED, BatchState.SUBMITTED, BatchState.ORPHANED)
        if row.closed_at is None or row.state not in waits:
            return None
        age = self._now() - row.closed_at
        if age < timedelta(seconds=self._parts.pending_alarm_s):
            return None
        why = "; ".join(f"{a.network}: {a.reason}" for a in anchors if a.reason)
        return f"no network has confirmed it for {age.total_seconds():.0f} s" + (
            f" ({why})" if why else ""
        )

    async def _proof(self, batch: BatchRow, index: int) -> Proof:
        """From stored nodes and the leaves around it: a few rows, whatever the batch's size."""
        unit, upper = await asyncio.gather(
            self._parts.leaves.unit(batch.id, index, batch.size),
            self._parts.leaves.upper(batch.id, upper_places(index, batch.size)),
        )
        return await asyncio.to_thread(proof, index, batch.size, unit, upper)

    async def _revocation(self, row: RevocationRow) -> Revocation:
        batch = await self._parts.batches.get(row.batch)
        assert batch.note is not None  # only of closed batches
        found = await self._proof(batch, row.position)
        return Revocation(row.leaf, row.time_s, row.reason.code, found, batch.note)

    def _lines(
        self, row: BatchRow, pages: Sequence[SealedPage], first: int, end: int
    ) -> list[CertificateLine]:
        lines = []
        for page in pages:
            count = len(page.salts) // SALT_BYTES
            for at in range(max(0, first - page.first), min(count, end - page.first)):
                salt = page.salts[at * SALT_BYTES : (at + 1) * SALT_BYTES]
                start, stop = unpack_from(">II", page.offsets, at * 4)
                name = ""
                if salt != ERASED:
                    name = self._open(row.workspace_id, salt, page.sealed[start:stop]).message_id
                index = page.first + at
                identity = self._parts.ids.make(row.serial, index)
                lines.append(CertificateLine(index=index, id=identity, message_id=name))
        return lines

    def _open(self, workspace: UUID, salt: bytes, sealed: bytes) -> Record:
        return Record.unpack(self._parts.vault.open(salt, workspace, sealed))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._parts.clock.now(), UTC)


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _document(record: Record) -> DocumentRef | None:
    if record.document is None:
        return None
    return DocumentRef(id=record.document[0], version=record.document[1])


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidInput("This is not a place in the list.", {"field": "after"})
    return int(text)


def _pair(text: str) -> tuple[int, int]:
    serial, _, position = text.partition(".")
    return _number(serial), _number(position)
