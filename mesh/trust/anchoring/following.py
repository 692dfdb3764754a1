"""What follows once the chain has taken a nonce: confirmed, final, gone, or somebody else's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from mesh.contracts.networks import AnchorState
from mesh.core.errors import InvalidInput, NotFound
from mesh.core.logging import get_logger
from mesh.trust.anchoring.book import NetworkBook, Roots, Slot
from mesh.trust.anchoring.link import Link
from mesh.trust.anchoring.records import AnchorRow, ClosedNonce, Step
from mesh.trust.anchoring.signing import LOOK_BACK, Signing
from mesh.trust.chain.protocol import Head, Inclusion

log = get_logger("trust.network")


class Following:
    """``write`` commits a step and takes it into the books."""

    def __init__(
        self,
        link: Link,
        signing: Signing,
        book: NetworkBook,
        roots: Roots,
        write: Callable[[Step], Awaitable[None]],
    ) -> None:
        self.link = link
        self.options = link.options
        self.name = link.options.name
        self.signing = signing
        self.book = book
        self.roots = roots
        self._write = write
        self.counts = signing.counts

    def may_be_lag(self, slot: Slot) -> bool:
        """The chain is too short to have the slot's block: for so short a time that it may be
        another node's view."""
        now = self.link.clock.monotonic()
        if slot.gone_since is None:
            slot.gone_since = now
        grace = 0.0 if self.options.development else self.options.orphan_grace_s
        return now - slot.gone_since < grace

    async def find(self, slot: Slot) -> Inclusion | None:
        """What took the nonce: one of our transactions, or what has its root all the same."""
        txs = [attempt.tx for attempt in reversed(slot.attempts)]
        found = await self.link.ask(lambda: self.link.chain.find(txs))
        root = slot.attempts[-1].root
        if found is not None or root is None or self.signing.method != "event":
            return found
        assert self.link.head is not None
        first = max(0, self.link.head.number - LOOK_BACK)
        contract = self.signing.contract
        found = await self.link.ask(lambda: self.link.chain.announced(contract, root, first))
        return found if found is not None and found.succeeded else None

    async def include(self, slot: Slot, found: Inclusion) -> None:
        """A block has taken it."""
        slot.inclusion = found
        slot.waits_since = slot.taken_at = slot.gone_since = None
        if all(attempt.tx != found.tx for attempt in slot.attempts):
            slot.adopted = slot.attempts[-1].root
        root = slot.root
        self.counts.add("included")
        if root is None:
            return
        row = self.signing.placed(root, found, AnchorState.SUBMITTED)
        if not found.succeeded:
            row = replace(row, state=AnchorState.FAILED, reason="the transaction failed")
            self.link.alarm("failed", True)
        await self._write(Step(anchors=(row,)))

    async def progress(self, slot: Slot, found: Inclusion, head: Head) -> None:
        """A block of the chain has it."""
        final = self.options.final(found.block_number, head.number, head.finalized)
        root = slot.root
        row = None if root is None else self.roots.row(root, self.name)
        if root is None or row is None or row.state is AnchorState.FAILED:
            if final:
                await self._write(Step(closed=self._closing(slot)))
                self.signing.closed(found.fee_wei)
            return
        depth = head.number - found.block_number + 1
        if row.state is not AnchorState.CONFIRMED and (
            depth >= self.options.confirmations or final
        ):
            row = await self._confirm(slot, found, root)
            if row is None:
                return
        if final and row.state is AnchorState.CONFIRMED:
            done = replace(self.signing.placed(root, found, AnchorState.FINAL), proof=row.proof)
            others = self._left_without(slot, root)
            await self._write(Step(anchors=(done, *others), closed=self._closing(slot)))
            self.counts.add("final")
            if slot.nonce is None:
                self.book.drop(slot)
            else:
                self.signing.closed(found.fee_wei if slot.adopted is None else 0)

    async def _confirm(self, slot: Slot, found: Inclusion, root: bytes) -> AnchorRow | None:
        contract = self.signing.contract if self._is_event(slot) else None
        try:
            proof = await self.link.ask(lambda: self.link.chain.prove(found, root, contract))
        except NotFound:
            return None  # gone since we looked: the next look will tell
        except InvalidInput as error:
            # A block has the transaction, yet it shows nothing: no registry there, or a node
            # whose answers don't add up. It may not be sent twice.
            log.error("network.no_proof", network=self.name, error=str(error))
            self.link.alarm("failed", True)
            row = self.signing.placed(root, found, AnchorState.FAILED)
            await self._write(Step(anchors=(replace(row, reason=str(error)[:200]),)))
            return None
        row = replace(self.signing.placed(root, found, AnchorState.CONFIRMED), proof=proof)
        await self._write(Step(anchors=(row,)))
        self.counts.add("confirmed")
        return row

    def _is_event(self, slot: Slot) -> bool:
        """Of a transaction of ours: by what it says, for the method may have been changed."""
        assert slot.inclusion is not None
        for attempt in slot.attempts:
            if attempt.tx == slot.inclusion.tx and attempt.root is not None:
                return self.signing.is_event(attempt)
        return True

    def _closing(self, slot: Slot) -> tuple[ClosedNonce, ...]:
        found = slot.inclusion
        if slot.nonce is None:
            return ()
        ours = found is not None and any(a.tx == found.tx for a in slot.attempts)
        return (
            ClosedNonce(
                self.name,
                slot.address,
                slot.nonce,
                self.link.clock.now(),
                found.tx if ours and found is not None else None,
                found.fee_wei if ours and found is not None else 0,
            ),
        )

    def _left_without(self, slot: Slot, root: bytes | None) -> tuple[AnchorRow, ...]:
        """Rows of roots that had this nonce too, and will not be on the chain by it."""
        rows = []
        for other in {a.root for a in slot.attempts} - {root, None}:
            assert other is not None
            row = self.roots.row(other, self.name)
            if row is not None and row.state is not AnchorState.WAITING:
                rows.append(self.waiting(other, "its nonce went to another root"))
        return tuple(rows)

    def waiting(self, root: bytes, reason: str) -> AnchorRow:
        """A row that says why the root is not on its way here."""
        return AnchorRow(
            root,
            self.name,
            self.options.chain_id,
            AnchorState.WAITING,
            self.link.clock.now(),
            reason=reason,
        )

    async def orphan(self, slot: Slot) -> None:
        """Its block is gone."""
        root, slot.inclusion, slot.heard = slot.root, None, False
        slot.gone_since, slot.sent_at = None, float("-inf")
        slot.adopted = slot.adopted if slot.nonce is None else None
        self.counts.add("orphaned")
        log.warning("network.orphaned", network=self.name, root=root.hex() if root else None)
        if root is None:
            self.signing.ready = False
            return
        row = AnchorRow(
            root,
            self.name,
            self.options.chain_id,
            AnchorState.ORPHANED,
            self.link.clock.now(),
            tx=slot.attempts[-1].tx if slot.attempts else None,
            reason="its block is not on the chain any more",
        )
        if slot.nonce is None:
            row = self.waiting(root, "its block is not on the chain any more")
        await self._write(Step(anchors=(row,)))

    async def foreign(self, slot: Slot, head: Head) -> None:
        """Somebody else's transaction has the nonce. Only when that can't change any more may
        the root have another nonce."""
        self.link.alarm("foreign_nonce", True)
        if slot.taken_at is not None:
            number, block = slot.taken_at
            canonical = await self.link.block_hash(number)
            if canonical == block:
                if self.options.final(number, head.number, head.finalized):
                    rows = self._left_without(slot, None)
                    await self._write(Step(anchors=rows, closed=self._closing(slot)))
                    self.counts.add("foreign")
                return
        # The nonce was asked for after the head: only a newer head is sure to know of it.
        newer = await self.link.ask(self.link.chain.head)
        slot.taken_at = (newer.number, newer.hash)
