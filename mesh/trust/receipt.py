"""The batch receipt (spec §6): where on which chain a root is. One for a million certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mesh.core.errors import InvalidInput
from mesh.trust import checkpoint, evm, jcs
from mesh.trust.fields import Members

TYPE = "maily-receipt"
VERSION = 1
MAX_ANCHORS = 16

Trust = Literal["pinned", "node", "quorum"]
Depth = Literal["unknown", "confirmed", "final"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """One transaction on one chain, with the proof that it is in the block."""

    chain_id: int
    method: Literal["event", "calldata"]
    header: bytes
    """The block header's RLP."""
    index: int
    """Of the transaction in its block."""
    proof: tuple[bytes, ...]
    """Merkle Patricia nodes from the header's root down."""
    contract: bytes | None = None
    """Of an event: 20 bytes."""
    log_index: int | None = None
    """Of an event: which log of the receipt."""

    def check(self, root: bytes) -> evm.Header:
        """The header of the block that has ``root``. Raises InvalidInput if it has not."""
        header = evm.Header.read(self.header)
        if self.method == "event":
            if self.contract is None or self.log_index is None:
                raise InvalidInput("an event has a contract and a log", {"field": "anchors"})
            value = evm.trie_value(header.receipts_root, self.index, self.proof)
            found = evm.event_root(value, self.log_index, self.contract)
        else:
            value = evm.trie_value(header.transactions_root, self.index, self.proof)
            found = evm.input_root(value)
        if found != root:
            raise InvalidInput("the chain has another root", {"field": "anchors"})
        return header

    def as_json(self) -> dict[str, Any]:
        return {
            "chainId": self.chain_id,
            "contract": self.contract.hex() if self.contract is not None else None,
            "header": self.header.hex(),
            "index": self.index,
            "logIndex": self.log_index,
            "method": self.method,
            "proof": [node.hex() for node in self.proof],
        }

    @classmethod
    def read(cls, value: Any) -> Anchor:
        members = Members(value, "anchors", "chainId contract header index logIndex method proof")
        method: Any = members.text("method", 8)
        is_event = method == "event"
        if method not in ("event", "calldata"):
            raise members.wrong("method", "is neither event nor calldata")
        if any((members[name] is not None) != is_event for name in ("contract", "logIndex")):
            raise members.wrong("method", "does not go with contract and logIndex")
        return cls(
            chain_id=members.number("chainId"),
            method=method,
            header=members.hex("header"),
            index=members.number("index", 2**32),
            proof=members.hexes("proof", evm.MAX_NODES),
            contract=members.optional("contract", lambda name: members.hex(name, 20)),
            log_index=members.optional("logIndex", lambda name: members.number(name, 2**16)),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """All anchors of a batch so far."""

    note: str
    anchors: tuple[Anchor, ...]

    @property
    def root(self) -> bytes:
        return checkpoint.read(self.note).checkpoint.root

    def to_json(self) -> bytes:
        anchors = [anchor.as_json() for anchor in self.anchors]
        return jcs.write(
            {"type": TYPE, "version": VERSION, "anchors": anchors, "checkpoint": self.note}
        )


def read_receipt(data: bytes) -> Receipt:
    """Raises InvalidInput that names the member."""
    members = Members(jcs.read(data), "", "anchors checkpoint type version")
    members.constant("type", TYPE)
    members.constant("version", VERSION)
    anchors = tuple(map(Anchor.read, members.items("anchors", MAX_ANCHORS)))
    receipt = Receipt(members.text("checkpoint", 32_768), anchors)
    checkpoint.read(receipt.note)
    return receipt


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a source says: this block is on the chain."""

    source: str
    chain_id: int
    block_hash: bytes
    final: bool
    """The source counts it as finalized."""


@dataclass(frozen=True)
class HeaderPolicy:
    """Whom to believe that a header is of the chain: the trust root, stated openly (spec §7.9).

    ``pinned``: hashes that the reader has of old, offline. ``node``: the own node alone.
    ``quorum``: ``need`` of the named ``sources``.
    """

    trust: Trust
    pinned: Mapping[int, frozenset[bytes]] = field(default_factory=dict)
    """Block hashes by chain id."""
    sources: frozenset[str] = frozenset()
    """Names that count; of ``node``: its one name."""
    need: int = 1
    """How many of the sources must say so."""
    sightings: tuple[Sighting, ...] = ()
    """What the sources said; a source counts once."""

    def __post_init__(self) -> None:
        limit = {"pinned": 1, "node": 1, "quorum": max(1, len(self.sources))}[self.trust]
        if not 1 <= self.need <= limit or (self.trust == "node" and len(self.sources) != 1):
            raise InvalidInput("the policy can't be met, or asks nobody", {"field": "headers"})

    def depth(self, chain_id: int, block_hash: bytes) -> Depth:
        """``confirmed``: on the chain as far as is known; ``final``: it will stay there."""
        if self.trust == "pinned":
            return "final" if block_hash in self.pinned.get(chain_id, ()) else "unknown"
        said = [
            item
            for item in self.sightings
            if item.source in self.sources
            and item.chain_id == chain_id
            and item.block_hash == block_hash
        ]
        if len({item.source for item in said if item.final}) >= self.need:
            return "final"
        return "confirmed" if len({item.source for item in said}) >= self.need else "unknown"
