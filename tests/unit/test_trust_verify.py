"""Certificates, receipts, revocations and policies, step by step, on both verifiers."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput
from mesh.trust import checkpoint, jcs
from mesh.trust.attach import compact_in, part_in, with_header, with_part
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import (
    Proof,
    Revocation,
    certify,
    read_certificate,
    read_json,
    read_revocation,
)
from mesh.trust.leaf import DkimKey, make_leaf, revocation_hash
from mesh.trust.receipt import Anchor, Receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verify import verify
from tests.trust_support import (
    CHAIN,
    CONTRACT,
    KEY,
    NEXT_KEY,
    batch,
    both,
    event_anchor,
    mail,
    policy,
)

RAW = mail()


def forms(raw: bytes, filler: int = 20) -> tuple[bytes, bytes]:
    certificate = batch([raw], filler=filler).certificates[0]
    return certificate.to_json(), certificate.compact().to_cbor()


def test_levels() -> None:
    full, small = forms(RAW)
    footer = RAW.replace(b"</p>\r\n", b"</p>Legal notice <a href=https://legal.example>x</a>\r\n")
    assert both(full, RAW).level == both(small, RAW).level == "exact"
    changed = RAW.replace(b"Subject: Spring", b"Subject: Fwd: Spring")
    assert both(full, changed).level == both(small, changed).level == "same text"
    for form in (full, small):
        verdict = both(form, footer)
        assert verdict.level == "same text with additions"
        assert verdict.added_after == "Legalnoticex"
        assert verdict.added_origins == ("https://legal.example",)
    edited = RAW.replace(b"a third", b"a half")
    verdict = both(full, edited)
    assert (verdict.level, verdict.holds, verdict.failed_step) == ("same links only", False, 4)
    assert not both(small, edited).holds
    phished = RAW.replace(b"shop.example.com", b"shop.example.com.evil.example")
    verdict = both(full, phished)
    assert (verdict.level, verdict.holds) == ("different", False)
    assert verdict.differs == ("headers or body", "links")
    assert verdict.missing_origins == ("https://shop.example.com",)
    assert not both(small, phished).holds


def test_added_link_within_the_certified_text_is_not_an_addition() -> None:
    full, small = forms(RAW)
    forged = RAW.replace(b"until", b"<a href=https://evil.example>until</a>")
    forged = forged.replace(b"</p>\r\n", b"</p>Legal notice\r\n")
    assert not both(full, forged).holds
    assert not both(small, forged).holds


def test_sender_message_and_recipient_are_told_apart() -> None:
    full, small = forms(RAW)
    verdict = both(full, RAW)
    assert (verdict.sender, verdict.message_id, verdict.recipient) == ("same",) * 3
    verdict = both(full, RAW, recipient="eve@example.org")
    assert (verdict.level, verdict.recipient) == ("exact", "other")
    assert both(full, RAW, recipient="ANNA1@example.org ").recipient == "same"
    assert both(small, RAW, recipient="eve@example.org").level == "same text"
    copied = RAW.replace(b"news@example.com", b"news@evil.example")
    verdict = both(full, copied)
    assert (verdict.level, verdict.sender, verdict.domain) == ("same text", "other", "example.com")
    assert not both(small, copied).holds


def test_pictures_alone_are_certified_exactly_or_not_at_all() -> None:
    raw = mail('<a href="https://shop.example.com"><img src=x></a>')
    other = mail('<a href="https://shop.example.com"><img src=y></a>', number=2)
    full, small = forms(raw)
    assert both(full, raw).level == both(small, raw).level == "exact"
    assert not both(full, other).holds
    assert not both(small, raw.replace(b"src=x", b"src=y")).holds


@pytest.mark.parametrize("size", [1, 2, 3, 1_000])
def test_sizes_of_batch(size: int) -> None:
    for form in forms(RAW, size - 1):
        assert both(form, RAW).holds


def test_compact_form_is_small_at_a_million_leaves() -> None:
    """800 bytes, whatever the sender's name: the path is 640 of them."""
    certificate = batch([RAW]).certificates[0]
    proof = Proof(999_999, 1_000_000, (bytes(32),) * 20)
    assert len(replace(certificate, proof=proof).compact().to_cbor()) <= 800
    leaf = replace(certificate.leaf, domain="a" * 200, text_bytes=10**6, message_id="x" * 900)
    large = replace(certificate, proof=proof, leaf=leaf)
    assert len(large.compact().to_cbor()) <= 800


def test_unsigned_messages_are_certified_without_a_key() -> None:
    raw = RAW.replace(b"DKIM-Signature", b"X-None")
    full, small = forms(raw)
    assert json.loads(full)["leaf"]["dkim"] is None
    assert both(full, raw).level == both(small, raw).level == "exact"
    document = json.loads(full)
    document["leaf"]["dkim"] = {"key": "00" * 16, "selector": ""}
    assert both(jcs.write(document), raw).failed_step == 1


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda d: d.update(version=2), 2),
        (lambda d: d.update(extra=1), 1),
        (lambda d: d["leaf"].update(extra=1), 1),
        (lambda d: d["leaf"].pop("salt"), 1),
        (lambda d: d["leaf"].update(salt="00"), 1),
        (lambda d: d["leaf"].update(links=["b", "a"]), 1),
        (lambda d: d["leaf"].update(textBytes=True), 1),
        (lambda d: d["leaf"].update(domain="evil.example"), 6),
        (lambda d: d["proof"].update(index=10**6), 5),
        (lambda d: d["proof"].update(index=1), 6),
        (lambda d: d["proof"]["path"].pop(), 5),
        (lambda d: d.update(checkpoint="x"), 1),
        (lambda d: d.update(checkpoint=d["checkpoint"].replace("\n21\n", "\n22\n")), 6),
        (lambda d: d.update(checkpoint=d["checkpoint"].replace("example.com/", "other.net/")), 7),
    ],
)
def test_step_that_failed_is_named(change: object, step: int) -> None:
    document = json.loads(forms(RAW)[0])
    change(document)  # type: ignore[operator]
    assert both(jcs.write(document), RAW).failed_step == step


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda data: data.replace(b'{"checkpoint"', b'{ "checkpoint"'),
        lambda data: data.replace(b'"version":1', b'"version":1.0'),
        lambda data: data.replace(b'"version":1', b'"version":1,"version":1'),
        lambda data: data + b"\n",
        lambda data: json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode(),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: b"[" * 5_000,
        lambda data: data + b" " * (1 << 20),
    ],
)
def test_only_the_canonical_bytes_are_read(rewrite: object) -> None:
    data = rewrite(forms(RAW)[0])  # type: ignore[operator]
    assert both(data, RAW).failed_step == 1


def test_rotation_old_and_new_key() -> None:
    certificate = batch([RAW], (NEXT_KEY, KEY)).certificates[0]
    assert both(certificate.to_json(), RAW).holds
    assert len(verify(certificate.to_json(), RAW, policy(keys=(KEY, NEXT_KEY))).signers) == 2
    assert verify(certificate.compact().to_cbor(), RAW, policy(keys=(NEXT_KEY,))).holds


def test_checkpoint_is_signed_by_its_own_name() -> None:
    other = checkpoint.SigningKey("evil.example", bytes(32))
    point = checkpoint.Checkpoint.of(KEY.name, 3, bytes(32))
    with pytest.raises(InvalidInput):
        checkpoint.sign(point, [KEY, other])
    with pytest.raises(InvalidInput):
        checkpoint.sign(point, [])
    assert point.name == KEY.name
    assert replace(point, root=bytes([1]) * 32).name == ""
    # A key that is trusted for its own name signs nothing for another's.
    line = checkpoint.signature_line(other.name, other.verifier.id + other.sign(point.text))
    note = checkpoint.read(checkpoint.write(point, [line]))
    assert note.signers([other.verifier]) == []


def test_verifier_key_text() -> None:
    text = str(KEY.verifier)
    assert checkpoint.VerifierKey.parse(text) == KEY.verifier
    assert maily_verify.Key(text).id == KEY.verifier.id
    for wrong in (text[:-4], text.replace("+", "+0", 1), "a b+00000000+AQ==", "x"):
        with pytest.raises(InvalidInput):
            checkpoint.VerifierKey.parse(wrong)


def test_c2sp_key_and_note_vector() -> None:
    """The example of the signed-note specification, as Go's sumdb/note has it."""
    key = checkpoint.VerifierKey.parse(
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    )
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    data = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJ"
        "nAM="
    )
    assert data[:4] == key.id
    assert key.verifies(data[4:], text)


# --- attaching -----------------------------------------------------------------------------------


def test_parts_and_fields_that_hold_no_certificate() -> None:
    assert compact_in(RAW) is None
    assert compact_in(b"Maily-Certificate: ???\r\n" + RAW) is None
    assert part_in(RAW) is None
    assert with_part(RAW, b"x") == RAW
    small = forms(RAW)[1]
    sent = with_header(RAW, small)
    assert compact_in(sent) == small
    assert all(len(line) <= 78 for line in sent.split(b"\r\n")[:15])


def test_second_certificate_part_counts_as_a_change() -> None:
    kind = {"Content-Type": "multipart/mixed; boundary=b"}
    raw = mail("--b\r\nContent-Type: text/html\r\n\r\n<p>Offer\r\n--b--", **kind)
    once = with_part(raw, b"{}")
    assert canonicalise(once).exact == canonicalise(raw).exact
    assert canonicalise(with_part(once, b"{}")).exact != canonicalise(raw).exact


# --- revocations ---------------------------------------------------------------------------------


def revoke(leaf: bytes, keys: tuple[checkpoint.SigningKey, ...] = (KEY,)) -> Revocation:
    hashed = revocation_hash(leaf, 1_774_000_000, 1)
    made = batch([mail(number=88)], keys, extra=(hashed,), filler=4)
    return Revocation(leaf, 1_774_000_000, 1, Proof.of(made.tree, 1), made.note)


def test_revocation() -> None:
    certificate = batch([RAW], filler=20).certificates[0]
    entry = revoke(certificate.leaf.hash)
    assert read_revocation(entry.to_json()) == entry
    for form in (certificate.to_json(), certificate.compact().to_cbor()):
        verdict = both(form, RAW, revocations=(entry,))
        assert (verdict.state, verdict.holds, verdict.failed_step) == ("revoked", False, 8)
        strangers = checkpoint.SigningKey("evil.example", bytes(32))
        for harmless in (
            revoke(bytes(32)),
            revoke(certificate.leaf.hash, (strangers,)),
            replace(entry, time_s=1),
            replace(entry, reason=2),
        ):
            assert both(form, RAW, revocations=(harmless,)).holds


# --- the rest ------------------------------------------------------------------------------------


def test_certify_checks_the_place() -> None:
    made = batch([RAW], filler=3)
    certificate = made.certificates[0]
    with pytest.raises(InvalidInput):
        certify(certificate.leaf, certificate.origins, made.tree, 1, made.note)
    with pytest.raises(InvalidInput):
        certify(certificate.leaf, (), made.tree, 0, made.note)
    with pytest.raises(InvalidInput):
        make_leaf(canonicalise(RAW), "a@example.org", DkimKey.pin("s", b"k"), b"short")


def test_salt_hides_and_differs() -> None:
    message = canonicalise(RAW)
    one, two = (make_leaf(message, "anna1@example.org") for _ in range(2))
    assert one.salt != two.salt
    assert one.hash != two.hash
    assert one.recipient != two.recipient


def anchored(*anchors: Anchor, raw: bytes = RAW) -> tuple[bytes, Receipt]:
    made = batch([raw], filler=20)
    return made.certificates[0].to_json(), Receipt(made.note, anchors)


ROOT = batch([RAW], filler=20).tree.root


def test_standalone_verifier_runs_alone(tmp_path: Path) -> None:
    """One file, in an empty directory, isolated from ours, with the network taken away."""
    source = Path(maily_verify.__file__)
    script = tmp_path / "maily_verify.py"
    blocked = "import socket\nsocket.socket = None\n"
    text = source.read_text()
    assert not re.search(r"^\s*(from|import) (mesh|actors|cluster)", text, re.MULTILINE)
    script.write_text(text.replace("import argparse\n", f"{blocked}import argparse\n", 1))
    anchor = event_anchor(ROOT)
    certificate, receipt = anchored(anchor)
    (tmp_path / "c.json").write_bytes(certificate)
    (tmp_path / "m.eml").write_bytes(RAW)
    (tmp_path / "bad.eml").write_bytes(RAW.replace(b"a third", b"a half"))
    (tmp_path / "r.json").write_bytes(receipt.to_json())
    block = f"{CHAIN}:0x{keccak(anchor.header).hex()}"

    def run(message: str, *more: str) -> tuple[int, str]:
        command = [sys.executable, "-I", str(script), "c.json", message, *more]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    key = ("--key", str(KEY.verifier))
    with_receipt = (
        "--receipt",
        "r.json",
        "--block",
        block,
        "--contract",
        f"{CHAIN}:{CONTRACT.hex()}",
    )
    status, out = run("m.eml", *key, *with_receipt)
    assert (status, json.loads(out)["state"]) == (0, "final")
    status, out = run("bad.eml", *key)
    assert (status, json.loads(out)["failedStep"]) == (1, 4)
    assert run("m.eml")[0] == 2  # nobody is trusted
    assert run("missing.eml", *key)[0] == 2
    assert run("m.eml", "--key", "nonsense")[0] == 2
    (tmp_path / "trusted-keys.txt").write_text(f"{KEY.verifier}\n")
    assert run("m.eml")[0] == 0


def test_read_certificate_takes_either_form() -> None:
    full, small = forms(RAW)
    assert read_certificate(full) == read_json(full)
    assert read_certificate(small) == read_json(full).compact()
