"""Mutants of certificates, receipts, revocations and messages: none is accepted by either verifier.

Quick: 3,000. Slow: 100,000 and more.
"""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from benchmarks.trustworks.mutants import Cases, false_accept, verifiers
from mesh.trust.canonical import canonicalise
from mesh.trust.standalone import maily_verify
from mesh.trust.verify import verify
from tests.trust_support import KEY, STANDALONE_KEYS, policy


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


def test_originals_hold(cases: Cases) -> None:
    """Else no mutant's refusal would say anything."""
    for case in cases.originals():
        for name, answer in verifiers(cases).items():
            found = answer(case)
            assert (found.holds, found.level) == (True, "exact"), (name, case)
            assert found.state == ("final" if case.receipt else "included")


def test_genuine_revocation_counts(cases: Cases) -> None:
    """Else no forged one's refusal would say anything."""
    case = replace(cases.originals()[0], revocation=cases.revocation)
    for answer in verifiers(cases).values():
        assert (answer(case).holds, answer(case).state) == (False, "revoked")


def run(cases: Cases, count: int, seed: int) -> None:
    both = verifiers(cases)
    for case in cases.mutants(count, seed):
        ours, theirs = (answer(case) for answer in both.values())
        assert not false_accept(case, ours), (case, ours)
        assert not false_accept(case, theirs), (case, theirs)
        assert ours.holds == theirs.holds
        if case.kind == "certificate":
            assert ours.step == theirs.step, (case, ours, theirs)
        if case.kind == "message":
            same = canonicalise(case.message).exact == canonicalise(case.original).exact
            assert ours.level == theirs.level
            assert same or ours.level != "exact"


def test_no_mutant_is_accepted(cases: Cases) -> None:
    run(cases, 3_000, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_mutant_of_many_is_accepted(cases: Cases) -> None:
    run(cases, 120_000, 2)


def test_other_issuers_certificate_is_refused(cases: Cases) -> None:
    """The same message, genuinely certified by a key that the reader does not trust."""
    for certificate, raw in zip(cases.foreign.certificates, cases.foreign.mails, strict=True):
        for paper in (certificate.to_json(), certificate.compact().to_cbor()):
            verdict = verify(paper, raw, policy())
            assert (verdict.holds, verdict.failed_step) == (False, 7)
            assert not maily_verify.verify(paper, raw, STANDALONE_KEYS)["holds"]


def test_inner_node_can_not_pose_as_leaf(cases: Cases) -> None:
    """Second preimage: the path shortened by a level, the node above given as the leaf's hash."""
    certificate = cases.closed.certificates[0]
    proof = certificate.proof
    for path in (proof.path[1:], (*proof.path, bytes(32)), ()):
        forged = replace(certificate, proof=replace(proof, path=path)).to_json()
        assert verify(forged, cases.closed.mails[0], policy()).failed_step == 5


def test_signature_with_the_order_added_is_refused(cases: Cases) -> None:
    """Ed25519's malleability: s + L is another encoding of the same signature."""
    certificate = cases.closed.certificates[0]
    order = 2**252 + 27742317777372353535851937790883648493
    line = certificate.note.rstrip("\n").rpartition(" ")
    data = base64.b64decode(line[2])
    s = int.from_bytes(data[36:], "little") + order
    forged = base64.b64encode(data[:36] + s.to_bytes(32, "little")).decode()
    paper = replace(certificate, note=f"{line[0]} {forged}\n").to_json()
    assert verify(paper, cases.closed.mails[0], policy()).failed_step == 7
    assert KEY.name in certificate.note


def test_wrong_or_doubled_signature_of_a_trusted_key_spoils_the_note(cases: Cases) -> None:
    """C2SP; a line of a key that the reader does not know is ignored (a witness's, say)."""
    certificate, raw = cases.closed.certificates[0], cases.closed.mails[0]
    line = certificate.note.splitlines()[-1]
    data = base64.b64decode(line.rpartition(" ")[2])
    broken = base64.b64encode(data[:-1] + bytes([data[-1] ^ 1])).decode()
    short = base64.b64encode(data[:20]).decode()
    unknown = base64.b64encode(bytes(4) + data[4:]).decode()
    for extra, step in (
        (line, 7),
        (f"— {KEY.name} {broken}", 7),
        (f"— {KEY.name} {short}", 7),
        (f"— {KEY.name} {unknown}", None),
        (f"— witness.example/w {line.rpartition(' ')[2]}", None),
    ):
        paper = replace(certificate, note=f"{certificate.note}{extra}\n").to_json()
        assert verify(paper, raw, policy()).failed_step == step, extra
        assert maily_verify.verify(paper, raw, STANDALONE_KEYS).get("failedStep") == step, extra
