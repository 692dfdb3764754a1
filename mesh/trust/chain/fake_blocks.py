"""A chain in memory: blocks with real headers and tries, a pool, reorganisations. No waiting here.

It knows of accounts only their nonces and balances, and of contracts only the factory and the
registry.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput
from mesh.trust import evm
from mesh.trust.chain import registry
from mesh.trust.chain.protocol import Sent
from mesh.trust.chain.trie import EMPTY_ROOT, ListTrie

GWEI = 10**9
GAS_EVENT, GAS_INPUT, GAS_DEPLOY, GAS_OTHER = 22_776, 22_280, 72_000, 21_000
RICH = 10**21
FOREIGN = bytes(19) + b"\x99"
"""Where a transaction goes that is not ours."""


@dataclass(frozen=True, slots=True)
class FakeTx:
    hash: bytes
    raw: bytes
    sender: bytes
    nonce: int
    to: bytes
    data: bytes
    gas: int
    max_fee: int
    tip: int


@dataclass(frozen=True, slots=True)
class FakeBlock:
    number: int
    hash: bytes
    header: bytes
    time_s: int
    base_fee: int
    txs: tuple[FakeTx, ...] = ()
    receipts: tuple[bytes, ...] = ()
    logs: tuple[bytes | None, ...] = ()
    """Root that each transaction has logged."""
    used: tuple[int, ...] = ()


def sender_of_fake(raw: bytes) -> bytes:
    """Of a transaction that ``FakeWallet`` signed: its address stands where a signature would."""
    fields = evm.as_list(evm.decode(raw[1:]), 12, "a transaction")
    return evm.as_bytes(fields[10], None, "r")[-20:].rjust(20, b"\x00")


@dataclass
class FakeBlocks:
    """``final_blocks``: so many on top of a block make it final."""

    chain_id: int
    rng: random.Random
    final_blocks: int = 4
    base_fee: int = GWEI
    """Of the next block: the market."""
    sender_of: Callable[[bytes], bytes] = sender_of_fake
    factory: bool = True
    room: int = 100
    """Transactions of one block."""
    now: Callable[[], float] = lambda: 0.0
    blocks: list[FakeBlock] = field(default_factory=list)
    pool: dict[tuple[bytes, int], FakeTx] = field(default_factory=dict)
    funds: dict[bytes, int] = field(default_factory=dict)
    """Given to an account in all; others are rich."""
    finalized: int = 0
    reorganised: int = 0
    _salt: int = 0

    def __post_init__(self) -> None:
        self._append(())

    @property
    def head(self) -> FakeBlock:
        return self.blocks[-1]

    def nonce(self, address: bytes, height: int | None = None) -> int:
        """Transactions of the account up to a block (the newest: None)."""
        return sum(1 for _, tx in self.mined(height) if tx.sender == address)

    def mined(self, height: int | None = None) -> Iterator[tuple[FakeBlock, FakeTx]]:
        for block in self.blocks[: None if height is None else height + 1]:
            for tx in block.txs:
                yield block, tx

    def balance(self, address: bytes) -> int:
        spent = sum(
            used * _price(tx, block)
            for block in self.blocks
            for tx, used in zip(block.txs, block.used, strict=True)
            if tx.sender == address
        )
        return self.funds.get(address, RICH) - spent

    def code(self, address: bytes, height: int | None = None) -> bytes:
        if address == registry.FACTORY:
            return b"\x60" if self.factory else b""
        deployed = address == registry.ADDRESS and any(
            tx.to == registry.FACTORY for _, tx in self.mined(height)
        )
        return registry.RUNTIME_CODE if deployed and self.factory else b""

    def add(self, raw: bytes) -> tuple[Sent, bytes]:
        """Into the pool. What is said, and the hash."""
        tx = self.read(raw)
        if any(mined.hash == tx.hash for _, mined in self.mined()):
            return Sent.KNOWN, tx.hash
        if tx.nonce < self.nonce(tx.sender):
            return Sent.NONCE_TOO_LOW, tx.hash
        there = self.pool.get((tx.sender, tx.nonce))
        if there is not None:
            if there.hash == tx.hash:
                return Sent.KNOWN, tx.hash
            enough = 10 * tx.max_fee >= 11 * there.max_fee and 10 * tx.tip >= 11 * there.tip
            if not enough:
                return Sent.UNDERPRICED, tx.hash
        if self.balance(tx.sender) < tx.gas * tx.max_fee:
            return Sent.UNFUNDED, tx.hash
        self.pool[tx.sender, tx.nonce] = tx
        return Sent.ACCEPTED, tx.hash

    def read(self, raw: bytes) -> FakeTx:
        """Raises InvalidInput for what is no transaction of type 2 for this chain."""
        if raw[:1] != b"\x02":
            raise InvalidInput("only transactions of type 2 are known here")
        fields = evm.as_list(evm.decode(raw[1:]), 12, "a transaction")
        chain_id, nonce, tip, max_fee, gas, to, _, data = (
            evm.as_bytes(field, None, "a field") for field in fields[:8]
        )
        if int.from_bytes(chain_id, "big") != self.chain_id:
            raise InvalidInput("the transaction is of another chain")
        numbers = [int.from_bytes(part, "big") for part in (nonce, gas, max_fee, tip)]
        return FakeTx(keccak(raw), raw, self.sender_of(raw), numbers[0], to, data, *numbers[1:])

    def mine(self, *, empty: bool = False) -> FakeBlock:
        """One more block, with what the pool has at the market's price."""
        taken: list[FakeTx] = []
        if not empty:
            for tx in sorted(self.pool.values(), key=lambda t: (t.sender, t.nonce)):
                due = self.nonce(tx.sender) + sum(one.sender == tx.sender for one in taken)
                if len(taken) < self.room and tx.nonce == due and tx.max_fee >= self.base_fee:
                    taken.append(tx)
        block = self._append(tuple(taken))
        for tx in taken:
            self.pool.pop((tx.sender, tx.nonce), None)
        for key in [k for k in self.pool if k[1] < self.nonce(k[0])]:
            del self.pool[key]
        return block

    def reorganise(self, depth: int, keep: float, longer: int = 1) -> int:
        """Drop blocks (never final ones), then make as many and ``longer`` more. Each dropped
        transaction goes back to the pool with the probability ``keep``. How many were dropped."""
        depth = min(depth, len(self.blocks) - 1 - self.finalized)
        if depth <= 0:
            return 0
        dropped = self.blocks[-depth:]
        del self.blocks[-depth:]
        for block in dropped:
            for tx in block.txs:
                if self.rng.random() < keep:
                    self.pool.setdefault((tx.sender, tx.nonce), tx)
        self.reorganised += 1
        for _ in range(depth + longer):
            self.mine(empty=self.rng.random() < 0.5)
        return depth

    def rewind(self, height: int) -> None:
        """As a development node that lost its newest blocks, final ones too, and its pool."""
        del self.blocks[height + 1 :]
        self.finalized = min(self.finalized, height)
        self.pool.clear()

    def steal(self, address: bytes) -> None:
        """A foreign transaction takes the account's next nonce."""
        nonce = self.nonce(address)
        raw = b"\x02" + evm.encode(
            [
                *map(evm.number_bytes, (self.chain_id, nonce, GWEI, 900 * GWEI, GAS_OTHER)),
                *(FOREIGN, b"", self.rng.randbytes(4), [], b"", address, b"\x01"),
            ]
        )
        self.pool[address, nonce] = FakeTx(
            keccak(raw), raw, address, nonce, FOREIGN, b"", GAS_OTHER, 900 * GWEI, GWEI
        )

    def _append(self, txs: tuple[FakeTx, ...]) -> FakeBlock:
        number = len(self.blocks)
        has_registry = bool(self.blocks) and bool(self.code(registry.ADDRESS))
        receipts, logs, used, total = [], [], [], 0
        for tx in txs:
            root = None
            if tx.to == registry.ADDRESS and has_registry and tx.data[:4] == registry.SELECTOR:
                root = tx.data[4:]
            gas = _gas(tx)
            total += gas
            log: list[evm.Rlp] = []
            if root is not None:
                log = [[registry.ADDRESS, [registry.TOPIC, root], b""]]
            body: list[evm.Rlp] = [b"\x01", evm.number_bytes(total), bytes(256), log]
            receipts.append(b"\x02" + evm.encode(body))
            logs.append(root)
            used.append(gas)
            has_registry = has_registry or (tx.to == registry.FACTORY and self.factory)
        self._salt += 1
        time_s = int(self.now())
        roots = [ListTrie([tx.raw for tx in txs]).root, ListTrie(receipts).root]
        parent = self.blocks[-1].hash if self.blocks else bytes(32)
        header = evm.encode(
            [
                *(parent, bytes(32), bytes(20), EMPTY_ROOT, *roots, bytes(256)),
                *map(evm.number_bytes, (0, number, 30_000_000, total, time_s)),
                *(evm.number_bytes(self._salt), bytes(32), bytes(8)),
                evm.number_bytes(self.base_fee),
            ]
        )
        block = FakeBlock(
            number,
            keccak(header),
            header,
            time_s,
            self.base_fee,
            txs,
            tuple(receipts),
            tuple(logs),
            tuple(used),
        )
        self.blocks.append(block)
        self.finalized = max(self.finalized, number - self.final_blocks)
        return block


def _gas(tx: FakeTx) -> int:
    if tx.to == registry.FACTORY:
        return GAS_DEPLOY
    if tx.to == registry.ADDRESS:
        return GAS_EVENT
    return GAS_INPUT if len(tx.data) == 32 else GAS_OTHER


def _price(tx: FakeTx, block: FakeBlock) -> int:
    return min(tx.max_fee, block.base_fee + tx.tip)


def fee_of(tx: FakeTx, block: FakeBlock) -> int:
    """What a mined transaction has cost, wei."""
    return block.used[block.txs.index(tx)] * _price(tx, block)
