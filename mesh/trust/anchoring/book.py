"""What the anchoring knows: the ledger's content in memory, changed only after it was written.

Roots and their rows are seen by all networks; the nonces of a network belong to its own loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mesh.contracts.networks import AnchorState
from mesh.trust.anchoring.records import AnchorRow, Attempt, Loaded, Step, WantedRoot
from mesh.trust.chain.protocol import Inclusion

IN_BLOCK = (AnchorState.SUBMITTED, AnchorState.CONFIRMED)


@dataclass(slots=True)
class Slot:
    """A nonce that the chain has not taken for good, and all transactions that may take it."""

    address: bytes
    nonce: int | None
    """None: somebody else's transaction has the root, no nonce of ours is at stake."""
    attempts: list[Attempt] = field(default_factory=list)
    """Oldest first; all but the last are superseded, yet any of them may be the one."""
    inclusion: Inclusion | None = None
    adopted: bytes | None = None
    """Root of an inclusion that is not one of our attempts."""
    heard: bool = False
    """The node has the last attempt, since it last came back."""
    sent_at: float = float("-inf")
    """Monotonic."""
    sent_head: int = 0
    """Number of the newest block then."""
    waits_since: float | None = None
    """Monotonic: since when no block has it, of what was sent."""
    gone_since: float | None = None
    """Monotonic: since when the chain is too short to have its block."""
    taken_at: tuple[int, bytes] | None = None
    """Block at which a foreign transaction was seen to have the nonce."""
    pressed: bool = False
    """The node said that the fee is too low."""

    @property
    def root(self) -> bytes | None:
        """What it shall carry; None: the registry's deployment."""
        if self.inclusion is not None:
            for attempt in self.attempts:
                if attempt.tx == self.inclusion.tx:
                    return attempt.root
            return self.adopted
        return self.attempts[-1].root if self.attempts else self.adopted

    @property
    def roots(self) -> set[bytes]:
        """All that any of its transactions carries."""
        carried = {attempt.root for attempt in self.attempts} | {self.adopted}
        return {root for root in carried if root is not None}

    @property
    def worst_wei(self) -> int:
        """What it has cost, or will at most."""
        if self.inclusion is not None:
            return self.inclusion.fee_wei if self.attempts else 0
        return max((a.gas * a.max_fee for a in self.attempts), default=0)

    def carries(self, root: bytes) -> bool:
        return root in self.roots


def _place(slot: Slot) -> tuple[bytes, int]:
    return slot.address, -1 if slot.nonce is None else slot.nonce


class NetworkBook:
    """The nonces of one network."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.slots: dict[tuple[bytes, int | None, bytes | None], Slot] = {}
        self._next: dict[bytes, int] = {}
        self._gaps: list[tuple[bytes, int, int]] = []
        """Address, first nonce and end of what was never given away below what was."""

    def load(self, loaded: Loaded) -> None:
        self.slots = {}
        self._next = {a: n for (name, a), n in loaded.next_nonces.items() if name == self.network}
        self._gaps = [
            (a, first, end) for name, a, first, end in loaded.gaps if name == self.network
        ]
        for attempt in loaded.attempts:
            if attempt.network == self.network:
                self._add(attempt)
        for row in loaded.anchors:
            if row.network == self.network and row.block_hash is not None:
                self._place(row)

    def _place(self, row: AnchorRow) -> None:
        """A row that says in which block a root is."""
        if row.state not in (*IN_BLOCK, AnchorState.FAILED):
            return
        assert row.tx is not None
        assert row.block_number is not None
        assert row.block_hash is not None
        inclusion = Inclusion(
            row.tx,
            row.block_number,
            row.block_hash,
            row.state is not AnchorState.FAILED,
            row.gas_used or 0,
            row.fee_wei or 0,
        )
        ours = next((s for s in self.slots.values() if s.carries(row.root)), None)
        if ours is None and row.state is not AnchorState.FAILED:
            self.adopt(row.root, inclusion)
        elif ours is not None:
            ours.inclusion = inclusion
            if all(attempt.tx != row.tx for attempt in ours.attempts):
                ours.adopted = row.root

    def _add(self, attempt: Attempt) -> Slot:
        key = (attempt.address, attempt.nonce, None)
        slot = self.slots.setdefault(key, Slot(attempt.address, attempt.nonce))
        slot.attempts.append(attempt)
        slot.heard = slot.pressed = False
        known = self._next.get(attempt.address, 0)
        if attempt.nonce > known:
            self._gaps.append((attempt.address, known, attempt.nonce))
        self._next[attempt.address] = max(known, attempt.nonce + 1)
        return slot

    def adopt(self, root: bytes, inclusion: Inclusion) -> Slot:
        slot = Slot(b"", None, inclusion=inclusion, adopted=root)
        self.slots[b"", None, root] = slot
        return slot

    def drop(self, slot: Slot) -> None:
        self.slots = {key: item for key, item in self.slots.items() if item is not slot}

    def next_nonce(self, address: bytes) -> int:
        """One more than the highest that was ever given away."""
        return self._next.get(address, 0)

    def missing(self, address: bytes, nonce: int) -> bool:
        """The chain waits for a nonce that was never given away, and we wait for a later one: a
        foreign transaction had it, and is not on the chain any more."""
        if any(slot.address == address and slot.nonce == nonce for slot in self.slots.values()):
            return False
        waits = any(
            slot.address == address and slot.nonce is not None and slot.nonce > nonce
            for slot in self.slots.values()
        )
        return waits and any(a == address and i <= nonce < j for a, i, j in self._gaps)

    def ordered(self) -> list[Slot]:
        """By account and nonce: the chain takes them in this order."""
        return sorted(
            self.slots.values(), key=lambda s: (s.address, -1 if s.nonce is None else s.nonce)
        )

    def of_root(self, root: bytes) -> Slot | None:
        return next((slot for slot in self.slots.values() if slot.carries(root)), None)

    def apply(self, step: Step) -> None:
        """What was written."""
        for attempt in step.attempts:
            self._add(attempt)
        for nonce in step.closed:
            self.slots.pop((nonce.address, nonce.nonce, None), None)


class Roots:
    """All roots that are not done with, and their rows on all networks."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.wanted: dict[bytes, WantedRoot] = {}
        self.settled: set[bytes] = set()
        self.writing = asyncio.Lock()
        """Held while the ledger is written or read anew, until the books say the same."""
        self._rows: dict[bytes, dict[str, AnchorRow]] = {}

    def load(self, loaded: Loaded) -> None:
        """What was read while nobody wrote."""
        self.add(loaded.roots)
        self.settled -= {root.root for root in loaded.roots} - loaded.settled
        self.settled |= loaded.settled
        for row in loaded.anchors:
            self._rows.setdefault(row.root, {})[row.network] = row

    def add(self, roots: Iterable[WantedRoot]) -> int:
        """Those that were not known; how many."""
        before = len(self.wanted)
        for root in roots:
            self.wanted.setdefault(root.root, root)
        return len(self.wanted) - before

    def row(self, root: bytes, network: str) -> AnchorRow | None:
        return self._rows.get(root, {}).get(network)

    def rows(self, root: bytes) -> dict[str, AnchorRow]:
        return self._rows.get(root, {})

    def apply(self, step: Step) -> None:
        for row in step.anchors:
            self._rows.setdefault(row.root, {})[row.network] = row
        self.settled.update(step.settled)

    def finals(self, root: bytes) -> int:
        return sum(row.state is AnchorState.FINAL for row in self.rows(root).values())

    def ripe(self) -> list[bytes]:
        """Final on enough networks, and not noted as such."""
        return [
            root
            for root in self.wanted
            if root not in self.settled and self.finals(root) >= self.needed
        ]

    def is_open(self, root: bytes) -> bool:
        return root in self.wanted and root not in self.settled

    def unsettled(self) -> Iterator[WantedRoot]:
        """In the order in which they came."""
        return (item for root, item in self.wanted.items() if root not in self.settled)

    def forget(self, keep: Iterable[bytes]) -> None:
        """Drop what is settled, but for ``keep``: their transactions are not through yet."""
        kept = set(keep)
        for root in [r for r in self.settled if r not in kept]:
            self.wanted.pop(root, None)
            self._rows.pop(root, None)
            self.settled.discard(root)
