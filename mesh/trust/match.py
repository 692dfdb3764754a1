"""Steps 4 to 7 of the spec: is the message at hand the certified one, and who signed that?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from mesh.core.errors import InvalidInput
from mesh.trust import checkpoint
from mesh.trust.canonical import Canonical
from mesh.trust.certificate import Certificate, Compact, Proof
from mesh.trust.checkpoint import Checkpoint, Note, VerifierKey
from mesh.trust.leaf import leaf_hash, recipient_commitment, seal
from mesh.trust.levels import Level, Window, begins, window_at
from mesh.trust.merkle import root_from_inclusion
from mesh.trust.verdict import Failed, Match, Same, TrustPolicy, Verdict

MAX_READINGS = 16
"""Of the links at a window's ends: each costs a signature check for every key."""


def _root(leaf: bytes, proof: Proof) -> bytes:
    try:
        return root_from_inclusion(leaf, proof.index, proof.size, proof.path)
    except InvalidInput as error:
        raise Failed(5, str(error)) from error


def included(
    leaf: bytes, proof: Proof, text: str, keys: Sequence[VerifierKey]
) -> tuple[Note, list[VerifierKey]]:
    """Steps 5 to 7 for a leaf with its whole note. Raises Failed."""
    root = _root(leaf, proof)
    try:
        note = checkpoint.read(text)
    except InvalidInput as error:
        raise Failed(1, str(error)) from error
    point = note.checkpoint
    if point.root != root or point.size != proof.size or not point.name:
        raise Failed(6, "the proof does not lead to the root of the checkpoint")
    signers = note.signers(keys)
    if not signers:
        raise Failed(7, "no trusted key has signed the checkpoint")
    return note, signers


def match_full(
    certificate: Certificate, message: Canonical, people: list[str], policy: TrustPolicy
) -> tuple[Match, Note, list[VerifierKey]]:
    leaf = certificate.leaf
    note, signers = included(leaf.hash, certificate.proof, certificate.note, policy.keys)
    same_text = leaf.text_bytes > 0 and message.text_digest == leaf.text
    same_links = message.links_digest == leaf.links
    recipient: Same = "unknown"
    if people:
        held = any(recipient_commitment(leaf.salt, one) == leaf.recipient for one in people)
        recipient = "same" if held else "other"
    facts: dict[str, Same] = {
        "sender": "same" if message.domain == leaf.domain else "other",
        "message_id": "same" if message.message_id == leaf.message_id else "other",
        "recipient": recipient,
    }
    exact = message.exact == leaf.exact
    window: Window | None = None
    if exact and message.text_digest == leaf.text and same_links:
        level = Level.EXACT
    elif same_text and same_links:
        level = Level.TEXT
    else:
        window = next(
            (
                found
                for begin in begins(message, leaf.text_bytes, leaf.text)
                for found in window_at(message, begin, leaf.text_bytes)
                if found.links_digest == leaf.links
            ),
            None,
        )
        if window:
            level = Level.EXTENDED
        elif same_links and certificate.origins:
            level = Level.LINKS
        else:
            level = Level.DIFFERENT
    told = [
        ("headers or body", not exact),
        ("text", not same_text and not exact and window is None),
        ("links", not same_links and window is None),
        *((name.replace("_", " "), fact == "other") for name, fact in facts.items()),
    ]
    differs = tuple(name for name, is_other in told if is_other)
    return Match(level, leaf.hash, window, facts, differs, leaf.domain), note, signers


def match_compact(
    compact: Compact, message: Canonical, people: list[str], policy: TrustPolicy
) -> tuple[Match, Note, list[VerifierKey]]:
    """The leaf is rebuilt from the message; the first of a few readings that is signed counts."""
    leaves = _rebuilt(compact, message)
    for leaf, window in leaves:
        root = _root(leaf, compact.proof)
        for key in policy.keys:
            point = Checkpoint.of(key.name, compact.proof.size, root)
            note = Note(point, (checkpoint.Signature(key.name, compact.signature),))
            if note.signers([key]):
                return _matched(compact, message, people, leaf, window), note, [key]
    if not leaves:
        _root(bytes(32), compact.proof)
        verdict = Verdict(Level.DIFFERENT, "included", differs=("text",))
        raise Failed(4, "the text is not the certified one", verdict)
    reason = (
        "no trusted key has signed a tree with this message: it is another message or sender, "
        "or the certificate is not genuine (the full form tells which)"
    )
    differs = ("text, links, sender or certificate",)
    raise Failed(7, reason, Verdict(Level.DIFFERENT, "included", differs=differs))


def _rebuilt(compact: Compact, message: Canonical) -> list[tuple[bytes, Window | None]]:
    """Leaf hashes of the ways to read the message."""
    size = compact.text_bytes
    readings: list[tuple[bytes, bytes, Window | None]] = []
    if size == len(message.text.data):
        readings.append((message.text_digest, message.links_digest, None))
    for begin in begins(message, size):
        windows = islice(window_at(message, begin, size), MAX_READINGS)
        readings += [(found.text_digest, found.links_digest, found) for found in windows]
    salt, key, sealed = compact.salt, compact.key, compact.seal
    return [
        (leaf_hash(salt, links, text, size, key, sealed, message.domain), window)
        for text, links, window in readings
    ]


def _matched(
    compact: Compact, message: Canonical, people: list[str], leaf: bytes, window: Window | None
) -> Match:
    facts: dict[str, Same] = {"sender": "same"}
    if window is None and _opens(compact, message, people):
        facts |= {"message_id": "same", "recipient": "same" if people else "unknown"}
        return Match(Level.EXACT, leaf, None, facts, (), message.domain)
    level = Level.EXTENDED if window else Level.TEXT
    if compact.text_bytes == 0:
        level = Level.DIFFERENT  # an empty text says nothing: only the whole message does
    differs = ("headers or body, or the recipient",)
    return Match(level, leaf, window, facts, differs, message.domain)


def _opens(compact: Compact, message: Canonical, people: list[str]) -> bool:
    """Whether the seal is this message's: then nothing was altered."""
    return any(
        seal(message.exact, recipient_commitment(compact.salt, one), named, message.message_id)
        == compact.seal
        for one in people or [""]
        for named in {*message.selectors, ""}
    )
