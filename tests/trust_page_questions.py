"""Questions for the page's judge, and what the package itself answers to them."""

from __future__ import annotations

from typing import Any

from eth_hash.auto import keccak

from benchmarks.trustworks.mutants import Case, Cases
from benchmarks.trustworks.papers import CHAIN, CONTRACT, KEY, policy
from mesh.core.errors import InvalidInput
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import read_revocation
from mesh.trust.receipt import read_receipt
from mesh.trust.verdict import TrustPolicy, Verdict
from mesh.trust.verify import verify
from tests.trust_page_support import b64

SYNTAX = (
    *("not JSON", "not CBOR", "not a certificate in compact form", "not deterministic CBOR"),
    *("not a checkpoint: base64",),
)
"""How reasons begin whose rest is the parser's own words."""


def question_of(cases: Cases, case: Case) -> dict[str, Any]:
    return {
        "op": "verify",
        "certificate": b64(case.certificate),
        "message": b64(case.message),
        "keys": [str(KEY.verifier)],
        "blocks": [f"{CHAIN}:{keccak(anchor.header).hex()}" for anchor in cases.anchors],
        "contracts": [f"{CHAIN}:{CONTRACT.hex()}"],
        "receipt": None if case.receipt is None else b64(case.receipt),
        "revocations": [] if case.revocation is None else [b64(case.revocation)],
    }


def verdict_of(cases: Cases, case: Case) -> dict[str, Any]:
    """The package's verdict in the page's form. A receipt that can't be read fails step 9."""
    try:
        receipt = None if case.receipt is None else read_receipt(case.receipt)
    except InvalidInput:
        return {"holds": False, "failedStep": 9}
    try:
        entries = () if case.revocation is None else (read_revocation(case.revocation),)
    except InvalidInput:
        entries = ()
    trust: TrustPolicy = policy(cases.anchors)
    return shown(
        verify(case.certificate, case.message, trust, receipt=receipt, revocations=entries)
    )


def shown(verdict: Verdict) -> dict[str, Any]:
    """With the page's names."""
    return {
        "level": str(verdict.level),
        "state": verdict.state,
        "holds": verdict.holds,
        "failedStep": verdict.failed_step,
        "reason": verdict.reason,
        "differs": list(verdict.differs),
        "sender": verdict.sender,
        "messageId": verdict.message_id,
        "recipient": verdict.recipient,
        "domain": verdict.domain,
        "signers": list(verdict.signers),
        "addedBytes": verdict.added_bytes,
        "addedBefore": verdict.added_before,
        "addedAfter": verdict.added_after,
        "addedOrigins": list(verdict.added_origins),
        "missingOrigins": list(verdict.missing_origins),
        "seen": [
            {
                "chainId": seen.chain_id,
                "number": seen.number,
                "time": seen.time_s,
                "hash": seen.block_hash.hex(),
                "final": seen.final,
            }
            for seen in verdict.seen
        ],
        "leaf": verdict.leaf.hex() or None,
        "root": verdict.root.hex() or None,
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Members that differ. Of a syntax error the words are each parser's own."""
    found = {
        name: (value, theirs.get(name)) for name, value in ours.items() if theirs[name] != value
    }
    reasons = found.get("reason")
    if reasons and ours["failedStep"] == 1 and reasons[0].startswith(SYNTAX):
        del found["reason"]
    return found


def canonical_of(raw: bytes) -> dict[str, Any]:
    """The package's canonical form in the page's names."""
    found = canonicalise(raw)
    return {
        "exact": found.exact.hex(),
        "text": b64(found.text.data),
        "links": [list(link) for link in found.text.links],
        "digests": [found.text_digest.hex(), found.links_digest.hex()],
        "origins": list(found.origins),
        "domain": found.domain,
        "messageId": found.message_id,
        "recipients": list(found.recipients),
        "selectors": list(found.selectors),
    }


def canonical_question(raw: bytes) -> dict[str, Any]:
    return {"op": "canonical", "message": b64(raw)}
