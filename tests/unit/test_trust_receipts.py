"""Receipts: what a chain shows, whom to believe that it is the chain, and broken proofs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput
from mesh.trust import evm
from mesh.trust.receipt import Anchor, HeaderPolicy, Receipt, Sighting, read_receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verify import verify
from tests.trust_support import (
    CHAIN,
    batch,
    both,
    calldata_anchor,
    event_anchor,
    mail,
    policy,
)

RAW = mail()


def anchored(*anchors: Anchor, raw: bytes = RAW) -> tuple[bytes, Receipt]:
    made = batch([raw], filler=20)
    return made.certificates[0].to_json(), Receipt(made.note, anchors)


ROOT = batch([RAW], filler=20).tree.root


@pytest.mark.parametrize(
    "anchor",
    [
        event_anchor(ROOT),
        event_anchor(ROOT, index=0, count=1),
        event_anchor(ROOT, index=127, count=200),
        event_anchor(ROOT, index=150, count=300),
        calldata_anchor(ROOT),
        calldata_anchor(ROOT, index=1, kind=1),
        calldata_anchor(ROOT, index=130, kind=0),
    ],
)
def test_anchor_makes_final(anchor: Anchor) -> None:
    certificate, receipt = anchored(anchor)
    verdict = both(certificate, RAW, receipt=receipt)
    assert (verdict.state, verdict.seen[0].number) == ("final", 4711)
    assert read_receipt(receipt.to_json()) == receipt


@pytest.mark.parametrize(
    "anchor",
    [
        event_anchor(bytes(32)),
        event_anchor(ROOT, status=0),
        calldata_anchor(bytes(32)),
        replace(event_anchor(ROOT), log_index=0),
        replace(event_anchor(ROOT), log_index=9),
        replace(event_anchor(ROOT), index=4),
        replace(event_anchor(ROOT), contract=bytes(20)),
        replace(event_anchor(ROOT), proof=event_anchor(ROOT).proof[:-1]),
        replace(event_anchor(ROOT), proof=(*event_anchor(ROOT).proof, b"\xc0")),
        replace(event_anchor(ROOT), proof=event_anchor(ROOT).proof[::-1]),
        replace(event_anchor(ROOT), header=b"\xc0"),
        replace(calldata_anchor(ROOT), index=1),
        replace(event_anchor(ROOT), method="calldata", contract=None, log_index=None),
    ],
)
def test_anchor_that_does_not_prove_it(anchor: Anchor) -> None:
    certificate, receipt = anchored(anchor)
    verdict = both(certificate, RAW, receipt=receipt)
    assert (verdict.holds, verdict.failed_step, verdict.level) == (False, 9, "exact")


def test_receipt_of_another_batch() -> None:
    certificate, _ = anchored()
    other = batch([mail(number=5)], filler=3)
    receipt = Receipt(other.note, (event_anchor(other.tree.root),))
    assert both(certificate, RAW, receipt=receipt).failed_step == 9
    assert both(certificate, RAW, receipt=Receipt(anchored()[1].note, ())).failed_step == 9


def test_header_policies() -> None:
    anchor = event_anchor(ROOT)
    certificate, receipt = anchored(anchor)
    block = keccak(anchor.header)

    def state(headers: HeaderPolicy | None, networks: int = 1) -> str | int | None:
        trust = replace(policy(), headers=headers, networks=networks)
        verdict = verify(certificate, RAW, trust, receipt=receipt)
        return verdict.state if verdict.holds else verdict.failed_step

    def said(*names: str, final: bool = True, of: bytes = block) -> tuple[Sighting, ...]:
        return tuple(Sighting(name, CHAIN, of, final) for name in names)

    node = HeaderPolicy("node", sources=frozenset({"own"}), sightings=said("own"))
    assert state(node) == "final"
    assert state(replace(node, sightings=said("own", final=False))) == "confirmed"
    assert state(replace(node, sightings=said("stranger"))) == 9
    assert state(replace(node, sightings=said("own", of=bytes(32)))) == 9
    assert state(node, networks=2) == 9
    three = HeaderPolicy("quorum", sources=frozenset("abc"), need=2)
    assert state(three) == 9
    assert state(replace(three, sightings=said("a", "a"))) == 9
    assert state(replace(three, sightings=said("a", "b"))) == "final"
    mixed = said("a") + said("b", final=False)
    assert state(replace(three, sightings=mixed)) == "confirmed"
    assert state(None) == 9
    for wrong in (
        {"trust": "quorum", "sources": frozenset("ab"), "need": 3},
        {"trust": "quorum", "sources": frozenset("ab"), "need": 0},
        {"trust": "node"},
    ):
        with pytest.raises(InvalidInput):
            HeaderPolicy(**wrong)  # type: ignore[arg-type]


def test_k_of_n_networks() -> None:
    """Two anchors on one chain are one network."""
    one, two = event_anchor(ROOT), calldata_anchor(ROOT)
    certificate, receipt = anchored(one, two)
    trust = replace(policy((one, two)), networks=2)
    assert verify(certificate, RAW, trust, receipt=receipt).failed_step == 9
    other = replace(two, chain_id=CHAIN + 1)
    pinned = {CHAIN: {keccak(one.header)}, CHAIN + 1: {keccak(two.header)}}
    headers = HeaderPolicy("pinned", pinned={k: frozenset(v) for k, v in pinned.items()})
    trust = replace(trust, headers=headers)
    verdict = verify(certificate, RAW, trust, receipt=replace(receipt, anchors=(one, other)))
    assert (verdict.state, len(verdict.seen)) == ("final", 2)


def test_other_contracts_events_do_not_count() -> None:
    anchor = event_anchor(ROOT)
    certificate, receipt = anchored(anchor)
    trust = replace(policy((anchor,)), contracts=frozenset({(CHAIN, bytes(20))}))
    assert verify(certificate, RAW, trust, receipt=receipt).failed_step == 9
    trust = replace(trust, contracts=frozenset())
    assert verify(certificate, RAW, trust, receipt=receipt).holds


@pytest.mark.parametrize(
    "data",
    ["", "81", "8100", "817f", "b800", "b837", "b90001", "c1", "c28100", "f800", "8183", "c0c0"],
)
def test_rlp_that_is_not_canonical(data: str) -> None:
    raw = bytes.fromhex(data)
    if data == "8183":
        assert evm.decode(raw) == maily_verify.rlp(raw) == b"\x83"
        return
    with pytest.raises(InvalidInput):
        evm.decode(raw)
    with pytest.raises(maily_verify.Refused):
        maily_verify.rlp(raw)


def test_deep_rlp_is_refused() -> None:
    item = b"\xc0"
    for _ in range(40):
        item = bytes([0xC0 + len(item)]) + item
    with pytest.raises(InvalidInput):
        evm.decode(item)
    with pytest.raises(maily_verify.Refused):
        maily_verify.rlp(item)
