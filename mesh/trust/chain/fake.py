"""A chain that does what real ones do on bad days, in virtual time: for tests and simulations.

It is held to the same conformance suite as ``EvmChain``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from eth_hash.auto import keccak

from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded, NotFound, Unavailable
from mesh.trust import evm
from mesh.trust.chain.fake_blocks import RICH, FakeBlock, FakeBlocks, FakeTx, fee_of
from mesh.trust.chain.protocol import Call, Head, Inclusion, Market, SendResult
from mesh.trust.chain.prove import by_event, by_input
from mesh.trust.chain.wallet import Signed, Unsigned
from mesh.trust.receipt import Anchor

T = TypeVar("T")


@dataclass
class Faults:
    """What goes wrong, as probabilities of a call unless said otherwise."""

    refused: float = 0.0
    """It never arrives."""
    lost: float = 0.0
    """It arrives, its answer does not."""
    lags: float = 0.0
    """Another node answers, some blocks behind."""
    lag_blocks: int = 2
    latency_s: float = 0.0
    """Of each call, at most."""
    down: bool = False
    """Nothing arrives."""


class FakeChain:
    """``blocks`` is the world: it outlives its users, and a test may change it at any time."""

    def __init__(
        self,
        blocks: FakeBlocks,
        clock: Clock,
        rng: random.Random,
        *,
        faults: Faults | None = None,
        automine: bool = False,
        development: bool = False,
    ) -> None:
        self.blocks = blocks
        self.faults = faults or Faults()
        self._clock = clock
        self._rng = rng
        self._automine = automine
        self._development = development
        self.calls = 0

    async def chain_id(self) -> int:
        await self._arrives()
        return await self._answer(self.blocks.chain_id)

    async def genesis(self) -> bytes:
        await self._arrives()
        return await self._answer(self.blocks.blocks[0].hash)

    async def head(self) -> Head:
        view = await self._arrives()
        block = self.blocks.blocks[view]
        safe = max(0, view - self.blocks.final_blocks // 2)
        final = min(self.blocks.finalized, view)
        return await self._answer(Head(view, block.hash, block.time_s, block.base_fee, safe, final))

    async def nonce(self, address: bytes) -> int:
        view = await self._arrives()
        return await self._answer(self.blocks.nonce(address, view))

    async def balance(self, address: bytes) -> int:
        await self._arrives()
        return await self._answer(self.blocks.balance(address))

    async def code(self, address: bytes) -> bytes:
        view = await self._arrives()
        return await self._answer(self.blocks.code(address, view))

    async def market(self) -> Market:
        await self._arrives()
        return await self._answer(Market(self.blocks.base_fee, self.blocks.base_fee // 20))

    async def estimate(self, call: Call) -> int:
        await self._arrives()
        return await self._answer(24_000 if len(call.data) < 100 else 73_000)

    async def send(self, raw: bytes) -> SendResult:
        await self._arrives()
        outcome, _ = self.blocks.add(raw)
        if self._automine:
            self.blocks.mine()
        return await self._answer(SendResult(outcome, outcome.value))

    async def find(self, txs: Sequence[bytes]) -> Inclusion | None:
        view = await self._arrives()
        found = {tx.hash: (block, tx) for block, tx in self.blocks.mined(view)}
        hit = next((found[tx] for tx in txs if tx in found), None)
        return await self._answer(None if hit is None else _inclusion(*hit))

    async def block_hash(self, number: int) -> bytes | None:
        view = await self._arrives()
        there = number <= view
        return await self._answer(self.blocks.blocks[number].hash if there else None)

    async def announced(self, contract: bytes, root: bytes, first: int) -> Inclusion | None:
        view = await self._arrives()
        hit = next(
            (
                _inclusion(block, tx)
                for block in self.blocks.blocks[first : view + 1]
                for tx, log in zip(block.txs, block.logs, strict=True)
                if log == root and tx.to == contract
            ),
            None,
        )
        return await self._answer(hit)

    async def prove(self, inclusion: Inclusion, root: bytes, contract: bytes | None) -> Anchor:
        await self._arrives()
        block = next((b for b in self.blocks.blocks if b.hash == inclusion.block_hash), None)
        names = [] if block is None else [tx.hash for tx in block.txs]
        if block is None or inclusion.tx not in names:
            raise NotFound("The block is gone.")
        index, chain_id = names.index(inclusion.tx), self.blocks.chain_id
        if contract is None:
            raws = [tx.raw for tx in block.txs]
            return await self._answer(by_input(chain_id, block.header, raws, index, root))
        receipts = block.receipts
        return await self._answer(by_event(chain_id, block.header, receipts, index, root, contract))

    async def make_block(self) -> None:
        await self._arrives()
        if self._development:
            self.blocks.mine()
        await self._answer(None)

    async def fund(self, address: bytes, wei: int) -> None:
        await self._arrives()
        if self._development:
            spent = self.blocks.funds.get(address, RICH) - self.blocks.balance(address)
            self.blocks.funds[address] = spent + wei
        await self._answer(None)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _arrives(self) -> int:
        """Raises Unavailable, else gives the newest block that this call can see."""
        self.calls += 1
        await self._clock.sleep(self.faults.latency_s * self._rng.random() / 2)
        if self.faults.down or self._rng.random() < self.faults.refused:
            raise Unavailable("The fake node can't be reached.")
        view = self.blocks.head.number
        if self._rng.random() < self.faults.lags:
            view = max(0, view - self._rng.randint(1, self.faults.lag_blocks))
        return view

    async def _answer(self, value: T) -> T:
        await self._clock.sleep(self.faults.latency_s * self._rng.random() / 2)
        if self.faults.down or self._rng.random() < self.faults.lost:
            raise DeadlineExceeded("The fake node's answer got lost.")
        return value


def _inclusion(block: FakeBlock, tx: FakeTx) -> Inclusion:
    used = block.used[block.txs.index(tx)]
    return Inclusion(tx.hash, block.number, block.hash, True, used, fee_of(tx, block))


class FakeWallet:
    """Signs at once, and nothing at all: its address stands where the signature would."""

    def __init__(self, address: bytes) -> None:
        self.address = address

    async def sign(self, unsigned: Unsigned) -> Signed:
        numbers = (unsigned.chain_id, unsigned.nonce, unsigned.tip, unsigned.max_fee, unsigned.gas)
        raw = b"\x02" + evm.encode(
            [
                *map(evm.number_bytes, numbers),
                *(unsigned.to, b"", unsigned.data, [], b"", self.address, b"\x01"),
            ]
        )
        return Signed(keccak(raw), raw)
