"""Transactions of one network: new ones, their successors with higher fees, and sending them.

Written before sent, always: the ledger has the signed bytes before a node does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from mesh.contracts.networks import AnchorState
from mesh.core.errors import InvalidInput
from mesh.core.logging import get_logger
from mesh.trust.anchoring import fees
from mesh.trust.anchoring.book import NetworkBook, Roots, Slot
from mesh.trust.anchoring.fees import Fees
from mesh.trust.anchoring.gauges import Counts
from mesh.trust.anchoring.ledger import AnchorLedger
from mesh.trust.anchoring.link import Link
from mesh.trust.anchoring.records import AnchorRow, Attempt, Step, WantedRoot
from mesh.trust.chain import registry
from mesh.trust.chain.protocol import Call, Inclusion, Sent
from mesh.trust.chain.wallet import Unsigned, Wallet

log = get_logger("trust.signing")

DAY_S = 86_400.0
SPARE_GAS = 5_000
PLAIN_GAS = 30_000
"""Of a transaction that does nothing; what is not used is not paid."""
MAX_GAS = 1_000_000
"""More for one root is a mistake, or an attack."""
FRESH_S = 60.0
"""A root that waited longer may have been sent in a life that the ledger knows nothing of (an
older copy of the database): the chain is asked first."""
LOOK_BACK = 5_000
"""Blocks of that look."""

Write = Callable[[Step], Awaitable[None]]


class Signing:
    """``write`` commits a step and takes it into the books."""

    def __init__(
        self,
        link: Link,
        wallet: Wallet,
        book: NetworkBook,
        roots: Roots,
        write: Write,
        counts: Counts,
    ) -> None:
        self._link = link
        self._options = link.options
        self.wallet = wallet
        self._book = book
        self._roots = roots
        self._write = write
        self.method = link.options.method
        """calldata also where the chain has no factory for the registry."""
        self.contract = link.options.contract or registry.ADDRESS
        self.ready = False
        """The registry is there, or none is needed."""
        self.spent_closed = 0
        self._spent_day = -1
        self.counts = counts

    def spent_today(self) -> int:
        """Fees paid today, and at worst to be paid by what is on its way, wei."""
        return self.spent_closed + sum(slot.worst_wei for slot in self._book.slots.values())

    @property
    def deploying(self) -> bool:
        """The registry is on its way."""
        return self._deployment() is not None

    async def prepare(self) -> bool:
        """Whether roots can be sent: the registry must be there before anything is sent to it."""
        if self.ready:
            return True
        if self.deploying:
            return False  # until its block is final: what is sent to no contract is lost for good
        if self.method == "calldata" or await self._link.has_registry(self.contract):
            self.ready = True
            self._link.alarm("no_contract", False)
            return True
        if self._options.contract is not None:
            self._link.alarm("no_contract", True)
            return False
        if not await self._link.has_factory():
            self._link.alarm("no_factory", True)
            log.warning("network.no_factory", network=self._options.name, method="calldata")
            self.method, self.ready = "calldata", True
            return True
        await self._sign(None, registry.FACTORY, registry.deploy_data())
        slot = self._deployment()
        if slot is not None:
            await self.send(slot)
        return False

    def _deployment(self) -> Slot | None:
        deploys = registry.deploy_data()
        return next(
            (
                slot
                for slot in self._book.slots.values()
                if slot.root is None and any(deploys in a.raw for a in slot.attempts)
            ),
            None,
        )

    async def count_spent(self, ledger: AnchorLedger) -> None:
        """Once a day."""
        day = int(self._link.clock.now() // DAY_S)
        if day != self._spent_day:
            self.spent_closed = await ledger.spent(self._options.name, day * DAY_S)
            self._spent_day = day

    def closed(self, fee_wei: int) -> None:
        """A nonce was closed that cost so much."""
        self.spent_closed += fee_wei
        self.counts.paid(fee_wei)

    async def begin(self, wanted: WantedRoot) -> bool:
        """A first transaction for the root. False: not now; an alarm says why."""
        root = wanted.root
        if self.method == "event" and self._link.clock.now() - wanted.wanted_at > FRESH_S:
            assert self._link.head is not None
            first = max(0, self._link.head.number - LOOK_BACK)
            found = await self._link.ask(
                lambda: self._link.chain.announced(self.contract, root, first)
            )
            if found is not None and found.succeeded:
                await self._adopt(root, found)
                return True
        if self.method == "event":
            return await self._sign(root, self.contract, registry.anchor_data(root))
        return await self._sign(root, self.wallet.address, root)

    async def _adopt(self, root: bytes, found: Inclusion) -> None:
        row = self.placed(root, found, AnchorState.SUBMITTED)
        await self._write(Step(anchors=(replace(row, reason="the chain has it already"),)))
        self._book.adopt(root, found)
        self.counts.add("adopted")

    async def _sign(self, root: bytes | None, to: bytes, data: bytes) -> bool:
        market = await self._link.market()
        vacant = self._vacant()
        offer = fees.first(market, self._options)
        if offer is not None and vacant is not None:
            highest = Fees(
                max(a.max_fee for a in vacant.attempts), max(a.tip for a in vacant.attempts)
            )
            better = fees.replacement(highest, market, self._options)
            if better is None:
                vacant = None  # above our limit: it goes first, as it is, and the root after it
            else:
                offer = better
        self._link.alarm("fee_cap", offer is None)
        if offer is None:
            return False
        call = Call(self.wallet.address, to, data)
        try:
            estimate = await self._link.ask(lambda: self._link.chain.estimate(call))
        except InvalidInput as error:
            self._link.alarm("rejected", True)
            log.warning("network.estimate", network=self._options.name, error=str(error))
            return False
        gas = estimate + estimate // 5 + SPARE_GAS
        freed = 0 if vacant is None else vacant.worst_wei
        short = self.spent_today() - freed + gas * offer.max_fee > self._options.budget_wei
        self._link.alarm("budget_spent", short)
        if short or gas > MAX_GAS:
            return False
        if vacant is not None and vacant.nonce is not None:
            nonce = vacant.nonce
        else:
            known = self._book.next_nonce(self.wallet.address)
            nonce = max(known, self._link.nonces[self.wallet.address])
            self._link.alarm("foreign_nonce", nonce > known > 0)
        await self._attempt(
            root,
            nonce,
            Unsigned(self._options.chain_id, nonce, to, data, gas, offer.max_fee, offer.tip),
        )
        self.counts.add("signed")
        return True

    def _vacant(self) -> Slot | None:
        """A nonce whose root another network has: it need not be paid for, but it must be used
        before any after it. Only the last may be given away: those before it have to go first."""
        mine = [s for s in self._book.ordered() if s.address == self.wallet.address]
        if not mine:
            return None
        last = mine[-1]
        free = (
            last.nonce is not None
            and last.inclusion is None
            and last.nonce >= self._link.nonces.get(last.address, 0)
            and last.root is not None
            and self._given_up(last)
        )
        return last if free else None

    def _given_up(self, slot: Slot) -> bool:
        row = None if slot.root is None else self._roots.row(slot.root, self._options.name)
        return row is not None and row.state is AnchorState.WAITING

    async def _attempt(self, root: bytes | None, nonce: int, unsigned: Unsigned) -> None:
        signed = await self.wallet.sign(unsigned)
        now = self._link.clock.now()
        attempt = Attempt(
            tx=signed.tx,
            network=self._options.name,
            address=self.wallet.address,
            nonce=nonce,
            root=root,
            raw=signed.raw,
            gas=unsigned.gas,
            max_fee=unsigned.max_fee,
            tip=unsigned.tip,
            signed_at=now,
        )
        await self._write(Step(attempts=(attempt,)))

    async def fill(self, nonce: int) -> None:
        """Use up a nonce that nobody has, so that those after it get on."""
        self._link.alarm("foreign_nonce", True)
        offer = fees.first(await self._link.market(), self._options)
        if offer is None:
            return
        await self._attempt(
            None,
            nonce,
            Unsigned(
                self._options.chain_id,
                nonce,
                self.wallet.address,
                b"",
                PLAIN_GAS,
                offer.max_fee,
                offer.tip,
            ),
        )

    async def replace(self, slot: Slot) -> bool:
        """A successor with a higher fee for the last attempt. False: above a limit."""
        last = slot.attempts[-1]
        if last.address != self.wallet.address:
            return False  # the key was changed; what the old one signed is all there is
        market = await self._link.market()
        offer = fees.replacement(Fees(last.max_fee, last.tip), market, self._options)
        self._link.alarm("fee_cap", offer is None)
        if offer is None:
            return False
        more = last.gas * offer.max_fee - slot.worst_wei
        short = self.spent_today() + more > self._options.budget_wei
        self._link.alarm("budget_spent", short)
        if short:
            return False
        to, data = self._target(last)
        await self._attempt(
            last.root,
            last.nonce,
            Unsigned(
                self._options.chain_id, last.nonce, to, data, last.gas, offer.max_fee, offer.tip
            ),
        )
        self.counts.add("replaced")
        return True

    def is_event(self, attempt: Attempt) -> bool:
        """Whether it calls a registry; else its whole input is the root."""
        assert attempt.root is not None
        return registry.anchor_data(attempt.root) in attempt.raw

    def _target(self, attempt: Attempt) -> tuple[bytes, bytes]:
        """Where to and with what, as it was the first time."""
        root = attempt.root
        if root is None:
            deploys = registry.deploy_data()
            return (registry.FACTORY, deploys) if deploys in attempt.raw else (attempt.address, b"")
        if self.is_event(attempt):
            return self.contract, registry.anchor_data(root)
        return self.wallet.address, root

    async def send(self, slot: Slot) -> None:
        """Give the last attempt to the node, once more if need be."""
        attempt = slot.attempts[-1]
        result = await self._link.ask(lambda: self._link.chain.send(attempt.raw))
        now = self._link.clock.monotonic()
        taken = result.outcome in (Sent.ACCEPTED, Sent.KNOWN)
        slot.pressed = result.outcome is Sent.UNDERPRICED
        self._link.alarm("unfunded", result.outcome is Sent.UNFUNDED)
        self._link.alarm("rejected", result.outcome is Sent.REJECTED)
        slot.sent_at = now
        if not taken:
            self.counts.add("refused")
            if result.outcome is not Sent.NONCE_TOO_LOW:
                log.warning(
                    "network.refuses",
                    network=self._options.name,
                    outcome=result.outcome.value,
                    reason=result.reason,
                )
            return
        self.counts.add("sent")
        assert self._link.head is not None
        slot.heard, slot.sent_head = True, self._link.head.number
        if slot.waits_since is None:
            slot.waits_since = now
        root = attempt.root
        row = None if root is None else self._roots.row(root, self._options.name)
        at = self._link.clock.now()
        said = (attempt.tx, at)
        told = row is not None and row.state is AnchorState.SUBMITTED and row.tx == attempt.tx
        if root is not None and not told:
            fresh = AnchorRow(
                root,
                self._options.name,
                self._options.chain_id,
                AnchorState.SUBMITTED,
                at,
                tx=attempt.tx,
            )
            await self._write(Step(sent=(said,), anchors=(fresh,)))
        elif attempt.sent_at is None:
            await self._write(Step(sent=(said,)))

    def placed(self, root: bytes, inclusion: Inclusion, state: AnchorState) -> AnchorRow:
        """A row that says which block has the root."""
        assert self._link.head is not None
        return AnchorRow(
            root=root,
            network=self._options.name,
            chain_id=self._options.chain_id,
            state=state,
            at=self._link.clock.now(),
            tx=inclusion.tx,
            block_number=inclusion.block_number,
            block_hash=inclusion.block_hash,
            confirmations=max(0, self._link.head.number - inclusion.block_number + 1),
            gas_used=inclusion.gas_used,
            fee_wei=inclusion.fee_wei,
        )
