"""What the anchoring asks of a chain. ``EvmChain`` is the real thing, ``FakeChain`` the fake.

Every call has a deadline of its own and raises Unavailable or DeadlineExceeded when the node can't
be reached or answers nonsense; a call that was cancelled or failed may have had its effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from mesh.trust.receipt import Anchor

Method = Literal["event", "calldata"]


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block, and how far down it is safe."""

    number: int
    hash: bytes
    time_s: int
    base_fee: int
    """Wei per gas, of the newest block."""
    safe: int | None = None
    """Number of the newest block that is ``safe``; None: the node does not say."""
    finalized: int | None = None


@dataclass(frozen=True, slots=True)
class Market:
    """What the next block will likely cost."""

    base_fee: int
    """Wei per gas, of the next block."""
    tip: int
    """Wei per gas that was usual of late."""


class Sent(StrEnum):
    """What a node said to a transaction."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    """It has this very transaction already, waiting or in a block."""
    NONCE_TOO_LOW = "nonce_too_low"
    """A block has another one, or this one, with its nonce."""
    UNDERPRICED = "underpriced"
    """The fee is too low, for the block or to replace what waits with its nonce."""
    UNFUNDED = "unfunded"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class SendResult:
    outcome: Sent
    reason: str = ""
    """The node's words."""


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A transaction in a block, as the node sees it now."""

    tx: bytes
    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    fee_wei: int
    """All that the account paid for it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction that is to be priced."""

    sender: bytes
    to: bytes
    data: bytes


class Chain(Protocol):
    async def chain_id(self) -> int: ...

    async def genesis(self) -> bytes:
        """Hash of block 0: tells one chain from another of the same id."""
        ...

    async def head(self) -> Head: ...

    async def nonce(self, address: bytes) -> int:
        """Transactions of the account in blocks so far."""
        ...

    async def balance(self, address: bytes) -> int: ...

    async def code(self, address: bytes) -> bytes: ...

    async def market(self) -> Market: ...

    async def estimate(self, call: Call) -> int:
        """Gas. Raises InvalidInput if it would fail."""
        ...

    async def send(self, raw: bytes) -> SendResult: ...

    async def find(self, txs: Sequence[bytes]) -> Inclusion | None:
        """The first of these transactions that is in a block."""
        ...

    async def block_hash(self, number: int) -> bytes | None:
        """Of the chain as it is now; None: it is not so long."""
        ...

    async def announced(self, contract: bytes, root: bytes, first: int) -> Inclusion | None:
        """The oldest transaction since block ``first`` in which the registry has logged the
        root, whoever sent it."""
        ...

    async def prove(self, inclusion: Inclusion, root: bytes, contract: bytes | None) -> Anchor:
        """Header and path; ``contract`` None: by the transaction's input. What is given back has
        passed ``Anchor.check(root)``. Raises NotFound: the block is gone, and InvalidInput: it
        does not show the root."""
        ...

    async def make_block(self) -> None:
        """Of a development node: one more block. Elsewhere nothing happens."""
        ...

    async def fund(self, address: bytes, wei: int) -> None:
        """Of a development node: money from nowhere. Elsewhere nothing happens."""
        ...

    async def aclose(self) -> None: ...
