"""``maily verify``: finds the certificate, judges, says what differs, exits as it says."""

from __future__ import annotations

import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from cluster.failures import NO_CERTIFICATE, REVOKED, UNHEALTHY, USAGE
from mesh.trust.attach import attached
from mesh.trust.present import links, snippet
from mesh.trust.receipt import Receipt
from tests.trust_support import CHAIN, CONTRACT, KEY, batch, event_anchor, mail
from tests.trust_verify_support import ID, Papers, home, papers, row, run, write

__all__ = ["home", "papers", "run"]


# --- Where the certificate is -------------------------------------------------------------------


def test_the_certificate_is_found_in_the_message(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    code, text = run(sent, "--key", papers.key)
    assert code == 0
    assert "✓ exact" in text
    assert "in the message (part), JSON" in text
    assert "example.com: same as in the message" in text
    # Of a message that is no multipart/mixed: the header.
    raw = mail()
    small = batch([raw], filler=3).certificates[0]
    sent = write(home / "h.eml", attached(raw.replace(b"\r\n", b"\n"), small.to_json()))
    code, text = run(sent, "--key", papers.key, "--exact")
    assert code == 0
    assert "in the message (header), CBOR" in text


@pytest.mark.parametrize("ending", [".certificate.json", ".json", ".cbor"])
def test_the_certificate_is_found_beside_the_message(
    home: Path, papers: Papers, run: Any, ending: str
) -> None:
    sent = write(home / "m.eml", papers.raw)
    code, text = run(sent, "--key", papers.key)
    assert code == NO_CERTIFICATE
    assert "no certificate" in text
    form = papers.certificate
    data = form.compact().to_cbor() if ending == ".cbor" else form.to_json() + b"\n"
    write(home / f"m{ending}", data)
    code, text = run(sent, "--key", papers.key)
    assert code == 0
    assert f"m{ending}" in text


def test_a_certificate_can_be_named_in_any_form(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", papers.raw)
    compact = papers.certificate.compact().to_cbor()
    named = [
        str(write(home / "c.json", papers.certificate.to_json())),
        str(write(home / "c.cbor", compact)),
        links.fragment_of(compact),
        f"#{links.fragment_of(compact)}",
        links.verify_url("https://mail.example.com", ID, compact),
    ]
    for one in named:
        code, text = run(sent, "--key", papers.key, "--certificate", one, "--offline")
        assert (code, "✓ exact" in text) == (0, True), one
    for wrong in ("nothing.json", "12345", "https://example.com/other", "ö", "\x00"):
        code, text = run(sent, "--key", papers.key, "-c", wrong)
        assert code == USAGE, wrong
    for known_there in (ID, links.verify_url("https://mail.example.com", ID)):
        code, text = run(sent, "--key", papers.key, "-c", known_there)
        assert code == USAGE
        assert "--server" in text


def test_a_link_in_the_message_is_told_and_not_opened(home: Path, papers: Papers, run: Any) -> None:
    said = snippet.email_snippet("https://mail.example.com", ID).html
    sent = write(home / "m.eml", mail(f"<p>Hello</p>{said}"))
    code, text = run(sent, "--key", papers.key)
    assert code == NO_CERTIFICATE
    assert f"https://mail.example.com/verify/{ID}" in text
    # One that holds the proof needs nobody.
    whole = links.verify_url("https://x.example", ID, papers.certificate.compact().to_cbor())
    sent = write(
        home / "w.eml", papers.raw.replace(b"</p>", f' <a href="{whole}">x</a></p>'.encode())
    )
    code, text = run(sent, "--key", papers.key)
    assert "in the message (link), CBOR" in text


# --- What it says -------------------------------------------------------------------------------


def test_what_differs_is_said(home: Path, papers: Papers, run: Any) -> None:
    certificate = write(home / "c.json", papers.certificate.to_json())
    give = ("--key", papers.key, "-c", certificate)

    code, text = run(write(home / "a.eml", papers.raw.replace(b"a third", b"a half")), *give)
    assert code == UNHEALTHY
    assert "✗ different" in text
    assert "Step 4" in text
    assert "text" in row(text, "differs")

    subject = write(home / "b.eml", papers.raw.replace(b"Spring has", b"Winter has"))
    code, text = run(subject, *give)
    assert code == 0
    assert "✓ same text" in text
    assert "Subject, attachments" in text
    assert run(subject, *give, "--exact")[0] == UNHEALTHY

    more = papers.raw.replace(
        b"Sunday.", b"Sunday. \x1b[31mPay at https://evil.example/x\x1b[0m now"
    )
    code, text = run(write(home / "c.eml", more), *give)
    assert code == 0
    assert "✓ same text with additions" in text
    assert "https://evil.example" in text
    assert "\x1b" not in text  # what a message says gets at no terminal

    code, text = run(write(home / "d.eml", papers.raw), *give, "--recipient", "eve@example.org")
    assert code == 0
    assert "another than in the message" in row(text, "recipient")


def test_json_says_the_same(home: Path, papers: Papers, run: Any) -> None:
    certificate = write(home / "c.json", papers.certificate.to_json())
    give = ("--key", papers.key, "-c", certificate, "--json")
    code, text = run(write(home / "a.eml", papers.raw), *give)
    told = json.loads(text)
    assert code == told["exit_code"] == 0
    assert (told["holds"], told["level"], told["state"]) == (True, "exact", "included")
    assert told["root"] == papers.batch.tree.root.hex()
    assert told["checked"] == {"revocations": None, "receipt": False}
    code, text = run(write(home / "b.eml", b"\r\nother"), *give)
    told = json.loads(text)
    assert code == told["exit_code"] == UNHEALTHY
    assert (told["holds"], told["failed_step"], told["level"]) == (False, 4, "different")


def test_several_messages_are_a_table(home: Path, papers: Papers, run: Any) -> None:
    good = write(home / "good.eml", attached(papers.raw, papers.certificate.to_json()))
    bad = write(
        home / "bad.eml",
        attached(papers.raw, papers.certificate.to_json()).replace(b"third", b"half"),
    )
    none = write(home / "none.eml", papers.raw)
    code, text = run(good, good, "--key", papers.key)
    assert code == 0
    assert "2 of 2 hold." in text
    code, text = run(good, bad, none, "--key", papers.key)
    assert code == 1
    assert "1 of 3 hold." in text
    assert "no certificate" in text
    assert run(none, good, none, "--key", papers.key)[0] == NO_CERTIFICATE
    code, text = run(good, bad, "--key", papers.key, "--json")
    assert [told["exit_code"] for told in json.loads(text)] == [0, 1]


def test_standard_input(
    home: Path, papers: Papers, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = attached(papers.raw, papers.certificate.to_json())
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(sent)))
    code, text = run("-", "--key", papers.key)
    assert (code, "✓ exact" in text) == (0, True)


# --- Keys, receipts, revocations ----------------------------------------------------------------


def test_keys_of_the_home_are_the_default(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    code, text = run(sent)
    assert code == USAGE
    assert "trusted-keys" in text
    assert not (home / "home").exists()
    (home / "home").mkdir()
    kept = write(home / "home" / "trusted-keys", f"# of the shop\n\n{papers.key}\n")
    assert run(sent)[0] == 0
    write(kept, "example.com/trust+00000000+AAAA\n")
    code, text = run(sent)
    assert code == USAGE
    assert "line 1" in text
    assert run(sent, "--key", papers.key)[0] == 0
    other = str(type(KEY)("example.com/trust", bytes(32)).verifier)
    code, text = run(sent, "--keys", write(home / "k", other))
    assert code == UNHEALTHY
    assert "Step 7" in text


def test_a_receipt_needs_somebody_who_knows_blocks(home: Path, papers: Papers, run: Any) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    give = (sent, "--key", papers.key, "--receipt", receipt)
    code, text = run(*give)
    assert code == USAGE
    assert "--headers" in text
    blocks = write(home / "blocks", f"# mine\n{papers.block} # spring\n")
    code, text = run(*give, "--headers", f"pinned:{blocks}", "--final", "--offline")
    assert code == 0
    assert "final. A public network has it for good" in text
    assert "4711 of chain 31337" in text
    place = f"{CHAIN}:0x{CONTRACT.hex()}"
    assert run(*give, "--headers", f"pinned:{blocks}", "--contract", place)[0] == 0
    other = f"{CHAIN}:0x{bytes(20).hex()}"
    assert run(*give, "--headers", f"pinned:{blocks}", "--contract", other)[0] == UNHEALTHY
    assert run(*give, "--headers", f"pinned:{blocks}", "--networks", "2")[0] == UNHEALTHY
    write(blocks, f"{CHAIN}:{'0' * 64}\n")
    code, text = run(*give, "--headers", f"pinned:{blocks}")
    assert code == UNHEALTHY
    assert "Step 9" in text
    # The home's file is the default.
    (home / "home").mkdir()
    write(home / "home" / "trusted-blocks", papers.block)
    assert run(*give, "--final")[0] == 0
    # Another batch's receipt does not pass for this one's.
    strange = batch([mail("<p>x</p>")])
    write(receipt, Receipt(strange.note, (event_anchor(strange.tree.root, count=8),)).to_json())
    assert run(*give)[0] == UNHEALTHY


@pytest.mark.parametrize(
    "wrong",
    ["", "pinned:", "pinned:nothing", "node:", "quorum:http://a", "quorum:http://a/2", "other:x"],
)
def test_policies_that_cannot_be(home: Path, papers: Papers, run: Any, wrong: str) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    receipt = write(home / "r.json", papers.receipt.to_json())
    code, _ = run(sent, "--key", papers.key, "--receipt", receipt, "--headers", wrong)
    assert code == USAGE


@pytest.mark.parametrize("form", ["one", "lines", "page"])
def test_a_revocation_counts(home: Path, papers: Papers, run: Any, form: str) -> None:
    sent = write(home / "m.eml", attached(papers.raw, papers.certificate.to_json()))
    entry = papers.revocation.to_json()
    page = {"revocations": [json.loads(entry)], "next": None, "as_of": "2026-03-20T09:00:00Z"}
    data = {"one": entry, "lines": entry + b"\n" + entry + b"\n", "page": json.dumps(page)}[form]
    code, text = run(sent, "--key", papers.key, "--revocations", write(home / "r", data))
    assert code == REVOKED
    assert "✗ revoked" in text
    assert "Step 8" in text
    write(home / "r", "[]")
    code, text = run(sent, "--key", papers.key, "--revocations", home / "r")
    assert code == 0
    assert "0 looked at" in text
    assert "not looked at" in run(sent, "--key", papers.key)[1]
    write(home / "r", b"[{}]")
    assert run(sent, "--key", papers.key, "--revocations", home / "r")[0] == USAGE


def test_json_does_not_steer_a_terminal(home: Path, papers: Papers, run: Any) -> None:
    added = "Sunday. \x9b31m and \u202eback Größe".encode()
    sent = write(home / "m.eml", papers.raw.replace(b"Sunday.", added))
    give = ("-c", write(home / "c.json", papers.certificate.to_json()), "--key", papers.key)
    code, text = run(sent, *give, "--json")
    assert code == 0
    assert not any(mark in text for mark in "\x9b\u202e")
    assert "Größe" in text
    assert "\u202e" in json.loads(text)["added_after"]
