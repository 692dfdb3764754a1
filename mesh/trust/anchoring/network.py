"""One network's anchors: looked at again and again, until each root is final or not wanted here.

A nonce goes through these states, and nothing but the chain decides which it is in::

    signed ──▶ sent ──▶ in a block ──▶ confirmed ──▶ final: closed
                 ▲           │ the block is gone         │
                 └───────────┴── orphaned ◀──────────────┘
    taken by a foreign transaction, for good: closed, and the root may have a new nonce

A root has at most one open nonce on a network, and gets another only after the chain has closed
the first one without it: so two transactions with one root can't both be in its blocks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.contracts.networks import AnchorState
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.trust.anchoring.book import NetworkBook, Roots, Slot
from mesh.trust.anchoring.choice import Reached, Standing
from mesh.trust.anchoring.following import Following
from mesh.trust.anchoring.gauges import Counts
from mesh.trust.anchoring.ledger import AnchorLedger
from mesh.trust.anchoring.link import Link
from mesh.trust.anchoring.records import Loaded, Step
from mesh.trust.anchoring.signing import Signing
from mesh.trust.chain.protocol import Head
from mesh.trust.chain.wallet import Wallet

log = get_logger("trust.network")

T = TypeVar("T")

BLOCKS_BEFORE_REPLACING = 2
"""A chain that stands still takes nothing at any price."""
NEW_AT_ONCE = 8
"""First transactions of one look."""
TRY_AGAIN_S = 30.0
"""After a first transaction could not be made for lack of money or the like."""


class Network:
    """``chosen``: the networks that a root shall be on, as things stand."""

    def __init__(
        self,
        link: Link,
        wallet: Wallet,
        roots: Roots,
        ledger: AnchorLedger,
        chosen: Callable[[bytes], frozenset[str]],
        *,
        stuck_after_s: float,
    ) -> None:
        self.link = link
        self.options = link.options
        self.name = link.options.name
        self.roots = roots
        self.book = NetworkBook(self.name)
        self.counts = Counts(self.name)
        self.signing = Signing(link, wallet, self.book, roots, self._write, self.counts)
        self.following = Following(link, self.signing, self.book, roots, self._write)
        self._ledger = ledger
        self._chosen = chosen
        self._stuck_after_s = stuck_after_s
        self._stale = True
        """The books may differ from the ledger."""
        self._beginning: set[bytes] = set()
        """Roots whose first transaction is being made."""
        self._refused_at = float("-inf")
        """Monotonic: when a first transaction could not be made for lack of money or the like."""
        self._gap_since: float | None = None
        self._verified: bytes | None = None
        """The genesis that the ledger knows, once the node has shown it."""

    def standing(self, root: bytes) -> Standing:
        """How far the root is here."""
        row, slot = self.roots.row(root, self.name), self.book.of_root(root)
        state = None if row is None else row.state
        down_s, now = self.link.down_s(), self.link.clock.monotonic()
        if state is AnchorState.FINAL:
            return Standing(self.name, Reached.FINAL)
        if state is AnchorState.FAILED:
            return Standing(self.name, Reached.NOTHING, down_s, barred=True)
        if slot is None:
            takes_new = now - self._refused_at > TRY_AGAIN_S
            reached = Reached.SIGNED if root in self._beginning else Reached.NOTHING
            return Standing(self.name, reached, down_s, takes_new)
        if slot.root != root:
            return Standing(self.name, Reached.SIGNED, down_s, barred=True)
        if slot.inclusion is not None:
            return Standing(self.name, Reached.BLOCK, down_s)
        waits = 0.0 if slot.waits_since is None else now - slot.waits_since
        reached = Reached.SENT if slot.heard else Reached.SIGNED
        return Standing(self.name, reached, down_s, stuck=waits > self._stuck_after_s)

    def busy(self) -> bool:
        """Something here is on its way."""
        return any(map(self._moves, self.book.slots.values()))

    def _moves(self, slot: Slot) -> bool:
        return slot.inclusion is not None or slot.taken_at is not None or self._wanted(slot)

    async def poll(self) -> None:
        """One look at the chain, and what follows from it. Raises Fenced; anything else it notes
        and raises, to be tried again."""
        if self._stale:
            await self._reload()
        try:
            await self._poll()
        except (MailyError, TimeoutError) as error:
            if not self._stale:  # else it was the ledger
                self.link.failed(error)
            raise

    async def _reload(self) -> None:
        async with self.roots.writing:
            self.load(await self._ledger.load())

    def load(self, loaded: Loaded) -> None:
        """The ledger's content."""
        self.roots.load(loaded)
        self.book.load(loaded)
        self._stale = False

    def statistics(self) -> dict[str, int | float | str]:
        return {
            **self.counts.as_dict(),
            "nonces_open": len(self.book.slots),
            "down_s": round(self.link.down_s(), 3),
            "last_error": self.link.last_error,
        }

    async def _read(self, asked: Awaitable[T]) -> T:
        """From the ledger: what goes wrong there is not the node's fault."""
        try:
            return await asked
        except BaseException:
            self._stale = True
            raise

    async def _write(self, step: Step) -> None:
        async with self.roots.writing:
            try:
                await self._ledger.write(step)
            except BaseException:
                self._stale = True  # it may be written, or not
                raise
            self.book.apply(step)
            self.roots.apply(step)

    async def _poll(self) -> None:
        was_down = self.link.down_since is not None
        checked = self.link.genesis is not None
        slots = self.book.slots.values()
        if self.options.development and any(s.inclusion or s.taken_at for s in slots):
            await self.link.ask(self.link.chain.make_block)
        before = self.link.head
        addresses = {slot.address for slot in self.book.slots.values() if slot.nonce is not None}
        head = await self.link.look(addresses | {self.signing.wallet.address})
        if was_down or not checked or (before is not None and head.number < before.number):
            self.signing.ready = False
            for slot in self.book.slots.values():
                slot.heard = False
        if self.link.genesis != self._verified:
            await self._verify()
        if self.options.development and await self._lost_blocks():
            return
        await self.link.check_balance(self.signing.wallet.address)
        for slot in self.book.ordered():
            await self._step(slot, head)
        await self._fill_gap()
        await self._read(self.signing.count_spent(self._ledger))
        await self._begin()

    async def _verify(self) -> None:
        """Raises Unavailable: the node is of another chain than the ledger speaks of."""
        genesis = self.link.genesis
        assert genesis is not None
        self._verified = None
        known = await self._read(self._ledger.genesis(self.name))
        same = known == (self.options.chain_id, genesis)
        # A development node that came back may show another block 0 below its old chain.
        welcome = known is None or self.options.development
        self.link.alarm("wrong_chain", not same and not welcome)
        if not same and welcome:
            writing = self._ledger.set_genesis(self.name, self.options.chain_id, genesis)
            await self._read(writing)
        elif not same:
            raise Unavailable(
                f"The node of {self.name} has another genesis than before: nothing is sent to it.",
                {"network": self.name, "genesis": genesis.hex()},
            )
        self._verified = genesis

    async def _lost_blocks(self) -> bool:
        """A development node came back without blocks that were final: what was closed is sent
        again, the same transactions in the same order."""
        address = self.signing.wallet.address
        there = self.link.nonces[address]
        mine = [s.nonce for s in self.book.slots.values() if s.address == address]
        floor = min((n for n in mine if n is not None), default=self.book.next_nonce(address))
        if there >= floor:
            return False
        async with self.roots.writing:
            self._stale = True
            count = await self._ledger.reopen(self.name, address, there, self.link.clock.now())
        self.counts.add("reopened", count)
        log.warning("network.lost_blocks", network=self.name, nonces=count)
        await self._reload()
        return True

    async def _fill_gap(self) -> None:
        address = self.signing.wallet.address
        now, nonce = self.link.clock.monotonic(), self.link.nonces[address]
        if not self.book.missing(address, nonce):
            self._gap_since = None
            return
        if self._gap_since is None:
            self._gap_since = now
        elif now - self._gap_since >= self.options.orphan_grace_s:  # no other node's old view
            await self.signing.fill(nonce)

    async def _step(self, slot: Slot, head: Head) -> None:
        if slot.inclusion is not None:
            canonical = await self.link.block_hash(slot.inclusion.block_number)
            if canonical == slot.inclusion.block_hash:
                slot.gone_since = None
                await self.following.progress(slot, slot.inclusion, head)
                return
            if canonical is None and self.following.may_be_lag(slot):
                return
            await self.following.orphan(slot)
            if slot.nonce is None:
                self.book.drop(slot)
                return
        assert slot.nonce is not None
        if self.link.nonces[slot.address] <= slot.nonce:
            slot.taken_at = None
            await self._press(slot, head)
            return
        found = await self.following.find(slot)
        if found is None:
            await self.following.foreign(slot, head)
        elif await self.link.block_hash(found.block_number) == found.block_hash:
            await self.following.include(slot, found)
            await self.following.progress(slot, found, head)

    async def _press(self, slot: Slot, head: Head) -> None:
        """No block has it: see that one will, unless it is not wanted here any more."""
        if not self._wanted(slot):
            root = slot.root
            assert root is not None
            row = self.roots.row(root, self.name)
            if row is None or row.state is not AnchorState.WAITING:
                await self._write(
                    Step(anchors=(self.following.waiting(root, "other networks have it"),))
                )
            slot.waits_since, slot.heard = None, False
            return
        now = self.link.clock.monotonic()
        waited = now - slot.waits_since if slot.waits_since is not None else 0.0
        late = waited >= self.options.replace_after_s * self._tries(slot) and (
            head.number >= slot.sent_head + BLOCKS_BEFORE_REPLACING
        )
        if slot.pressed or late:
            await self.signing.replace(slot)
        if not slot.heard or now - slot.sent_at >= self.options.resend_s:
            await self.signing.send(slot)

    def _tries(self, slot: Slot) -> int:
        return max(1, len(slot.attempts))

    def _wanted(self, slot: Slot) -> bool:
        root = slot.root
        if root is None or self.name in self._chosen(root):
            return True
        # The chain takes nonces in order: what is wanted after it can't go without it.
        return any(
            other.address == slot.address
            and other.nonce is not None
            and slot.nonce is not None
            and other.nonce > slot.nonce
            for other in self.book.slots.values()
        )

    async def _begin(self) -> None:
        """First transactions for roots that shall be here."""
        begun = 0
        for wanted in list(self.roots.unsettled()):
            pending = sum(slot.inclusion is None for slot in self.book.slots.values())
            if begun >= NEW_AT_ONCE or pending >= self.options.max_in_flight:
                return
            if not self.roots.is_open(wanted.root):
                continue  # settled while another was begun
            here = self.standing(wanted.root)
            row = self.roots.row(wanted.root, self.name)
            fresh = row is None or row.state is AnchorState.WAITING
            if here.reached is not Reached.NOTHING or here.barred or not fresh:
                continue
            if self.name not in self._chosen(wanted.root):
                continue
            if not await self.signing.prepare():
                if not self.signing.deploying:
                    self._refused_at = self.link.clock.monotonic()
                return
            self._beginning.add(wanted.root)
            try:
                done = await self.signing.begin(wanted)
            finally:
                self._beginning.discard(wanted.root)
            if not done:
                self._refused_at = self.link.clock.monotonic()
                return
            slot = self.book.of_root(wanted.root)
            if slot is not None and slot.attempts:
                begun += 1
                await self.signing.send(slot)
