"""A certificate in its mail: put there, found there, and in no digest."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster import cli
from cluster.cli import attach as attach_verb
from cluster.cli import console
from cluster.cli.snippet import snippet as snippet_verb
from mesh.core.errors import InvalidInput
from mesh.trust.attach import attached, compact_in, part_in
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import Certificate
from mesh.trust.finding import MAX_LINKS, certificate_in, links_in
from mesh.trust.levels import Level
from mesh.trust.present import links, snippet
from tests.trust_support import batch, both, mail

ID = "a2b3c4d5" * 4
BASE = "https://mail.example.com"
BODY = "--b\r\nContent-Type: text/html\r\n\r\n<p>Hello Anna, our spring sale.</p>\r\n--b--\r\n"
MIXED = mail(BODY, **{"Content-Type": 'multipart/mixed; boundary="b"'})
HTML = mail()


def certificate_of(raw: bytes) -> Certificate:
    return batch([raw], filler=3).certificates[0]


@pytest.mark.parametrize("raw", [MIXED, HTML], ids=["mixed", "html"])
@pytest.mark.parametrize("lines", ["crlf", "lf", "mbox"])
def test_it_is_found_and_changes_nothing(raw: bytes, lines: str) -> None:
    certificate = certificate_of(raw)
    full, small = certificate.to_json(), certificate.compact().to_cbor()
    if lines != "crlf":
        raw = raw.replace(b"\r\n", b"\n")
    if lines == "mbox":
        raw = b"From anna Fri Mar 20 09:00:00 2026\n" + raw
    sent = attached(raw, full)
    assert canonicalise(sent) == canonicalise(raw)
    assert compact_in(sent) == small
    found = certificate_in(sent)
    assert found is not None
    if b"multipart/mixed" in raw:
        assert part_in(sent) == found.data == full
        assert found.where == "part"
    else:
        assert (found.data, found.where) == (small, "header")
    assert both(full, sent).level is Level.EXACT
    assert both(small, sent).level is Level.EXACT
    assert (b"\r\n" in sent) == (lines == "crlf")
    assert sent.startswith(b"From anna" if lines == "mbox" else b"Maily-Certificate:")
    small_alone = attached(raw, small)
    assert part_in(small_alone) is None
    assert compact_in(small_alone) == small


def test_a_second_one_is_refused() -> None:
    full = certificate_of(MIXED).to_json()
    for raw in (attached(MIXED, full), attached(HTML, certificate_of(HTML).to_json())):
        with pytest.raises(InvalidInput, match="already"):
            attached(raw, full)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_attached_to_truly_or_refused(raw: bytes, mixed: bool) -> None:
    full = certificate_of(HTML).to_json()
    if mixed:
        raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b" + raw + b"\r\n--b--"
    try:
        sent = attached(raw, full)
    except InvalidInput:
        return
    assert canonicalise(sent) == canonicalise(raw)
    assert certificate_in(sent) is not None


def test_what_is_no_certificate_is_refused() -> None:
    for wrong in (b"", b"{}", b"x" * 100):
        with pytest.raises(InvalidInput):
            attached(HTML, wrong)


# --- Links --------------------------------------------------------------------------------------


def test_links_are_found_as_mail_systems_leave_them() -> None:
    page = links.verify_url(BASE, ID)
    wrapped = "https://eur01.safelinks.protection.outlook.com/?url=" + page.replace(
        "/", "%2F"
    ).replace(":", "%3A")
    for body in (
        f'<a href="{page}">x</a>',
        f'<a href="{page.replace("/", "&#47;")}">x</a>',
        f"see {page}.",
        f'<a href="{wrapped}&amp;data=05">x</a>',
        snippet.email_snippet(BASE, ID).html,
    ):
        assert links_in(mail(f"<p>{body}</p>")) == [links.VerifyLink(BASE, ID, None)], body
    assert links_in(mail(f"<p>{page}x</p>")) == []  # a longer word is no id
    assert links_in(mail("<p>https://example.com/verify/short</p>")) == []
    many = " ".join(links.verify_url(f"https://{n}.example.com", ID) for n in range(100))
    assert len(links_in(mail(f"<p>{many}</p>"))) == MAX_LINKS


# --- The commands -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in list(os.environ):
        if name.startswith(("MAILY_", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAILY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def go(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["maily", *map(str, arguments)])
        monkeypatch.setattr(console, "current", console.Invocation())
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return go


def test_attach_then_verify(tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.trust_support import KEY

    certificate = certificate_of(MIXED)
    (tmp_path / "m.eml").write_bytes(MIXED)
    (tmp_path / "c.json").write_bytes(certificate.to_json() + b"\n")
    assert run("trust", "attach", "m.eml", "-c", "c.json", "-o", "o.eml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["where"] == ["header", "part"]
    assert run("verify", "o.eml", "--key", KEY.verifier, "--exact") == 0
    before = (tmp_path / "o.eml").read_bytes()
    assert run("trust", "attach", "m.eml", "-c", "c.json", "-o", "o.eml") == 2  # it is there
    assert (tmp_path / "o.eml").read_bytes() == before
    assert run("trust", "attach", "o.eml", "-c", "c.json", "-o", "p.eml") == 2  # it has one
    (tmp_path / "other.eml").write_bytes(MIXED.replace(b"Anna", b"Eve"))
    assert run("trust", "attach", "other.eml", "-c", "c.json", "-o", "p.eml") == 1
    assert run("trust", "attach", "m.eml", "-c", ID, "-o", "p.eml") == 2
    assert run("trust", "attach", "m.eml", "-c", "c.json", "--json") == 2
    assert not (tmp_path / "p.eml").exists()
    digits = links.fragment_of(certificate.compact().to_cbor())
    assert run("trust", "attach", "m.eml", "-c", digits, "-o", "d.eml") == 0
    assert run("verify", "d.eml", "--key", KEY.verifier, "--exact") == 0


def test_attach_to_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.eml").write_bytes(HTML)
    (tmp_path / "c.json").write_bytes(certificate_of(HTML).to_json())
    attach_verb.attach(tmp_path / "m.eml", "c.json")
    assert certificate_in(capfdbinary.readouterr().out) is not None


def test_the_snippet_by_command() -> None:
    app = typer.Typer()
    app.command()(snippet_verb)
    made = snippet.email_snippet(BASE, ID)
    shown = CliRunner().invoke(app, [ID, "--base", BASE])
    assert shown.stdout == made.html + "\n"
    assert CliRunner().invoke(app, [ID, "--base", BASE, "--text"]).stdout == made.text + "\n"
    told = CliRunner().invoke(app, [ID, "--base", BASE, "--json"])
    assert json.loads(told.stdout) == {"html": made.html, "text": made.text}
    assert CliRunner().invoke(app, ["short", "--base", BASE]).exit_code != 0
