"""The account that pays: a key, and EIP-1559 transactions signed with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from eth_account import Account
from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A transaction of type 2 without value."""

    chain_id: int
    nonce: int
    to: bytes
    data: bytes
    gas: int
    max_fee: int
    """Wei per gas, as with ``tip``."""
    tip: int


@dataclass(frozen=True, slots=True)
class Signed:
    tx: bytes
    """Its hash."""
    raw: bytes


class Wallet(Protocol):
    @property
    def address(self) -> bytes: ...

    async def sign(self, unsigned: Unsigned) -> Signed:
        """The same bytes for the same input (RFC 6979)."""
        ...


class KeyWallet:
    """Of a private key: 32 bytes."""

    def __init__(self, key: bytes) -> None:
        try:
            self._account = Account.from_key(key)
        except ValueError as error:
            raise InvalidInput("no private key: 32 bytes in hex are one", {"field": "key"}) from (
                None if error.args else error
            )
        self.address = bytes.fromhex(self._account.address[2:])

    @classmethod
    def of_hex(cls, text: str) -> KeyWallet:
        """Raises InvalidInput, without the text."""
        try:
            key = bytes.fromhex(text.strip().removeprefix("0x"))
        except ValueError:
            key = b""
        if len(key) != 32:
            raise InvalidInput("no private key: 32 bytes in hex are one", {"field": "key"})
        return cls(key)

    async def sign(self, unsigned: Unsigned) -> Signed:
        return await asyncio.to_thread(self._sign, unsigned)  # milliseconds of plain Python

    def _sign(self, unsigned: Unsigned) -> Signed:
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": unsigned.chain_id,
                "nonce": unsigned.nonce,
                "to": unsigned.to,
                "value": 0,
                "data": unsigned.data,
                "gas": unsigned.gas,
                "maxFeePerGas": unsigned.max_fee,
                "maxPriorityFeePerGas": unsigned.tip,
                "accessList": [],
            }
        )
        raw = bytes(signed.raw_transaction)
        return Signed(keccak(raw), raw)
