"""Mutants of certificates, receipts, revocations and messages, for any number of verifiers.

``Cases`` gives them, always the same for a seed; ``false_accept`` says what no verifier may answer.
Our forms have one encoding each, so a mutant certificate or receipt that holds is a false accept,
whatever it says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from eth_hash.auto import keccak

from benchmarks.trustworks.mutations import (
    cbor_member,
    crossed,
    cut,
    digit,
    double,
    flip,
    member,
)
from benchmarks.trustworks.papers import (
    CHAIN,
    CONTRACT,
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
from mesh.core.errors import InvalidInput
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import Proof, Revocation, read_revocation
from mesh.trust.leaf import revocation_hash
from mesh.trust.receipt import Anchor, Receipt, read_receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify

Kind = Literal["original", "certificate", "message", "receipt", "revocation"]
SHARES: dict[Kind, int] = {"certificate": 12, "message": 4, "receipt": 3, "revocation": 1}


@dataclass(frozen=True, slots=True)
class Case:
    """What a verifier is given. One of the papers is the mutant, by ``kind``."""

    kind: Kind
    certificate: bytes
    message: bytes
    original: bytes
    """The message that was certified."""
    receipt: bytes | None = None
    revocation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A verifier's verdict, as far as all verifiers give it."""

    holds: bool
    level: str
    state: str
    step: int | None


Verifier = Callable[[Case], Answer]


def false_accept(case: Case, answer: Answer) -> bool:
    """Whether the answer says what is not so."""
    if case.kind == "original":
        return False
    if case.kind == "revocation":  # a forged one revokes nothing: that, too, would be false
        return not answer.holds
    if case.kind != "message":
        return answer.holds
    if not answer.holds:
        return False
    now, then = canonicalise(case.message), canonicalise(case.original)
    if answer.level == "exact":
        return now.exact != then.exact
    if answer.level == "same text":
        return now.text.data != then.text.data or now.text.origins != then.text.origins
    return then.text.data not in now.text.data


class Cases:
    """Papers that hold, others to cross them with, and all that is made of them."""

    def __init__(self) -> None:
        mails = [mail(number=1), mail(plain(), number=2), mail(plain("Berta"), number=3)]
        self.closed = batch(mails, filler=30, seed=1)
        self.other = batch([mail(number=9), *mails[:2]], filler=13, seed=2)
        self.foreign = batch(mails, (NEXT_KEY,), filler=30, seed=1)
        """The same messages, certified by a key that no reader here trusts."""
        root = self.closed.tree.root
        self.receipts = [
            Receipt(self.closed.note, (event_anchor(root, count=40),)),
            Receipt(self.closed.note, (calldata_anchor(root),)),
        ]
        target = self.closed.certificates[0].leaf.hash
        hashed = revocation_hash(target, 1_774_000_000, 1)
        later = batch([mail(number=77)], extra=(hashed,), filler=5)
        self.revocation = Revocation(
            target, 1_774_000_000, 1, Proof.of(later.tree, 1), later.note
        ).to_json()

    @cached_property
    def _genuine(self) -> list[bytes]:
        batches: tuple[Batch, ...] = (self.closed, self.other, self.foreign)
        return [one.to_json() for closed in batches for one in closed.certificates]

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        return tuple(anchor for receipt in self.receipts for anchor in receipt.anchors)

    def originals(self) -> list[Case]:
        """Each holds; else no mutant's refusal would say anything."""
        pairs = list(zip(self.closed.certificates, self.closed.mails, strict=True))
        papers = [
            Case("original", paper, raw, raw)
            for certificate, raw in pairs
            for paper in (certificate.to_json(), certificate.compact().to_cbor())
        ]
        certificate, raw = pairs[0]
        return papers + [
            Case("original", certificate.to_json(), raw, raw, receipt.to_json())
            for receipt in self.receipts
        ]

    def mutants(self, count: int, seed: int) -> Iterator[Case]:
        """So many that differ from what they were made of."""
        rng = random.Random(seed)
        make: dict[Kind, Callable[[random.Random], Case | None]] = {
            "certificate": self._certificate,
            "message": self._message,
            "receipt": self._receipt,
            "revocation": self._revocation,
        }
        while count:
            (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
            case = make[kind](rng)
            if case is not None:
                count -= 1
                yield case

    def _certificate(self, rng: random.Random) -> Case | None:
        at = rng.randrange(len(self.closed.mails))
        certificate, raw = self.closed.certificates[at], self.closed.mails[at]
        if rng.random() < 0.6:
            paper = certificate.to_json()
            how = rng.choice([flip, cut, double, digit, member, member, member, None])
            mutant = how(rng, paper) if how else crossed(rng, paper, self._genuine)
        else:
            paper = certificate.compact().to_cbor()
            mutant = rng.choice([flip, cut, double, cbor_member, cbor_member])(rng, paper)
        return None if mutant == paper else Case("certificate", mutant, raw, raw)

    def _message(self, rng: random.Random) -> Case | None:
        at = rng.randrange(len(self.closed.mails))
        certificate, raw = self.closed.certificates[at], self.closed.mails[at]
        mutant = rng.choice([flip, cut, double, digit])(rng, raw)
        if mutant == raw:
            return None
        full = rng.random() < 0.5
        paper = certificate.to_json() if full else certificate.compact().to_cbor()
        return Case("message", paper, mutant, raw)

    def _receipt(self, rng: random.Random) -> Case | None:
        paper = rng.choice(self.receipts).to_json()
        mutant = rng.choice([flip, cut, double, digit, digit, member, member])(rng, paper)
        if mutant in [one.to_json() for one in self.receipts] or _proves_again(paper, mutant):
            return None
        certificate, raw = self.closed.certificates[0].to_json(), self.closed.mails[0]
        return Case("receipt", certificate, raw, raw, receipt=mutant)

    def _revocation(self, rng: random.Random) -> Case | None:
        mutant = rng.choice([flip, cut, digit, digit, member, member])(rng, self.revocation)
        if mutant == self.revocation:
            return None
        certificate, raw = self.closed.certificates[0].to_json(), self.closed.mails[0]
        return Case("revocation", certificate, raw, raw, revocation=mutant)


def _proves_again(paper: bytes, mutant: bytes) -> bool:
    """The same anchor listed twice proves the same once more."""
    try:
        one, two = json.loads(paper), json.loads(mutant)
    except ValueError:
        return False
    return isinstance(two, dict) and bool(two.get("anchors") == one["anchors"] * 2)


def ours(trust: TrustPolicy) -> Verifier:
    """The package's own verifier."""

    def answer(case: Case) -> Answer:
        try:
            receipt = read_receipt(case.receipt) if case.receipt is not None else None
        except InvalidInput:
            receipt = Receipt("", ())  # not even a note: step 9 refuses it
        try:
            entries = (read_revocation(case.revocation),) if case.revocation is not None else ()
        except InvalidInput:
            entries = ()
        found = verify(case.certificate, case.message, trust, receipt=receipt, revocations=entries)
        return Answer(found.holds, found.level, found.state, found.failed_step)

    return answer


def standalone(anchors: tuple[Anchor, ...]) -> Verifier:
    """The single file that shares no code with the package."""
    blocks = {(CHAIN, keccak(anchor.header).hex()) for anchor in anchors}

    def answer(case: Case) -> Answer:
        found = maily_verify.verify(
            case.certificate,
            case.message,
            STANDALONE_KEYS,
            revocations=[case.revocation] if case.revocation is not None else [],
            receipt=case.receipt,
            blocks=blocks,
            contracts={(CHAIN, CONTRACT.hex())},
        )
        return Answer(found["holds"], found["level"], found["state"], found.get("failedStep"))

    return answer


def verifiers(cases: Cases) -> dict[str, Verifier]:
    """Those in Python, by name. They trust the papers' one key and know the receipts' blocks."""
    return {"ours": ours(policy(cases.anchors)), "stand-alone": standalone(cases.anchors)}
