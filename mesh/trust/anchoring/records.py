"""What the ledger holds: roots, transactions, nonces and how far a root is on each network."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from mesh.contracts.networks import AnchorState, AnchorView
from mesh.trust.receipt import Anchor

MOST = 2**63 - 1
"""What is shown of an amount (wei): JSON is read with 64 bits. That much or more."""


@dataclass(frozen=True, slots=True)
class WantedRoot:
    """A root that shall be on networks."""

    root: bytes
    batch_id: UUID
    workspace_id: UUID
    wanted_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A signed transaction. Replacements share network, address and nonce."""

    tx: bytes
    network: str
    address: bytes
    nonce: int
    root: bytes | None
    """None: it deploys the registry, or fills a gap."""
    raw: bytes
    gas: int
    max_fee: int
    """Wei per gas, as with ``tip``."""
    tip: int
    signed_at: float
    sent_at: float | None = None
    """When a node took it last; None: it may or may not have got out."""


@dataclass(frozen=True, slots=True)
class AnchorRow:
    """A root on a network."""

    root: bytes
    network: str
    chain_id: int
    state: AnchorState
    at: float
    tx: bytes | None = None
    block_number: int | None = None
    block_hash: bytes | None = None
    confirmations: int = 0
    gas_used: int | None = None
    fee_wei: int | None = None
    proof: Anchor | None = None
    """Header and path, from ``confirmed`` on."""
    reason: str | None = None

    def view(self) -> AnchorView:
        return AnchorView(
            network=self.network,
            chain_id=self.chain_id,
            state=self.state,
            tx=None if self.tx is None else f"0x{self.tx.hex()}",
            block_number=self.block_number,
            block_hash=None if self.block_hash is None else f"0x{self.block_hash.hex()}",
            confirmations=self.confirmations,
            gas_used=self.gas_used,
            fee_wei=None if self.fee_wei is None else min(self.fee_wei, MOST),
            at=datetime.fromtimestamp(self.at, UTC),
            reason=self.reason,
        )


@dataclass(frozen=True, slots=True)
class ClosedNonce:
    """A nonce that the chain has taken for good."""

    network: str
    address: bytes
    nonce: int
    at: float
    tx: bytes | None
    """Which of ours; None: somebody else's with our key."""
    fee_wei: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What is written in one transaction."""

    attempts: tuple[Attempt, ...] = ()
    """New ones, not sent yet."""
    sent: tuple[tuple[bytes, float], ...] = ()
    """Transactions that a node took, and when."""
    anchors: tuple[AnchorRow, ...] = ()
    """Their new state."""
    closed: tuple[ClosedNonce, ...] = ()
    settled: tuple[bytes, ...] = ()
    """Roots that are final on as many networks as were needed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that is not settled, or has a nonce that is not closed."""

    roots: tuple[WantedRoot, ...] = ()
    settled: frozenset[bytes] = frozenset()
    """Those of ``roots`` that are."""
    anchors: tuple[AnchorRow, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """Of open nonces, oldest first."""
    next_nonces: dict[tuple[str, bytes], int] = field(default_factory=dict)
    """By network and address: one more than the highest that was ever given away."""
    gaps: tuple[tuple[str, bytes, int, int], ...] = ()
    """Network, address, first nonce and end of those below that never were."""


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of the outbox."""

    id: int
    root: bytes
    batch_id: UUID
    workspace_id: UUID
    anchor: AnchorView
