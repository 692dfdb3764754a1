"""What of Ethereum a verifier needs: RLP, Merkle Patricia proofs, headers, logs and inputs.

Strict and small on purpose: every byte here is an attacker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput

Rlp = bytes | list["Rlp"]

MAX_DEPTH = 16
MAX_NODES = 64
ANCHORED = keccak(b"Anchored(bytes32)")
"""First topic of the registry's event; the second is the root."""

_INPUT_AT = {0: 5, 1: 6, 2: 7}
"""Where a transaction's input stands among its fields, by type (EIP-2718, 2930, 1559)."""


def decode(data: bytes) -> Rlp:
    """The one item that ``data`` is. Raises InvalidInput for all but canonical RLP."""
    item, end = _item(data, 0, 0)
    if end != len(data):
        raise _wrong("bytes follow the item")
    return item


def _item(data: bytes, at: int, depth: int) -> tuple[Rlp, int]:
    if at >= len(data) or depth > MAX_DEPTH:
        raise _wrong("an item is cut off or too deep")
    first = data[at]
    if first < 0x80:
        return data[at : at + 1], at + 1
    is_list = first >= 0xC0
    short = first - (0xC0 if is_list else 0x80)
    start, length = at + 1, short
    if short > 55:
        start = at + 1 + short - 55
        size = data[at + 1 : start]
        length = int.from_bytes(size, "big")
        if len(size) != short - 55 or size[0] == 0 or length <= 55:
            raise _wrong("a length is not canonical")
    end = start + length
    if end > len(data):
        raise _wrong("an item is cut off")
    if not is_list:
        if length == 1 and data[start] < 0x80:
            raise _wrong("a byte is not canonical")
        return data[start:end], end
    items: list[Rlp] = []
    while start < end:
        item, start = _item(data, start, depth + 1)
        items.append(item)
    if start != end:
        raise _wrong("an item reaches over its list")
    return items, end


def encode(item: Rlp) -> bytes:
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(0x80, len(item)) + item
    body = b"".join(map(encode, item))
    return _prefix(0xC0, len(body)) + body


def _prefix(base: int, length: int) -> bytes:
    if length <= 55:
        return bytes([base + length])
    size = number_bytes(length)
    return bytes([base + 55 + len(size)]) + size


def number_bytes(number: int) -> bytes:
    """Big-endian without leading zeros; 0 is empty."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def as_list(item: Rlp, least: int, what: str) -> list[Rlp]:
    if isinstance(item, bytes) or len(item) < least:
        raise _wrong(f"{what} is no list of {least}")
    return item


def as_bytes(item: Rlp, size: int | None, what: str) -> bytes:
    if not isinstance(item, bytes) or (size is not None and len(item) != size):
        raise _wrong(f"{what} is not of its length")
    return item


@dataclass(frozen=True, slots=True)
class Header:
    """A block's header, of those fields that we need."""

    hash: bytes
    number: int
    time_s: int
    transactions_root: bytes
    receipts_root: bytes

    @classmethod
    def read(cls, data: bytes) -> Header:
        """Raises InvalidInput."""
        fields = as_list(decode(data), 15, "a header")
        return cls(
            hash=keccak(data),
            number=_small(fields[8], "a number"),
            time_s=_small(fields[11], "a time"),
            transactions_root=as_bytes(fields[4], 32, "a root"),
            receipts_root=as_bytes(fields[5], 32, "a root"),
        )


def _small(item: Rlp, what: str) -> int:
    data = as_bytes(item, None, what)
    if len(data) > 8 or data[:1] == b"\x00":
        raise _wrong(f"{what} is no number")
    return int.from_bytes(data, "big")


def trie_value(root: bytes, index: int, proof: Sequence[bytes]) -> bytes:
    """The value at ``RLP(index)`` under ``root``. Raises InvalidInput unless it is proven.

    Every node must be used: what is not needed for a proof has no business in one.
    """
    if len(proof) > MAX_NODES:
        raise _wrong("a proof has too many nodes")
    key = _nibbles(encode(number_bytes(index)))
    left = list(proof)
    node: Rlp = root
    while True:
        if isinstance(node, bytes):
            if len(node) != 32 or not left or keccak(left[0]) != node:
                raise _wrong("a node of the proof is not the one that is referred to")
            node = decode(left.pop(0))
        fields = as_list(node, 2, "a node")
        if len(fields) == 17:
            if not key:
                return _end(fields[16], left)
            node, key = fields[key[0]], key[1:]
            continue
        if len(fields) != 2:
            raise _wrong("a node has neither 2 nor 17 fields")
        path = _nibbles(as_bytes(fields[0], None, "a path"))
        if not path or path[0] > 3 or (not path[0] & 1 and path[1] != 0):
            raise _wrong("a path's flag is unknown")
        tail = path[1:] if path[0] & 1 else path[2:]
        if key[: len(tail)] != tail:
            raise _wrong("the proof leads to another key")
        key = key[len(tail) :]
        if path[0] & 2:
            if key:
                raise _wrong("the proof ends before the key")
            return _end(fields[1], left)
        node = fields[1]


def _end(value: Rlp, left: list[bytes]) -> bytes:
    data = as_bytes(value, None, "a value")
    if not data or left:
        raise _wrong("the proof shows nothing, or more than it needs")
    return data


def _nibbles(data: bytes) -> list[int]:
    return [half for byte in data for half in (byte >> 4, byte & 15)]


def event_root(receipt: bytes, log_index: int, contract: bytes) -> bytes:
    """The root that a log of ``contract`` announces. Raises InvalidInput."""
    body = receipt[1:] if receipt[:1] < b"\x80" else receipt
    status, _, _, logs = as_list(decode(body), 4, "a receipt")[:4]
    if status != b"\x01":
        raise _wrong("the transaction failed")
    entries = as_list(logs, log_index + 1, "the logs")
    address, topics, _ = as_list(entries[log_index], 3, "a log")[:3]
    if address != contract:
        raise _wrong("the log is another contract's")
    names = as_list(topics, 2, "topics")
    if len(names) != 2 or names[0] != ANCHORED:
        raise _wrong("the log is another event's")
    return as_bytes(names[1], 32, "a root")


def input_root(transaction: bytes) -> bytes:
    """The root that is a transaction's whole input. Raises InvalidInput."""
    kind = transaction[0] if transaction[:1] < b"\x80" else 0
    at = _INPUT_AT.get(kind)
    if at is None or (kind == 0 and transaction[:1] < b"\x80"):
        raise _wrong(f"transactions of type {kind} are not read")
    fields = as_list(decode(transaction[1:] if kind else transaction), at + 1, "a transaction")
    return as_bytes(fields[at], 32, "a root")


def _wrong(why: str) -> InvalidInput:
    return InvalidInput(f"no proof: {why}", {"field": "anchors"})
