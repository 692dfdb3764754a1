"""Trust as the gateway and the agents hold it: implements ``mesh.trust.client.TrustClient``.

Messages are made into leaves by tasks (a single mail: by a thread) before the batch's owner is
asked, so that neither this process's event loop nor the owner spends time on them. What only reads
goes to the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from actors.directory import Caller
from actors.owners import Owners
from actors.patience import PatienceOptions
from actors.trust_forget import TrustForgetter
from actors.trust_reader import TrustReader
from mesh.contracts.trust import (
    MAX_IDS,
    MAX_LINES,
    AheadIds,
    BatchPage,
    BatchView,
    CertificateLine,
    CertificatePage,
    CertificateView,
    DocumentTrustView,
    ForgetTrustReceipt,
    KeysView,
    NetworksView,
    NetworkView,
    NewBatch,
    NewMessage,
    RevocationPage,
    RevokeReason,
)
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Conflict, DeadlineExceeded, InvalidInput, NotFound, Unavailable
from mesh.core.ids import uuid7
from mesh.storage.leases import Leases
from mesh.storage.trust_batches import TrustBatches
from mesh.storage.trust_revocations import RevocationRow
from mesh.trust.client import ROLLING, Rolling
from mesh.trust.ids import CertificateIds
from mesh.trust.intake import claims_of, prepare, read_lines
from mesh.trust.placement import ANCHORING, named_batch, shard_of
from mesh.trust.vault import TrustVault
from mesh.trust.work import Work


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Limits of a workspace and of one message; how long it waits for whom."""

    max_open_batches: int = 256
    max_message_bytes: int = 2_097_152
    networks_needed: int = 1
    near_bytes: int = 32_768
    """Messages of so many bytes in all are made into leaves here (some 3 ms)."""
    try_s: float = 5.0
    """For one answer of an owner: a call to an actor that is being restarted hangs until it is
    back, while another host may have taken over long since."""
    patience: PatienceOptions = field(
        default_factory=lambda: PatienceOptions(first_pause_s=0.05, longest_pause_s=0.3)
    )


@dataclass(frozen=True, slots=True)
class ClientParts:
    """What a client works with."""

    caller: Caller
    owners: Owners
    leases: Leases
    batches: TrustBatches
    reader: TrustReader
    forgetter: TrustForgetter
    vault: TrustVault
    ids: CertificateIds
    work: Work
    near: Work
    """For a single mail: a thread of this process is done before a task has begun."""
    clock: Clock
    options: ClientOptions = field(default_factory=ClientOptions)


class ActorTrustClient:
    """One per process."""

    def __init__(self, parts: ClientParts) -> None:
        self._parts = parts
        self._lines = 0

    async def open_batch(
        self, workspace_id: UUID, request: NewBatch, *, key: str | None = None, timeout_s: float
    ) -> BatchView:
        batch = uuid7() if key is None else named_batch(workspace_id, key)
        async with _within(timeout_s):
            row = await self._parts.batches.create(
                batch,
                workspace_id,
                shard_of(batch),
                "campaign",
                request.name,
                most_open=self._parts.options.max_open_batches,
            )
            return (await self._parts.reader.views([row]))[0]

    async def ids(
        self,
        workspace_id: UUID,
        batch: UUID,
        *,
        first: int | None = None,
        count: int = 1_000,
        timeout_s: float,
    ) -> AheadIds:
        if not 1 <= count <= MAX_IDS or (first is not None and not 0 <= first < 2**32 - count):
            raise InvalidInput(f"1 to {MAX_IDS} places at once.", {"field": "count"})
        async with _within(timeout_s):
            row = await self._parts.batches.get(batch, workspace_id)
        if row.kind != "campaign":
            raise NotFound("There is no such batch.", {"id": str(batch)})
        if row.closing_at is not None:
            raise Conflict("This batch is closed.", {"id": str(batch)})
        begin = row.size if first is None else first
        make = self._parts.ids.make
        ids = [make(row.serial, begin + at) for at in range(count)]
        return AheadIds(first=begin, size=row.size, ids=ids)

    async def add(
        self,
        workspace_id: UUID,
        batch: UUID | Rolling,
        lines: Sequence[NewMessage],
        *,
        first_line: int = 1,
        timeout_s: float,
    ) -> list[CertificateLine]:
        if not lines:
            return []
        if len(lines) > MAX_LINES:
            raise InvalidInput(f"At most {MAX_LINES} messages at once.", {"field": "lines"})
        parts = self._parts
        until = parts.clock.monotonic() + timeout_s
        limit = parts.options.max_message_bytes
        read = await asyncio.to_thread(read_lines, lines, first_line, limit)
        small = sum(len(line.message) for line in read) <= parts.options.near_bytes
        rows = await (parts.near if small else parts.work).run(
            prepare, parts.vault, workspace_id, read, first_line, timeout_s=timeout_s
        )
        named = None if batch == ROLLING else batch
        answer = await parts.owners.ask(
            shard_of(named or workspace_id),
            "add",
            (workspace_id, named, rows, first_line, claims_of(lines, first_line, parts.ids)),
            until,
            parts.options.try_s,
        )
        self._lines += len(answer)
        return [
            CertificateLine(
                index=index,
                id=parts.ids.make(serial, index),
                message_id=name,
                repeated=repeated,
            )
            for (serial, index, repeated), name in zip(answer, rows.message_ids, strict=True)
        ]

    async def close_batch(self, workspace_id: UUID, batch: UUID, *, timeout_s: float) -> BatchView:
        until = self._parts.clock.monotonic() + timeout_s
        async with _within(timeout_s):
            row = await self._parts.batches.get(batch, workspace_id)
            if row.root is None:
                # Sealing takes its time: the whole deadline is one try's.
                row = await self._parts.owners.ask(row.shard, "close", (workspace_id, batch), until)
            return (await self._parts.reader.views([row]))[0]

    async def batch(self, workspace_id: UUID, batch: UUID, *, timeout_s: float) -> BatchView:
        async with _within(timeout_s):
            return await self._parts.reader.batch(workspace_id, batch)

    async def batches(
        self, workspace_id: UUID, *, after: str | None = None, limit: int = 50, timeout_s: float
    ) -> BatchPage:
        async with _within(timeout_s):
            return await self._parts.reader.batches(workspace_id, after, limit)

    async def certificates(
        self,
        workspace_id: UUID,
        batch: UUID,
        *,
        after: int = -1,
        limit: int = 1_000,
        timeout_s: float,
    ) -> CertificatePage:
        async with _within(timeout_s):
            return await self._parts.reader.certificates(workspace_id, batch, after, limit)

    async def view(self, certificate: str, *, timeout_s: float) -> CertificateView:
        async with _within(timeout_s):
            return await self._parts.reader.view(certificate)

    async def certificate_bytes(
        self, certificate: str, form: Literal["json", "cbor"], *, timeout_s: float
    ) -> bytes:
        async with _within(timeout_s):
            return await self._parts.reader.certificate(certificate, form)

    async def id_of(self, root: bytes, index: int, *, timeout_s: float) -> str | None:
        async with _within(timeout_s):
            return await self._parts.reader.id_of(root, index)

    async def receipt(self, root: bytes, *, timeout_s: float) -> bytes:
        async with _within(timeout_s):
            return await self._parts.reader.receipt(root)

    async def revoke(
        self, workspace_id: UUID, certificate: str, reason: RevokeReason, *, timeout_s: float
    ) -> CertificateView:
        parts = self._parts
        until = parts.clock.monotonic() + timeout_s
        async with _within(timeout_s):
            place = await parts.reader.place(certificate, workspace_id)
            if await parts.reader.revoked(place.cell.leaf) is None:
                record = parts.reader.record(place)
                document = None
                if record is not None and record.document is not None:
                    document = parts.vault.document_mark(workspace_id, *record.document)
                row = RevocationRow(
                    leaf=place.cell.leaf,
                    revoked=place.batch.id,
                    at_index=place.index,
                    reason=reason,
                    time_s=int(parts.clock.now()),
                    batch=place.batch.id,
                    position=0,
                )
                args = (workspace_id, row, certificate.lower(), place.batch, document)
                if await parts.owners.ask(
                    shard_of(workspace_id), "revoke", args, until, parts.options.try_s
                ):
                    metrics.TRUST_REVOKED.labels(reason.value).inc()
            return await parts.reader.view(certificate)

    async def revocations(
        self,
        *,
        leaf: bytes | None = None,
        after: str | None = None,
        limit: int = 100,
        timeout_s: float,
    ) -> RevocationPage:
        async with _within(timeout_s):
            return await self._parts.reader.revocations(leaf, after, limit)

    async def forget(
        self, workspace_id: UUID, certificate: str, *, timeout_s: float
    ) -> ForgetTrustReceipt:
        async with _within(timeout_s):
            return await self._parts.forgetter.certificate(workspace_id, certificate)

    async def forget_recipient(
        self, workspace_id: UUID, batch: UUID, recipient: str, *, timeout_s: float
    ) -> ForgetTrustReceipt:
        async with _within(timeout_s):
            return await self._parts.forgetter.recipient(workspace_id, batch, recipient)

    async def networks(self, *, timeout_s: float) -> NetworksView:
        """Of the host that speaks to them. Raises Unavailable while there is none."""
        async with _within(timeout_s):
            held = await self._parts.leases.held(ANCHORING)
            if not held:
                raise Unavailable("No host speaks to the networks now.", retry_after_s=1.0)
            host = held[0].owner.partition("/")[0]
            found: list[NetworkView] = await self._parts.caller.call(
                host, "networks", (), timeout_s
            )
            return NetworksView(networks=found, needed=self._parts.options.networks_needed)

    async def keys(self, *, timeout_s: float) -> KeysView:
        async with _within(timeout_s):
            return await self._parts.reader.keys()

    async def document_state(
        self, workspace_id: UUID, document: str, version: str, *, timeout_s: float
    ) -> DocumentTrustView:
        async with _within(timeout_s):
            return await self._parts.reader.document(workspace_id, document, version)

    def statistics(self) -> dict[str, Any]:
        return {
            "lines": self._lines,
            **self._parts.owners.statistics(),
            **self._parts.work.statistics(),
            "near_done": self._parts.near.statistics()["work_done"],
        }


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise DeadlineExceeded from None
