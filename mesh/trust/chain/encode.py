"""Headers, receipts and transactions: from a node's JSON back to the bytes that are hashed.

Whoever uses these compares the hash with what the chain says: a form that we don't know is found
out there, never believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput, Unavailable
from mesh.trust.evm import Rlp, encode, number_bytes


def _names(text: str) -> tuple[str, ...]:
    """Fields of the JSON in the order of the RLP; ``#``: a number."""
    return tuple(text.split())


_HEADER = _names(
    "parentHash sha3Uncles miner stateRoot transactionsRoot receiptsRoot logsBloom #difficulty "
    "#number #gasLimit #gasUsed #timestamp extraData mixHash nonce"
)
_HEADER_LATER = _names(  # in the order in which forks added them: London, Shanghai, Cancun …
    "#baseFeePerGas withdrawalsRoot #blobGasUsed #excessBlobGas parentBeaconBlockRoot "
    "requestsHash blockAccessListHash #slotNumber"
)
_PRICED = "#chainId #nonce #maxPriorityFeePerGas #maxFeePerGas #gas to #value input accessList"
_TRANSACTIONS = {
    0: _names("#nonce #gasPrice #gas to #value input #v #r #s"),
    1: _names("#chainId #nonce #gasPrice #gas to #value input accessList #yParity #r #s"),
    2: _names(f"{_PRICED} #yParity #r #s"),
    3: _names(f"{_PRICED} #maxFeePerBlobGas blobVersionedHashes #yParity #r #s"),
    4: _names(f"{_PRICED} authorizationList #yParity #r #s"),
}
_DEPOSITED = _names("sourceHash from to #mint #value #gas isSystemTx input")
_DEPOSIT = 0x7E
"""Of chains built on the OP stack: unsigned, made by the bridge."""


def data(value: Any) -> bytes:
    """``0x…`` as bytes; nothing is empty."""
    if value is None:
        return b""
    try:
        return bytes.fromhex(_text(value))
    except ValueError as error:
        raise Unavailable("the node gave no hex string") from error


def number(value: Any) -> int:
    """A quantity: ``0x…``, or (of some nodes) a plain number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(_text(value) or "0", 16)
    except ValueError as error:
        raise Unavailable("the node gave no number") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or value[:2] not in ("0x", "0X"):
        raise Unavailable("the node gave no hex string")
    return value[2:]


def header_rlp(block: Mapping[str, Any]) -> bytes:
    """The bytes that hash to the block's hash. Raises InvalidInput if none do."""
    wanted = data(block.get("hash"))
    fields: list[Rlp] = [_field(block, name) for name in _HEADER]
    forms = [encode(fields)]
    for name in _HEADER_LATER:
        if block.get(name.lstrip("#")) is not None:
            fields.append(_field(block, name))
            forms.append(encode(fields))
    # The longest first; a node may also tell of fields that are not in its headers.
    for form in reversed(forms):
        if keccak(form) == wanted:
            return form
    raise InvalidInput(
        "the block's header has a form that we don't know", {"block": f"0x{wanted.hex()}"}
    )


def receipt_bytes(receipt: Mapping[str, Any]) -> bytes:
    """A receipt as the trie has it."""
    kind = number(receipt.get("type", "0x0"))
    status = receipt.get("status")
    body: list[Rlp] = [
        data(receipt.get("root")) if status is None else number_bytes(number(status)),
        number_bytes(number(receipt["cumulativeGasUsed"])),
        data(receipt["logsBloom"]),
        [
            [data(log["address"]), [data(topic) for topic in log["topics"]], data(log["data"])]
            for log in receipt["logs"]
        ],
    ]
    if kind == _DEPOSIT:
        later = ("depositNonce", "depositReceiptVersion")
        body += [number_bytes(number(receipt[n])) for n in later if receipt.get(n) is not None]
    return _typed(kind, body)


def transaction_bytes(transaction: Mapping[str, Any]) -> bytes:
    """A transaction as the trie has it. Raises InvalidInput for a type that we don't know."""
    kind = number(transaction.get("type", "0x0"))
    if kind == _DEPOSIT:
        return _typed(kind, [_field(transaction, name) for name in _DEPOSITED])
    names = _TRANSACTIONS.get(kind)
    if names is None:
        raise InvalidInput(f"transactions of type {kind} are not known")
    known = dict(transaction)
    if kind and known.get("yParity") is None:
        known["yParity"] = known.get("v")  # of nodes from before it had a name
    return _typed(kind, [_field(known, name) for name in names])


def _typed(kind: int, body: Sequence[Rlp]) -> bytes:
    return (bytes([kind]) if kind else b"") + encode([*body])


def _field(source: Mapping[str, Any], name: str) -> Rlp:
    if name.startswith("#"):
        value = source.get(name[1:])
        return b"" if value is None else number_bytes(number(value))
    value = source.get(name)
    if name == "accessList":
        return [
            [data(entry["address"]), [data(key) for key in entry["storageKeys"]]]
            for entry in value or ()
        ]
    if name == "authorizationList":
        return [
            [
                number_bytes(number(entry["chainId"])),
                data(entry["address"]),
                *(number_bytes(number(entry[part])) for part in ("nonce", "yParity", "r", "s")),
            ]
            for entry in value or ()
        ]
    if name == "blobVersionedHashes":
        return [data(item) for item in value or ()]
    if name == "isSystemTx":
        return b"\x01" if value else b""
    return data(value)
