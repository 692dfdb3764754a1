"""Certificates in memory: a TrustClient that makes real leaves, trees, notes and receipts, for
tests of what stands in front of it. ``anchor`` plays the network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

from eth_hash.auto import keccak
from trust_memory_batch import Kept, take, told

from benchmarks.trustworks.papers import CHAIN, KEY, event_anchor
from mesh.contracts.events import EventType
from mesh.contracts.networks import AnchorState, AnchorView, NetworksView, NetworkView
from mesh.contracts.trust import (
    AheadIds,
    BatchPage,
    BatchState,
    BatchView,
    CertificateLine,
    CertificatePage,
    CertificateState,
    CertificateView,
    DocumentTrustView,
    ForgetTrustReceipt,
    KeysView,
    NewBatch,
    NewMessage,
    RevocationPage,
    RevokedView,
    RevokeReason,
    TrustEvent,
)
from mesh.core.errors import Conflict, Gone, NotFound
from mesh.streams.log import StreamLog
from mesh.streams.names import trust_stream
from mesh.trust import checkpoint, jcs
from mesh.trust.certificate import Certificate, certify
from mesh.trust.ids import CertificateIds
from mesh.trust.merkle import Tree
from mesh.trust.receipt import Receipt

WEI = 10**22
"""A balance that is longer than 64 bits."""


class MemoryTrust:
    def __init__(self, streams: StreamLog) -> None:
        self._streams = streams
        self._batches: dict[UUID, Kept] = {}
        self._rolling: dict[UUID, UUID] = {}
        self._ids = CertificateIds(b"a secret of thirty-two bytes ....")
        self._changes = 0
        self.adding = 0
        self.most_adding = 0
        self.most_held = 0
        """Bytes of messages within ``add`` at once."""
        self._held = 0
        self.gate = asyncio.Event()
        """Cleared, nothing is committed."""
        self.gate.set()
        self.failures: list[Exception] = []
        """Raised by the next calls of ``add``."""

    async def open_batch(
        self, workspace_id: UUID, request: NewBatch, *, key: str | None = None, timeout_s: float
    ) -> BatchView:
        identity = uuid4() if key is None else uuid5(NAMESPACE_OID, f"{workspace_id} {key}")
        return self._open(identity, workspace_id, request.name, "campaign").view

    async def ids(
        self,
        workspace_id: UUID,
        batch: UUID,
        *,
        first: int | None = None,
        count: int = 1_000,
        timeout_s: float,
    ) -> AheadIds:
        kept = self._of(workspace_id, batch)
        if kept.view.state is not BatchState.OPEN:
            raise Conflict("The batch is closed")
        begin = len(kept.leaves) if first is None else first
        places = range(begin, begin + count)
        ids = [self._ids.make(kept.view.serial, index) for index in places]
        return AheadIds(first=begin, size=len(kept.leaves), ids=ids)

    async def add(
        self,
        workspace_id: UUID,
        batch: UUID | Literal["rolling"],
        lines: Sequence[NewMessage],
        *,
        first_line: int = 1,
        timeout_s: float,
    ) -> list[CertificateLine]:
        if batch == "rolling":
            identity = self._rolling.setdefault(workspace_id, uuid4())
            kept = self._open(identity, workspace_id, "", "rolling")
        else:
            kept = self._of(workspace_id, batch)
        size = sum(len(line.message or line.message_base64 or "") for line in lines)
        self.adding += 1
        self._held += size
        self.most_adding = max(self.most_adding, self.adding)
        self.most_held = max(self.most_held, self._held)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            return take(kept, self._ids, lines, first_line)
        finally:
            self.adding -= 1
            self._held -= size

    async def close_batch(self, workspace_id: UUID, batch: UUID, *, timeout_s: float) -> BatchView:
        kept = self._of(workspace_id, batch)
        if kept.view.state is BatchState.OPEN:
            if not kept.leaves:
                raise Conflict("The batch is empty")
            kept.tree = Tree(b"".join(leaf.hash for leaf in kept.leaves))
            point = checkpoint.Checkpoint.of(KEY.name, kept.tree.size, kept.tree.root)
            await self._tell(
                kept,
                state=BatchState.INCLUDED,
                root=kept.tree.root.hex(),
                checkpoint=checkpoint.sign(point, (KEY,)),
                closed_at=datetime.now(UTC),
            )
        return kept.view

    async def anchor(self, batch: UUID, state: BatchState) -> None:
        """The network has it: confirmed, final, or no longer (orphaned)."""
        kept = self._batches[batch]
        assert kept.tree is not None
        if not kept.anchors:
            kept.anchors = [event_anchor(kept.tree.root, index=1, count=3)]
        view = AnchorView(
            network="local",
            chain_id=CHAIN,
            state=AnchorState(state.value),
            tx="0x" + "7" * 64,
            block_number=4711,
            block_hash=f"0x{keccak(kept.anchors[0].header).hex()}",
            fee_wei=WEI,
        )
        await self._tell(kept, state=state, anchors=[view])

    async def batch(self, workspace_id: UUID, batch: UUID, *, timeout_s: float) -> BatchView:
        return self._of(workspace_id, batch).view

    async def batches(
        self, workspace_id: UUID, *, after: str | None = None, limit: int = 50, timeout_s: float
    ) -> BatchPage:
        mine = [kept.view for kept in self._batches.values() if kept.workspace == workspace_id]
        mine.reverse()
        begin = 0 if after is None else int(after)
        more = str(begin + limit) if len(mine) > begin + limit else None
        return BatchPage(batches=mine[begin : begin + limit], next=more)

    async def certificates(
        self,
        workspace_id: UUID,
        batch: UUID,
        *,
        after: int = -1,
        limit: int = 1_000,
        timeout_s: float,
    ) -> CertificatePage:
        kept = self._of(workspace_id, batch)
        end = min(after + 1 + limit, len(kept.messages))
        lines = [
            told(kept, self._ids, at, kept.messages[at], repeated=False)
            for at in range(after + 1, end)
        ]
        return CertificatePage(
            certificates=lines, next=end - 1 if end < len(kept.messages) else None
        )

    async def view(self, certificate: str, *, timeout_s: float) -> CertificateView:
        kept, index = self._find(certificate)
        message, leaf = kept.messages[index], kept.leaves[index]
        gone = index in kept.forgotten
        revoked = kept.revoked.get(index)
        state = CertificateState.REVOKED if revoked else CertificateState(kept.view.state.value)
        return CertificateView(
            id=self._ids.make(kept.view.serial, index),
            state=state,
            batch=kept.view.id,
            index=index,
            size=0 if kept.tree is None else kept.tree.size,
            root=kept.view.root,
            leaf=leaf.hash.hex(),
            subject=None if gone else "Spring has begun",
            domain=None if gone else message.domain,
            recipient_masked=None if gone else kept.recipients[index][:1] + "…",
            message_id=None if gone else message.message_id,
            as_of=datetime.now(UTC),
            revoked=revoked,
            forgotten=gone,
            anchors=kept.view.anchors,
        )

    async def certificate_bytes(
        self, certificate: str, form: Literal["json", "cbor"], *, timeout_s: float
    ) -> bytes:
        kept, index = self._find(certificate)
        if index in kept.forgotten:
            raise Gone("It was forgotten.")
        made = self.certificate(kept.view.id, index)
        return made.to_json() if form == "json" else made.compact().to_cbor()

    def certificate(self, batch: UUID, index: int) -> Certificate:
        kept = self._batches[batch]
        if kept.tree is None:
            raise Conflict("Its batch is open.")
        message = kept.messages[index]
        return certify(
            kept.leaves[index], message.origins, kept.tree, index, kept.view.checkpoint or ""
        )

    async def id_of(self, root: bytes, index: int, *, timeout_s: float) -> str | None:
        for kept in self._batches.values():
            if kept.tree is not None and kept.tree.root == root and index < kept.tree.size:
                return self._ids.make(kept.view.serial, index)
        return None

    async def receipt(self, root: bytes, *, timeout_s: float) -> bytes:
        for kept in self._batches.values():
            if kept.tree is not None and kept.tree.root == root:
                return Receipt(kept.view.checkpoint or "", tuple(kept.anchors)).to_json()
        raise NotFound("There is no such root.")

    async def revoke(
        self, workspace_id: UUID, certificate: str, reason: RevokeReason, *, timeout_s: float
    ) -> CertificateView:
        kept, index = self._find(certificate, workspace_id)
        if index not in kept.revoked:
            kept.revoked[index] = RevokedView(
                reason=reason, at=datetime.now(UTC), state=CertificateState.OPEN
            )
            await self._event(
                kept, EventType.TRUST_CERTIFICATE, certificate=certificate, revoked=reason
            )
        return await self.view(certificate, timeout_s=timeout_s)

    async def revocations(
        self,
        *,
        leaf: bytes | None = None,
        after: str | None = None,
        limit: int = 100,
        timeout_s: float,
    ) -> RevocationPage:
        return RevocationPage(revocations=[], next=None, as_of=datetime.now(UTC))

    async def forget(
        self, workspace_id: UUID, certificate: str, *, timeout_s: float
    ) -> ForgetTrustReceipt:
        kept, index = self._find(certificate, workspace_id)
        kept.forgotten.add(index)
        return self._forgot(kept, [certificate])

    async def forget_recipient(
        self, workspace_id: UUID, batch: UUID, recipient: str, *, timeout_s: float
    ) -> ForgetTrustReceipt:
        kept = self._of(workspace_id, batch)
        found = [at for at, address in enumerate(kept.recipients) if address == recipient]
        kept.forgotten |= {*found}
        return self._forgot(kept, [self._ids.make(kept.view.serial, at) for at in found])

    def _forgot(self, kept: Kept, certificates: list[str]) -> ForgetTrustReceipt:
        return ForgetTrustReceipt(
            certificates=certificates,
            batch=kept.view.id,
            forgotten_at=datetime.now(UTC),
            scrubbed=True,
        )

    async def networks(self, *, timeout_s: float) -> NetworksView:
        network = NetworkView(name="local", chain_id=CHAIN, healthy=True, balance_wei=WEI)
        return NetworksView(networks=[network], needed=1)

    async def keys(self, *, timeout_s: float) -> KeysView:
        return KeysView(keys=[str(KEY.verifier)], live=[str(KEY.verifier)])

    async def document_state(
        self, workspace_id: UUID, document: str, version: str, *, timeout_s: float
    ) -> DocumentTrustView:
        batches = [
            kept.view.id
            for kept in self._batches.values()
            if kept.workspace == workspace_id
            and any(d and (d.id, d.version) == (document, version) for d in kept.documents)
        ]
        return DocumentTrustView(
            document=document,
            version=version,
            certificates=len(batches),
            batches=batches,
            as_of=datetime.now(UTC),
        )

    def _open(
        self, identity: UUID, workspace: UUID, name: str, kind: Literal["campaign", "rolling"]
    ) -> Kept:
        kept = self._batches.get(identity)
        if kept is None:
            now = datetime.now(UTC)
            view = BatchView(
                id=identity,
                serial=len(self._batches) + 1,
                name=name,
                kind=kind,
                state=BatchState.OPEN,
                size=0,
                created_at=now,
                state_at=now,
            )
            kept = self._batches[identity] = Kept(view, workspace)
        return kept

    def _of(self, workspace: UUID, batch: UUID) -> Kept:
        kept = self._batches.get(batch)
        if kept is None or kept.workspace != workspace:
            raise NotFound("There is no such batch.")
        return kept

    def _find(self, certificate: str, workspace: UUID | None = None) -> tuple[Kept, int]:
        serial, index = self._ids.read(certificate)
        for kept in self._batches.values():
            if kept.view.serial == serial and index < len(kept.leaves):
                if workspace is not None and kept.workspace != workspace:
                    break
                return kept, index
        raise NotFound("There is no such certificate.")

    async def _tell(self, kept: Kept, **changes: Any) -> None:
        kept.change(**changes)
        await self._event(kept, EventType.TRUST_BATCH)

    async def _event(self, kept: Kept, kind: EventType, **more: Any) -> None:
        self._changes += 1
        event = TrustEvent(
            change=self._changes,
            batch=kept.view.id,
            state=kept.view.state,
            size=kept.view.size,
            root=kept.view.root,
            anchors=kept.view.anchors,
            **more,
        )
        data = jcs.read(jcs.write(event.model_dump(mode="json") | {"anchors": []}))
        await self._streams.publish(
            [trust_stream(kept.view.id)], kind, data, key=f"{kept.view.id} {self._changes}"
        )
