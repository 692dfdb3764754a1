"""Verification by the numbered steps of the spec (§7). Pure: no clock, no network.

The steps, and what each keeps out:

1. read: a member outside of what is checked (CVE-2022-36056's kind)
2. version: a downgrade to weaker rules
3. canonicalise: a digest that is claimed, not computed
4. rebuild the leaf: a certificate of another message
5. path: an inner node that poses as a leaf, a proof that serves two places
6. root: a proof of another tree
7. signature: a tree of somebody else
8. revocations: a certificate that was taken back
9. anchors: a date that nobody else has seen
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mesh.core.errors import InvalidInput
from mesh.trust.canonical import Canonical, canonicalise
from mesh.trust.canonical.headers import normal_address
from mesh.trust.certificate import Certificate, Compact, Revocation, read_certificate
from mesh.trust.checkpoint import Note, VerifierKey
from mesh.trust.checkpoint import read as read_note
from mesh.trust.levels import Level
from mesh.trust.match import included, match_compact, match_full
from mesh.trust.receipt import Receipt
from mesh.trust.verdict import Failed, Match, Seen, State, TrustPolicy, Verdict


def verify(
    certificate: bytes,
    message: bytes | Canonical,
    policy: TrustPolicy,
    *,
    recipient: str | None = None,
    receipt: Receipt | None = None,
    revocations: Sequence[Revocation] = (),
) -> Verdict:
    """Both forms of certificate, any bytes as message. Never raises for what it is given.

    ``recipient``: whom the message came to, if the caller knows; else the addresses in To.
    """
    try:
        try:
            parsed = read_certificate(certificate)
        except InvalidInput as error:
            step = 2 if error.details.get("field") == "version" else 1
            raise Failed(step, str(error)) from error
        canonical = canonicalise(message) if isinstance(message, bytes) else message
        people = [normal_address(recipient)] if recipient else list(canonical.recipients)
        if isinstance(parsed, Certificate):
            match, note, signers = match_full(parsed, canonical, people, policy)
        else:
            match, note, signers = match_compact(parsed, canonical, people, policy)
        verdict = _verdict(match, canonical, note, signers, parsed)
        verdict = _revoked(verdict, note, policy, revocations)
        return _anchored(verdict, note, policy, receipt) if receipt else verdict
    except Failed as failure:
        partial = failure.partial or Verdict(Level.DIFFERENT, "included")
        return replace(partial, failed_step=failure.step, reason=failure.reason)


def _verdict(
    match: Match,
    message: Canonical,
    note: Note,
    signers: list[VerifierKey],
    parsed: Certificate | Compact,
) -> Verdict:
    window, data = match.window, message.text.data
    before = after = b""
    if window:
        size = parsed.leaf.text_bytes if isinstance(parsed, Certificate) else parsed.text_bytes
        before, after = data[: window.begin], data[window.begin + size :]
    added: tuple[str, ...] = window.added_origins if window else ()
    missing: tuple[str, ...] = ()
    if isinstance(parsed, Certificate) and not window:
        certified = set(parsed.origins)
        added = tuple(sorted(message.text.origins - certified))
        missing = tuple(sorted(certified - message.text.origins))
    verdict = Verdict(
        level=match.level,
        state="included",
        signers=tuple(key.name for key in signers),
        differs=match.differs,
        sender=match.facts.get("sender", "unknown"),
        message_id=match.facts.get("message_id", "unknown"),
        recipient=match.facts.get("recipient", "unknown"),
        domain=match.domain,
        added_bytes=len(before) + len(after),
        added_before=before.decode("utf-8", "replace"),
        added_after=after.decode("utf-8", "replace"),
        added_origins=added,
        missing_origins=missing,
        leaf=match.leaf,
        root=note.checkpoint.root,
    )
    if match.level is Level.DIFFERENT:
        raise Failed(4, _difference(match.differs), verdict)
    if match.level is Level.LINKS:
        raise Failed(4, "the text is not the certified one; its links are", verdict)
    return verdict


def _difference(differs: tuple[str, ...]) -> str:
    if "links" in differs and "text" not in differs:
        return "the text is the certified one, but its links lead elsewhere"
    return "the certificate is genuine, but of another message"


def _revoked(
    verdict: Verdict, note: Note, policy: TrustPolicy, revocations: Sequence[Revocation]
) -> Verdict:
    for entry in revocations:
        if entry.leaf != verdict.leaf:
            continue
        try:
            other, _ = included(entry.hash, entry.proof, entry.note, policy.keys)
        except Failed:
            continue  # anybody can write one; only a proven one counts
        if other.checkpoint.name == note.checkpoint.name:
            raise Failed(8, "the issuer has revoked it", replace(verdict, state="revoked"))
    return verdict


def _anchored(verdict: Verdict, note: Note, policy: TrustPolicy, receipt: Receipt) -> Verdict:
    if policy.headers is None:
        raise Failed(9, "a receipt needs a policy for block headers", verdict)
    seen: list[Seen] = []
    reason = "the receipt has no anchor"
    try:
        theirs = read_note(receipt.note)
        if theirs.checkpoint != note.checkpoint or not theirs.signers(policy.keys):
            raise InvalidInput("the receipt is another batch's, or not signed by a trusted key")
        for anchor in receipt.anchors:
            where = (anchor.chain_id, anchor.contract or b"")
            if anchor.method == "event" and policy.contracts and where not in policy.contracts:
                reason = "the event is of a contract that the reader does not trust"
                continue
            header = anchor.check(note.checkpoint.root)
            depth = policy.headers.depth(anchor.chain_id, header.hash)
            if depth == "unknown":
                reason = f"block {header.number} of chain {anchor.chain_id} is not known as its own"
                continue
            final = depth == "final"
            seen.append(Seen(anchor.chain_id, header.number, header.time_s, header.hash, final))
    except InvalidInput as error:
        raise Failed(9, str(error), verdict) from error
    chains = {item.chain_id for item in seen}
    if len(chains) < policy.networks:
        raise Failed(
            9,
            f"{len(chains)} of {policy.networks} networks: {reason}",
            replace(verdict, seen=(*seen,)),
        )
    final_chains = {item.chain_id for item in seen if item.final}
    state: State = "final" if len(final_chains) >= policy.networks else "confirmed"
    return replace(verdict, state=state, seen=tuple(seen))
