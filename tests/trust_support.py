"""What the tests of trust share: papers to try verifiers with, verdicts of both side by side."""

from __future__ import annotations

from typing import Any

from eth_hash.auto import keccak

from benchmarks.trustworks.papers import (
    CHAIN,
    CONTRACT,
    DKIM,
    KEY,
    NEXT_KEY,
    STANDALONE_KEYS,
    Batch,
    batch,
    calldata_anchor,
    encoded,
    event_anchor,
    header,
    mail,
    plain,
    policy,
    proof_of,
    trie_of,
)
from mesh.trust.receipt import Receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verdict import Verdict
from mesh.trust.verify import verify

__all__ = [
    "CHAIN",
    "CONTRACT",
    "DKIM",
    "KEY",
    "NEXT_KEY",
    "STANDALONE_KEYS",
    "Batch",
    "batch",
    "both",
    "calldata_anchor",
    "encoded",
    "event_anchor",
    "header",
    "mail",
    "plain",
    "policy",
    "proof_of",
    "trie_of",
]


def both(
    certificate: bytes,
    message: bytes,
    *,
    recipient: str | None = None,
    revocations: tuple[Any, ...] = (),
    receipt: Receipt | None = None,
) -> Verdict:
    """The verdict, after a check that the stand-alone verifier gives the same."""
    anchors = receipt.anchors if receipt else ()
    ours = verify(
        certificate,
        message,
        policy(anchors),
        recipient=recipient,
        receipt=receipt,
        revocations=revocations,
    )
    theirs = maily_verify.verify(
        certificate,
        message,
        STANDALONE_KEYS,
        recipient,
        [entry.to_json() for entry in revocations],
        receipt.to_json() if receipt else None,
        {(CHAIN, keccak(anchor.header).hex()) for anchor in anchors},
        {(CHAIN, CONTRACT.hex())},
    )
    assert (ours.holds, ours.level, ours.state, ours.failed_step) == (
        theirs["holds"],
        theirs["level"],
        theirs["state"],
        theirs.get("failedStep"),
    ), (ours, theirs)
    return ours
