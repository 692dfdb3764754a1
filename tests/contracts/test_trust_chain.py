"""One suite for every chain: the fake one, and the real one on the embedded node."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from eth_account import Account
from eth_hash.auto import keccak

from mesh.core.clock import SystemClock
from mesh.core.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from mesh.trust.chain import registry
from mesh.trust.chain.evm_chain import EvmChain
from mesh.trust.chain.fake import FakeChain, Faults
from mesh.trust.chain.fake_blocks import FakeBlocks
from mesh.trust.chain.protocol import Call, Chain, Inclusion, Sent
from mesh.trust.chain.wallet import KeyWallet, Signed, Unsigned
from tests.anvil import AnvilServer

GWEI = 10**9


@dataclass
class Ground:
    """A chain, and what only a test may do to it."""

    chain: Chain
    chain_id: int
    wallet: KeyWallet
    drop: Callable[[int], None]
    """So many of the newest blocks."""
    hold: Callable[[bool], None]
    """Whether transactions wait in the pool instead of getting a block at once."""

    async def deploy(self) -> None:
        if not registry.is_registry(await self.chain.code(registry.ADDRESS)):
            await self.send(registry.FACTORY, registry.deploy_data(), gas=200_000)

    async def signed(
        self, to: bytes, data: bytes, gas: int = 60_000, nonce: int | None = None, gwei: int = 50
    ) -> Signed:
        if nonce is None:
            nonce = await self.chain.nonce(self.wallet.address)
        return await self.wallet.sign(
            Unsigned(self.chain_id, nonce, to, data, gas, gwei * GWEI, gwei * GWEI // 10)
        )

    async def send(self, to: bytes, data: bytes, gas: int = 60_000) -> Inclusion:
        signed = await self.signed(to, data, gas)
        assert (await self.chain.send(signed.raw)).outcome is Sent.ACCEPTED
        return await self.found([signed.tx])

    async def found(self, hashes: list[bytes]) -> Inclusion:
        """A node answers when a transaction is in its pool; the block comes a moment later."""
        for _ in range(500):
            if found := await self.chain.find(hashes):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError("no block takes it")

    async def anchor(self, root: bytes) -> Inclusion:
        await self.deploy()
        return await self.send(registry.ADDRESS, registry.anchor_data(root))


@pytest.fixture(scope="module")
def anvil() -> Iterator[AnvilServer]:
    with AnvilServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session", params=["fake", "anvil"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    wallet = KeyWallet(os.urandom(32))
    if request.param == "fake":
        rng = random.Random(1)
        blocks = FakeBlocks(31_337, rng, sender_of=recover, now=time.time)
        chain = FakeChain(blocks, SystemClock(), rng, automine=True, development=True)

        def hold(on: bool) -> None:
            chain._automine = not on
            if not on:
                blocks.mine()

        ground = Ground(
            chain, 31_337, wallet, lambda n: blocks.rewind(blocks.head.number - n), hold
        )
        await ground.chain.fund(wallet.address, 10**18)
        yield ground
        return
    server: AnvilServer = request.getfixturevalue("anvil")
    real = EvmChain("local", server.url, development=True)

    def hold_real(on: bool) -> None:
        server.rpc("evm_setAutomine", not on)
        if not on:
            server.rpc("evm_mine")

    ground = Ground(real, 31_337, wallet, lambda n: server.rpc("anvil_rollback", n), hold_real)
    await real.fund(wallet.address, 10**18)
    yield ground
    server.rpc("evm_setAutomine", True)
    await real.aclose()


def recover(raw: bytes) -> bytes:
    return bytes.fromhex(str(Account.recover_transaction(raw))[2:])


async def test_what_a_chain_says_of_itself(ground: Ground) -> None:
    chain = ground.chain
    assert await chain.chain_id() == ground.chain_id
    assert await chain.genesis() == await chain.block_hash(0)
    for _ in range(6):
        await chain.make_block()
    head = await chain.head()
    assert await chain.block_hash(head.number) == head.hash
    assert await chain.block_hash(head.number + 1) is None
    assert head.safe == head.number - 2
    assert head.finalized == head.number - 4
    assert head.base_fee > 0
    assert head.time_s > 0
    market = await chain.market()
    assert market.base_fee > 0
    assert market.tip >= 0


async def test_accounts(ground: Ground) -> None:
    chain, address = ground.chain, ground.wallet.address
    assert await chain.nonce(address) == 0
    assert await chain.balance(address) == 10**18
    found = await ground.send(address, b"")
    assert await chain.nonce(address) == 1
    assert await chain.balance(address) == 10**18 - found.fee_wei
    assert found.gas_used == 21_000
    assert await chain.code(address) == b""
    assert await chain.code(registry.FACTORY)
    await chain.fund(address, 7)
    assert await chain.balance(address) == 7


async def test_an_event_is_found_and_proven(ground: Ground) -> None:
    root, chain = os.urandom(32), ground.chain
    found = await ground.anchor(root)
    assert found.succeeded
    assert found.gas_used <= 25_000
    assert await chain.block_hash(found.block_number) == found.block_hash
    assert await chain.announced(registry.ADDRESS, root, 0) == found
    assert await chain.announced(registry.ADDRESS, root, found.block_number + 1) is None
    assert await chain.announced(registry.ADDRESS, os.urandom(32), 0) is None
    anchor = await chain.prove(found, root, registry.ADDRESS)
    header = anchor.check(root)
    assert (header.hash, header.number) == (found.block_hash, found.block_number)
    assert (anchor.chain_id, anchor.method, anchor.contract) == (
        ground.chain_id,
        "event",
        registry.ADDRESS,
    )
    with pytest.raises(InvalidInput):
        await chain.prove(found, os.urandom(32), registry.ADDRESS)
    with pytest.raises(InvalidInput):
        await chain.prove(found, root, ground.wallet.address)


async def test_an_input_is_proven(ground: Ground) -> None:
    root, chain = os.urandom(32), ground.chain
    found = await ground.send(ground.wallet.address, root)
    assert found.gas_used <= 25_000
    anchor = await chain.prove(found, root, None)
    assert (anchor.method, anchor.check(root).hash) == ("calldata", found.block_hash)
    with pytest.raises(InvalidInput):
        await chain.prove(found, os.urandom(32), None)


async def test_many_of_one_block(ground: Ground) -> None:
    """Proofs out of a trie with branches."""
    await ground.deploy()
    roots = [os.urandom(32) for _ in range(20)]
    nonce = await ground.chain.nonce(ground.wallet.address)
    ground.hold(True)
    hashes = []
    for at, root in enumerate(roots):
        signed = await ground.signed(registry.ADDRESS, registry.anchor_data(root), nonce=nonce + at)
        assert (await ground.chain.send(signed.raw)).outcome is Sent.ACCEPTED
        hashes.append(signed.tx)
    assert await ground.chain.find(hashes) is None
    ground.hold(False)
    blocks = set()
    for root, tx in zip(roots, hashes, strict=True):
        found = await ground.found([os.urandom(32), tx])
        blocks.add(found.block_hash)
        anchor = await ground.chain.prove(found, root, registry.ADDRESS)
        assert anchor.check(root).hash == found.block_hash
    assert len(blocks) == 1


async def test_what_is_said_to_a_transaction(ground: Ground) -> None:
    chain, to = ground.chain, ground.wallet.address
    ground.hold(True)
    first = await ground.signed(to, b"", nonce=0, gwei=50)
    assert (await chain.send(first.raw)).outcome is Sent.ACCEPTED
    assert (await chain.send(first.raw)).outcome is Sent.KNOWN
    same = await ground.signed(to, b"1", nonce=0, gwei=50)
    assert (await chain.send(same.raw)).outcome is Sent.UNDERPRICED
    more = await ground.signed(to, b"1", nonce=0, gwei=57)
    assert (await chain.send(more.raw)).outcome is Sent.ACCEPTED
    ground.hold(False)
    await ground.found([first.tx, more.tx])
    assert await chain.find([first.tx]) is None
    assert (await chain.send(first.raw)).outcome is Sent.NONCE_TOO_LOW
    assert (await chain.send(more.raw)).outcome in (Sent.KNOWN, Sent.NONCE_TOO_LOW)
    dear = await ground.signed(to, b"", gas=10**6, gwei=10**5)
    assert (await chain.send(dear.raw)).outcome is Sent.UNFUNDED


async def test_a_dropped_block_is_gone_and_its_transaction_can_come_again(ground: Ground) -> None:
    root, chain = os.urandom(32), ground.chain
    await ground.deploy()
    await chain.make_block()
    before = await chain.nonce(ground.wallet.address)
    signed = await ground.signed(registry.ADDRESS, registry.anchor_data(root))
    await chain.send(signed.raw)
    found = await ground.found([signed.tx])
    ground.drop(1)
    assert await chain.find([signed.tx]) is None
    assert await chain.block_hash(found.block_number) is None
    assert await chain.nonce(ground.wallet.address) == before
    with pytest.raises(NotFound):
        await chain.prove(found, root, registry.ADDRESS)
    assert (await chain.send(signed.raw)).outcome is Sent.ACCEPTED
    again = await ground.found([signed.tx])
    assert again.block_hash != found.block_hash or again == found


async def test_estimates(ground: Ground) -> None:
    await ground.deploy()
    data = registry.anchor_data(os.urandom(32))
    gas = await ground.chain.estimate(Call(ground.wallet.address, registry.ADDRESS, data))
    assert 21_000 < gas < 30_000


async def test_a_node_that_is_not_there() -> None:
    chain = EvmChain("away", "http://127.0.0.1:9", timeout_s=2.0)
    with pytest.raises(Unavailable) as caught:
        await chain.head()
    assert "127.0.0.1" not in str(caught.value)
    await chain.aclose()
    rng = random.Random(1)
    fake = FakeChain(FakeBlocks(1, rng), SystemClock(), rng, faults=Faults(down=True))
    with pytest.raises(Unavailable):
        await fake.head()
    fake.faults = Faults(lost=1.0)
    with pytest.raises(DeadlineExceeded):
        await fake.head()


async def test_the_code_is_the_registrys(ground: Ground) -> None:
    """The address says the code: it depends on nothing else."""
    await ground.deploy()
    assert await ground.chain.code(registry.ADDRESS) == registry.RUNTIME_CODE
    made = keccak(b"\xff" + registry.FACTORY + registry.SALT + keccak(registry.INIT_CODE))
    assert made[12:] == registry.ADDRESS
