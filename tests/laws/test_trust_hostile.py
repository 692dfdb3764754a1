"""Messages made to be dear: hundreds of kilobytes each, read by all three verifiers alike.

No pattern may look at the rest of a message from each of its places: then one of these takes hours.
So the test's own time limit is what fails.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mesh.trust.canonical import canonicalise
from mesh.trust.standalone.maily_verify import Message
from tests.trust_page_support import Judge, b64, judges

SIZE = 300_000
HTML = b"From: a@b.c\nContent-Type: text/html\n"


def of(piece: bytes, end: bytes = b"") -> bytes:
    return piece * (SIZE // len(piece)) + end


CASES = {
    "spaces in a body": HTML + b"\n" + of(b" ", b"x"),
    "spaces in quoted-printable": (
        HTML + b"Content-Transfer-Encoding: quoted-printable\n\n" + of(b" ", b"x")
    ),
    "spaces in a link": HTML + b'\n<a href="' + of(b" ", b'x">'),
    "spaces in a field": b"Subject:" + of(b" ", b"x\nFrom: a@b.c\n\n"),
    "dots after a URL": HTML + b"\nhttp://a" + of(b".", b"x"),
    "dots in a host": HTML + b'\n<a href="http://' + of(b".", b'a">'),
    "starts of a wrapper": HTML + b"\nhttp://urldefense.com" + of(b"/v3/__"),
    "a wrapper's end too early": HTML + b"\nhttp://urldefense.com/v3/__;" + of(b"/v3/__"),
    "digits of a reference": HTML + b"\n&#" + of(b"1", b";"),
    "zeros of a reference": HTML + b"\n&#" + of(b"0", b"65;"),
    "references": HTML + b"\n" + of(b"&"),
    "tags": HTML + b"\n" + of(b"<a "),
    "attributes": HTML + b"\n<a " + of(b"b ", b">"),
    "values without an end": HTML + b"\n" + of(b'<a b="'),
    "comments": HTML + b"\n" + of(b"<!-- "),
    "elements without an end": HTML + b"\n" + of(b"<xmp>"),
    "parts": b"Content-Type: multipart/mixed; boundary=b\n\n" + of(b"--b\n\n"),
    "a boundary that ends in white space": (
        b'Content-Type: multipart/mixed; boundary="b \t "\n\n--b \n\none\n--b\n\ntwo\n--b--\t\n'
    ),
    "parameters": b"Content-Type: text/html" + of(b';charset="\\', b"\n\nx"),
    "recipients": b"To: " + of(b",", b"\n\n"),
    "selectors": b"DKIM-Signature: " + of(b"; ", b"\nFrom: a@b.c\n\n"),
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with judges() as found:
        if found is None:
            pytest.skip("neither node nor Chromium is here")
        yield found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CASES)
def test_hostile_message_is_read(name: str) -> None:
    ours, theirs = canonicalise(CASES[name]), Message(CASES[name])
    assert (ours.exact, ours.text.data) == (theirs.exact, theirs.text)
    assert [tuple(link) for link in ours.text.links] == theirs.links


@pytest.mark.timeout(120)
def test_hostile_messages_are_read_by_the_page(judge: Judge) -> None:
    found = judge([{"op": "canonical", "message": b64(raw)} for raw in CASES.values()])
    for (name, raw), answer in zip(CASES.items(), found, strict=True):
        ours = canonicalise(raw)
        assert (answer["exact"], answer["text"]) == (ours.exact.hex(), b64(ours.text.data)), name
        assert answer["links"] == [list(link) for link in ours.text.links], name


def test_numbers_of_references_are_read_to_their_end() -> None:
    """Zeros before them count for nothing, more digits than Unicode has are no character."""
    for written, character in (
        ("0" * 5000 + "65", "A"),
        ("1" * 5000, "\ufffd"),
        ("9" * 9, "\ufffd"),
    ):
        raw = HTML + f"\n&#{written};".encode()
        assert canonicalise(raw).text.data.decode() == character
        assert Message(raw).text.decode() == character
