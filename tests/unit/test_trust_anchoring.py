"""Fees, choice of networks, words of nodes, forms of headers: the anchoring's plain parts."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from typing import Any

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from mesh.contracts.networks import AnchorState
from mesh.core.errors import InvalidInput, Unavailable
from mesh.core.virtual_loop import run_virtual
from mesh.trust import evm
from mesh.trust.anchoring import fees
from mesh.trust.anchoring.choice import Reached, Standing, chosen
from mesh.trust.anchoring.fees import Fees
from mesh.trust.anchoring.gauges import ALARMS
from mesh.trust.anchoring.options import GWEI, NetworkOptions
from mesh.trust.chain.encode import data, header_rlp, number, transaction_bytes
from mesh.trust.chain.protocol import Market, Sent
from mesh.trust.chain.refusals import outcome_of
from mesh.trust.chain.trie import EMPTY_ROOT, ListTrie
from mesh.trust.chain.wallet import KeyWallet, Unsigned
from tests.trust_anchoring import World, root_of, with_world
from tests.trust_support import proof_of, trie_of

OPTIONS = NetworkOptions("n", 1)
wei = st.integers(0, 10**12)


@given(wei, wei)
def test_a_first_offer_is_within_the_limits(base: int, tip: int) -> None:
    offer = fees.first(Market(base, tip), OPTIONS)
    if offer is None:
        assert base + min(tip, OPTIONS.max_tip) > OPTIONS.max_fee - OPTIONS.min_tip
        return
    assert base + offer.tip <= offer.max_fee <= OPTIONS.max_fee
    assert OPTIONS.min_tip <= offer.tip <= OPTIONS.max_tip


@given(wei, wei, wei, wei)
def test_a_replacement_is_taken_by_nodes(max_fee: int, tip: int, base: int, usual: int) -> None:
    """An eighth more in both parts, and what the market asks for; or nothing."""
    offer = fees.replacement(Fees(max_fee, tip), Market(base, usual), OPTIONS)
    if offer is None:
        return
    assert 8 * offer.max_fee >= 9 * max_fee
    assert 8 * offer.tip >= 9 * tip
    assert base + offer.tip <= offer.max_fee <= OPTIONS.max_fee


def at(network: str, reached: Reached = Reached.NOTHING, **more: Any) -> Standing:
    return Standing(network, reached, **more)


@pytest.mark.parametrize(
    ("standings", "needed", "expected"),
    [
        ([at("a"), at("b"), at("c")], 1, "a"),
        ([at("a"), at("b"), at("c")], 2, "ab"),
        ([at("a", down_s=1), at("b")], 1, "b"),
        ([at("a", takes_new=False), at("b")], 1, "b"),
        ([at("a", Reached.SENT, down_s=5), at("b")], 1, "a"),
        ([at("a", Reached.SENT, down_s=25), at("b")], 1, "b"),
        ([at("a", Reached.SENT, down_s=25), at("b", down_s=1)], 1, "a"),
        ([at("a", Reached.BLOCK, down_s=25), at("b")], 1, "a"),
        ([at("a", Reached.BLOCK, down_s=301), at("b")], 1, "b"),
        ([at("a", Reached.SIGNED), at("b", Reached.SENT)], 1, "b"),
        ([at("a", Reached.SENT), at("b", Reached.BLOCK)], 1, "b"),
        ([at("a"), at("b", Reached.FINAL)], 1, "b"),
        ([at("a", Reached.SENT, stuck=True), at("b")], 1, "b"),
        ([at("a", Reached.SIGNED, barred=True), at("b")], 1, "b"),
        ([at("a", barred=True), at("b", down_s=1)], 1, ""),
        ([at("a", Reached.FINAL, down_s=9_999), at("b")], 1, "a"),
    ],
)
def test_which_networks(standings: list[Standing], needed: int, expected: str) -> None:
    assert chosen(standings, needed, 20.0, 15.0) == frozenset(expected)


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=300))
def test_a_trie_is_that_of_another_builder(values: list[bytes]) -> None:
    ours = ListTrie(values)
    if not values:
        assert ours.root == EMPTY_ROOT
        return
    root, theirs = trie_of(values)
    assert ours.root == root
    for index in {0, len(values) - 1, len(values) // 2}:
        assert ours.proof(index) == proof_of(theirs, index)
        assert evm.trie_value(root, index, ours.proof(index)) == values[index]


LATER = {
    "baseFeePerGas": "0x3b9aca00",
    "withdrawalsRoot": "0x" + "11" * 32,
    "blobGasUsed": "0x0",
    "excessBlobGas": "0x20000",
    "parentBeaconBlockRoot": "0x" + "22" * 32,
    "requestsHash": "0x" + "33" * 32,
}


@pytest.mark.parametrize("fields", [0, 1, 2, 4, 5, 6])
def test_headers_of_all_forks(fields: int) -> None:
    """From before London to Prague; a node may tell of more than is in the header."""
    block: dict[str, Any] = {
        "parentHash": "0x" + "01" * 32,
        "sha3Uncles": "0x" + "02" * 32,
        "miner": "0x" + "03" * 20,
        "stateRoot": "0x" + "04" * 32,
        "transactionsRoot": "0x" + "05" * 32,
        "receiptsRoot": "0x" + "06" * 32,
        "logsBloom": "0x" + "00" * 256,
        "difficulty": "0x0",
        "number": "0x1267",
        "gasLimit": "0x1c9c380",
        "gasUsed": "0x58f8",
        "timestamp": "0x69bd1d00",
        "extraData": "0x6d61696c79",
        "mixHash": "0x" + "07" * 32,
        "nonce": "0x0000000000000000",
    }
    plain = [
        evm.number_bytes(number(value)) if name in NUMBERS else data(value)
        for name, value in [*block.items(), *list(LATER.items())[:fields]]
    ]
    encoded = evm.encode([*plain])
    block |= LATER | {"hash": f"0x{keccak(encoded).hex()}", "totalDifficulty": "0x0", "size": "0x9"}
    assert header_rlp(block) == encoded
    assert evm.Header.read(encoded).number == 0x1267
    with pytest.raises(InvalidInput):
        header_rlp(block | {"hash": "0x" + "99" * 32})


NUMBERS = (
    *("difficulty", "number", "gasLimit", "gasUsed", "timestamp"),
    *("baseFeePerGas", "blobGasUsed", "excessBlobGas"),
)


async def test_transactions_come_back_byte_for_byte() -> None:
    """Of all types that wallets sign today: what the node's JSON says is what was signed."""
    from eth_account import Account

    account = Account.from_key(b"\x01" * 32)
    common = {"nonce": 3, "to": b"\xab" * 20, "value": 5, "data": b"hi", "gas": 30_000}
    access = [{"address": "0x" + "cd" * 20, "storageKeys": ["0x" + "00" * 31 + "07"]}]
    authorised = account.sign_authorization({"chainId": 1, "address": "0x" + "ee" * 20, "nonce": 4})
    priced = {"chainId": 1, "maxFeePerGas": 9, "maxPriorityFeePerGas": 2, "accessList": access}
    blob = {"maxFeePerBlobGas": 7, "blobVersionedHashes": ["0x01" + "00" * 31]}
    for kind, fields in {
        0: {**common, "gasPrice": 9, "chainId": 1},
        1: {**common, "gasPrice": 9, "chainId": 1, "accessList": access, "type": 1},
        2: {**common, **priced, "type": 2},
        4: {**common, **priced, "type": 4, "authorizationList": [authorised]},
    }.items():
        signed = account.sign_transaction(fields)
        said = _as_json(kind, fields, signed, authorised if kind == 4 else None)
        assert transaction_bytes(said) == bytes(signed.raw_transaction)
    three = {**common, **priced, **blob}
    said = _as_json(3, three, signed, None)
    parts = evm.as_list(evm.decode(transaction_bytes(said)[1:]), 14, "a transaction")
    assert parts[9:11] == [b"\x07", [bytes.fromhex("01" + "00" * 31)]]
    with pytest.raises(InvalidInput):
        transaction_bytes({"type": "0x63"})


def _as_json(kind: int, fields: dict[str, Any], signed: Any, authorised: Any) -> dict[str, Any]:
    said = {name: hex(value) if isinstance(value, int) else value for name, value in fields.items()}
    said["to"] = "0x" + "ab" * 20
    said |= {"input": "0x6869", "type": hex(kind), "v": hex(signed.v)}
    said |= {"r": hex(signed.r), "s": hex(signed.s)}
    if authorised is not None:
        said["authorizationList"] = [
            {
                "chainId": "0x1",
                "address": f"0x{bytes(authorised.address).hex()}",
                "nonce": "0x4",
                "yParity": hex(authorised.y_parity),
                "r": hex(authorised.r),
                "s": hex(authorised.s),
            }
        ]
    return said


@pytest.mark.parametrize("value", [None, 5, "12", "0xzz", [], "0x1"])
def test_what_is_no_hex(value: Any) -> None:
    if value is None:
        assert data(value) == b""
        return
    with pytest.raises(Unavailable):
        data(value)


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("already known", Sent.KNOWN),
        ("AlreadyKnown", Sent.KNOWN),
        ("transaction already imported", Sent.KNOWN),
        ("nonce too low: next nonce 5, tx nonce 4", Sent.NONCE_TOO_LOW),
        ("replacement transaction underpriced", Sent.UNDERPRICED),
        ("max fee per gas less than block base fee: address 0x…", Sent.UNDERPRICED),
        ("Insufficient funds for gas * price + value", Sent.UNFUNDED),
        ("intrinsic gas too low", Sent.REJECTED),
    ],
)
def test_words_of_nodes(words: str, outcome: Sent) -> None:
    said = outcome_of(words)
    assert said is not None
    assert (said.outcome, said.reason) == (outcome, words)
    assert outcome_of("txpool is full") is None


async def test_a_wallet() -> None:
    key = bytes(range(1, 33))
    wallet = KeyWallet.of_hex("0x" + key.hex())
    assert wallet.address == KeyWallet(key).address
    unsigned = Unsigned(1, 7, b"\x01" * 20, b"data", 21_000, 10, 1)
    assert await wallet.sign(unsigned) == await wallet.sign(unsigned)
    for wrong in ("", "0x12", "zz" * 32, "00" * 32):
        with pytest.raises(InvalidInput) as caught:
            KeyWallet.of_hex(wrong)
        assert not wrong or wrong not in str(caught.value)


async def settle(world: World, count: int, limit_s: float = 600) -> None:
    await world.until(lambda: len(world.rows.settled) >= count, limit_s)


def carried(world: World, name: str) -> set[bytes]:
    return {root for _, tx in world.chains[name].mined() if (root := root_of(tx)) is not None}


def states(world: World, root: bytes, network: str) -> list[str]:
    return [
        change.anchor.state.value
        for change in world.rows.changes
        if change.root == root and change.anchor.network == network
    ]


def test_a_dear_market_is_waited_out_or_outbid() -> None:
    """The budget of a day and the highest fee are never passed."""

    async def main() -> World:
        world = World(3)
        chain = world.chains["n0"]

        async def story() -> None:
            world.want()
            await settle(world, 1)
            chain.base_fee = 3_000 * GWEI  # above the limit
            dear = world.want()
            await asyncio.sleep(100)
            assert world.anchoring is not None
            (view,) = world.anchoring.networks()
            assert "fee_cap" in view.alarms
            assert not any(a.root == dear for a in world.rows.attempts.values())
            chain.base_fee = GWEI
            await settle(world, 2)
            risen = world.want()
            await world.until(
                lambda: any(a.root == risen for a in world.rows.attempts.values()), 60
            )
            chain.base_fee = 40 * GWEI
            await settle(world, 3, 900)
            tries = [a for a in world.rows.attempts.values() if a.root == risen]
            assert len(tries) >= 2
            assert len({a.nonce for a in tries}) == 1
            for before, after in pairwise(tries):
                assert 8 * after.max_fee >= 9 * before.max_fee

        await with_world(world, story())
        return world

    run_virtual(main())


def test_a_spent_budget_is_an_alarm_and_ends_with_the_day() -> None:
    async def main() -> World:
        world = World(4)
        world.budget = 3 * 10**15

        async def story() -> None:
            world.chains["n0"].base_fee = 10 * GWEI
            await asyncio.sleep(5_800)  # ten minutes are left of the day
            roots = {world.want() for _ in range(12)}
            await asyncio.sleep(500)
            assert world.anchoring is not None
            (view,) = world.anchoring.networks()
            assert "budget_spent" in view.alarms
            assert view.spent_today_wei <= world.budget
            assert 2 < len(world.rows.settled) < 12
            await settle(world, 12, 2_000)
            assert roots == world.rows.settled

        await with_world(world, story())
        return world

    run_virtual(main())


def test_a_network_that_comes_back_does_not_cost_twice() -> None:
    """Signed there, never sent; the second network has the root meanwhile. What was signed is
    left, and its nonce given to the next root."""

    async def main() -> World:
        world = World(5, networks=2)

        async def story() -> None:
            world.want()
            await settle(world, 1)
            faults = world.faults["n0"]
            world.chains["n0"].room = 0  # so that it stays in the pool
            left = world.want()
            await world.until(lambda: any(a.root == left for a in world.rows.attempts.values()), 60)
            faults.down = True
            world.chains["n0"].pool.clear()
            await settle(world, 2)
            assert left in carried(world, "n1")
            world.chains["n0"].room = 100
            faults.down = False
            await asyncio.sleep(100)
            assert left not in carried(world, "n0")
            assert states(world, left, "n0")[-1] == AnchorState.WAITING.value
            following = world.want()
            await settle(world, 3)
            assert following in carried(world, "n0")
            nonces = {a.root: a.nonce for a in world.rows.attempts.values() if a.network == "n0"}
            assert nonces[following] == nonces[left]

        await with_world(world, story())
        return world

    run_virtual(main())


def test_a_chain_without_the_factory_gets_the_input_alone() -> None:
    async def main() -> World:
        world = World(6)
        world.chains["n0"].factory = False

        async def story() -> None:
            root = world.want()
            await settle(world, 1)
            assert world.anchoring is not None
            (view,) = world.anchoring.networks()
            assert (view.method, view.contract) == ("calldata", None)
            assert "no_factory" in view.alarms
            row = world.rows.anchors[root, "n0"]
            assert row.proof is not None
            assert row.proof.method == "calldata"

        await with_world(world, story())
        return world

    run_virtual(main())


def test_another_chain_of_the_same_name_gets_nothing() -> None:
    async def main() -> World:
        world = World(7)
        world.rows.networks["n0"] = (world.chains["n0"].chain_id, os.urandom(32))

        async def story() -> None:
            world.want()
            await asyncio.sleep(60)
            assert world.anchoring is not None
            (view,) = world.anchoring.networks()
            assert "wrong_chain" in view.alarms
            assert not view.healthy
            assert not world.rows.attempts
            assert set(view.alarms) <= set(ALARMS)

        await with_world(world, story())
        return world

    run_virtual(main())
