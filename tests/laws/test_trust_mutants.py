"""Mutants of certificates, receipts, revocations and messages: none is accepted by either verifier.

A mutant that holds is a false accept, whatever it says: our forms have one encoding each.
Quick: 3,000. Slow: 100,000 and more.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cbor2
import pytest
from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput
from mesh.trust import jcs
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import Proof, Revocation, read_revocation
from mesh.trust.leaf import revocation_hash
from mesh.trust.receipt import Receipt, read_receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verify import verify
from tests.trust_support import (
    CHAIN,
    CONTRACT,
    KEY,
    NEXT_KEY,
    STANDALONE_KEYS,
    Batch,
    batch,
    calldata_anchor,
    event_anchor,
    mail,
    plain,
    policy,
)

Mutate = Callable[[random.Random, bytes], bytes]


@dataclass
class World:
    """Papers that hold, and others to cross them with."""

    closed: Batch
    other: Batch
    foreign: Batch
    receipts: list[Receipt]


@pytest.fixture(scope="module")
def world() -> World:
    mails = [mail(number=1), mail(plain(), number=2), mail(plain("Berta"), number=3)]
    closed = batch(mails, filler=30, seed=1)
    other = batch([mail(number=9), *mails[:2]], filler=13, seed=2)
    foreign = batch(mails, (NEXT_KEY,), filler=30, seed=1)
    root = closed.tree.root
    receipts = [
        Receipt(closed.note, (event_anchor(root, count=40),)),
        Receipt(closed.note, (calldata_anchor(root),)),
    ]
    return World(closed, other, foreign, receipts)


def test_originals_hold(world: World) -> None:
    """Else no mutant's refusal would say anything."""
    for certificate, raw in zip(world.closed.certificates, world.closed.mails, strict=True):
        for paper in (certificate.to_json(), certificate.compact().to_cbor()):
            assert verify(paper, raw, policy()).holds
            assert maily_verify.verify(paper, raw, STANDALONE_KEYS)["holds"]
    for receipt in world.receipts:
        assert _receipt_holds(world, receipt.to_json()) == (True, True)


def flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def cut(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randint(1, 40)
    return data[:at] + data[at + size :]


def double(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randint(1, 40)
    return data[: at + size] + data[at : at + size] + data[at + size :]


def digit(rng: random.Random, data: bytes) -> bytes:
    """Another letter of the same kind: stays well-formed where a flipped bit would not."""
    places = [at for at, byte in enumerate(data) if chr(byte) in "0123456789abcdef"]
    if not places:
        return flip(rng, data)
    at = rng.choice(places)
    return data[:at] + rng.choice(b"0123456789abcdef").to_bytes() + data[at + 1 :]


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in pairs:
        found.append((*prefix, key))
        if isinstance(item, dict | list):
            found += _paths(item, (*prefix, key))
    return found


def member(rng: random.Random, data: bytes) -> bytes:
    """One member of the document is changed as an attacker would, and written canonically."""
    document = json.loads(data)
    path = rng.choice(_paths(document))
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    key, value = path[-1], holder[path[-1]]
    action = rng.randrange(5)
    if action == 0 and isinstance(holder, dict):
        holder[rng.choice(["extra", "Version", "alg", "leaf2"])] = value
    elif action == 1:
        del holder[key]
    elif isinstance(value, bool) or value is None:
        holder[key] = 0
    elif isinstance(value, int):
        holder[key] = rng.choice([value + 1, value - 1, value ^ 2, value * 2, value // 2, -1, 0])
    elif isinstance(value, str):
        holder[key] = rng.choice([value[:-2], value + "00", value.upper() + " ", value[::-1], ""])
    elif isinstance(value, list):
        changed = list(value)
        rng.choice([changed.reverse, changed.clear, lambda: changed.extend(value[:1] or ["00"])])()
        holder[key] = changed
    else:
        holder[key] = [value]
    return jcs.write(document)


def cbor_member(rng: random.Random, data: bytes) -> bytes:
    items = cbor2.loads(data)
    at = rng.randrange(len(items))
    value = items[at]
    if isinstance(value, int):
        items[at] = rng.choice([value + 1, value - 1, value ^ 2, value * 2, value // 2, 2**33])
    elif value is None:
        items[at] = rng.choice([bytes(16), rng.randbytes(16)])
    else:
        nodes = [value[i : i + 32] for i in range(0, len(value), 32)]
        rng.shuffle(nodes)
        swapped = b"".join(nodes)
        items[at] = rng.choice([flip(rng, value), value[:-32], value + bytes(32), None, swapped])
    return cbor2.dumps(items, canonical=True)


def crossed(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A part of another genuine certificate."""
    document, other = json.loads(data), json.loads(rng.choice(others))
    key = rng.choice(["leaf", "proof", "checkpoint"])
    document[key] = other[key]
    if rng.random() < 0.5:
        inner = rng.choice(["salt", "exact", "text", "recipient", "messageId", "dkim", "links"])
        document["leaf"][inner] = other["leaf"][inner]
    return jcs.write(document)


def certificates(world: World, rng: random.Random) -> None:
    at = rng.randrange(len(world.closed.mails))
    certificate, raw = world.closed.certificates[at], world.closed.mails[at]
    others = [
        one.to_json()
        for closed in (world.closed, world.other, world.foreign)
        for one in closed.certificates
    ]
    if rng.random() < 0.6:
        paper = certificate.to_json()
        how = rng.choice([flip, cut, double, digit, member, member, member, None])
        mutant = how(rng, paper) if how else crossed(rng, paper, others)
    else:
        paper = certificate.compact().to_cbor()
        mutant = rng.choice([flip, cut, double, cbor_member, cbor_member])(rng, paper)
    if mutant == paper or (mutant in others[:3] and json.loads(mutant) == json.loads(paper)):
        return
    ours = verify(mutant, canonicalise(raw), policy())
    theirs = maily_verify.verify(mutant, raw, STANDALONE_KEYS)
    # Of another certificate for the very same message: it would be genuine.
    assert not ours.holds, (mutant, ours)
    assert not theirs["holds"], (mutant, theirs)
    assert ours.failed_step == theirs["failedStep"], (mutant, ours, theirs)


def messages(world: World, rng: random.Random) -> None:
    """A message that is not byte-equivalent is never called exact."""
    at = rng.randrange(len(world.closed.mails))
    certificate, raw = world.closed.certificates[at], world.closed.mails[at]
    mutant = rng.choice([flip, cut, double, digit])(rng, raw)
    same = canonicalise(mutant).exact == canonicalise(raw).exact
    for paper in (certificate.to_json(), certificate.compact().to_cbor()):
        ours = verify(paper, mutant, policy())
        theirs = maily_verify.verify(paper, mutant, STANDALONE_KEYS)
        assert ours.level == theirs["level"]
        assert ours.holds == theirs["holds"]
        assert same or ours.level != "exact"


def _receipt_holds(world: World, data: bytes) -> tuple[bool, bool]:
    certificate, raw = world.closed.certificates[0].to_json(), world.closed.mails[0]
    anchors = tuple(anchor for receipt in world.receipts for anchor in receipt.anchors)
    try:
        ours = verify(certificate, raw, policy(anchors), receipt=read_receipt(data)).holds
    except InvalidInput:
        ours = False
    blocks = {(CHAIN, keccak(anchor.header).hex()) for anchor in anchors}
    theirs = maily_verify.verify(
        certificate,
        raw,
        STANDALONE_KEYS,
        receipt=data,
        blocks=blocks,
        contracts={(CHAIN, CONTRACT.hex())},
    )
    return ours, theirs["holds"]


def receipts(world: World, rng: random.Random) -> None:
    paper = rng.choice(world.receipts).to_json()
    mutant = rng.choice([flip, cut, double, digit, digit, member, member])(rng, paper)
    if mutant in [one.to_json() for one in world.receipts] or _same_proof_again(paper, mutant):
        return
    assert _receipt_holds(world, mutant) == (False, False), mutant


def _same_proof_again(paper: bytes, mutant: bytes) -> bool:
    """The same anchor listed twice proves the same once more."""
    try:
        one, two = json.loads(paper), json.loads(mutant)
    except ValueError:
        return False
    return bool(two.get("anchors") == one["anchors"] * 2)


def revocations(world: World, rng: random.Random) -> None:
    """A forged revocation revokes nothing: that, too, would be a false statement."""
    target = world.closed.certificates[0].leaf.hash
    hashed = revocation_hash(target, 1_774_000_000, 1)
    closed = batch([mail(number=77)], extra=(hashed,), filler=5)
    entry = Revocation(target, 1_774_000_000, 1, Proof.of(closed.tree, 1), closed.note)
    paper = entry.to_json()
    mutant = rng.choice([flip, cut, digit, digit, member, member])(rng, paper)
    if mutant == paper:
        return
    certificate, raw = world.closed.certificates[0].to_json(), world.closed.mails[0]
    try:
        read = (read_revocation(mutant),)
    except InvalidInput:
        read = ()
    assert verify(certificate, raw, policy(), revocations=read).holds
    assert maily_verify.verify(certificate, raw, STANDALONE_KEYS, revocations=[mutant])["holds"]


KINDS = ((certificates, 12), (messages, 4), (receipts, 3), (revocations, 1))


def run(world: World, count: int, seed: int) -> None:
    rng = random.Random(seed)
    names, weights = zip(*KINDS, strict=True)
    for kind in rng.choices(names, weights, k=count):
        kind(world, rng)


def test_no_mutant_is_accepted(world: World) -> None:
    run(world, 3_000, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_mutant_of_many_is_accepted(world: World) -> None:
    run(world, 120_000, 2)


def test_other_issuers_certificate_is_refused(world: World) -> None:
    """The same message, genuinely certified by a key that the reader does not trust."""
    for certificate, raw in zip(world.foreign.certificates, world.foreign.mails, strict=True):
        for paper in (certificate.to_json(), certificate.compact().to_cbor()):
            verdict = verify(paper, raw, policy())
            assert (verdict.holds, verdict.failed_step) == (False, 7)
            assert not maily_verify.verify(paper, raw, STANDALONE_KEYS)["holds"]


def test_inner_node_can_not_pose_as_leaf(world: World) -> None:
    """Second preimage: the path shortened by a level, the node above given as the leaf's hash."""
    certificate = world.closed.certificates[0]
    proof = certificate.proof
    for path in (proof.path[1:], (*proof.path, bytes(32)), ()):
        forged = replace(certificate, proof=replace(proof, path=path)).to_json()
        assert verify(forged, world.closed.mails[0], policy()).failed_step == 5


def test_signature_with_the_order_added_is_refused(world: World) -> None:
    """Ed25519's malleability: s + L is another encoding of the same signature."""
    certificate = world.closed.certificates[0]
    order = 2**252 + 27742317777372353535851937790883648493
    line = certificate.note.rstrip("\n").rpartition(" ")
    data = base64.b64decode(line[2])
    s = int.from_bytes(data[36:], "little") + order
    forged = base64.b64encode(data[:36] + s.to_bytes(32, "little")).decode()
    paper = replace(certificate, note=f"{line[0]} {forged}\n").to_json()
    assert verify(paper, world.closed.mails[0], policy()).failed_step == 7
    assert KEY.name in certificate.note
