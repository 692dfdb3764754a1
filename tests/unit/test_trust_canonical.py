"""What a reader sees and where links lead, case by case; forged words can't hide."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from mesh.trust.canonical import canonicalise
from mesh.trust.canonical.links import origin, unwrap
from mesh.trust.standalone import maily_verify
from tests.trust_support import mail


def text_of(markup: str, kind: str = "text/html; charset=utf-8") -> str:
    raw = mail(markup, **{"Content-Type": kind})
    ours, theirs = canonicalise(raw), maily_verify.Message(raw)
    assert ours.text.data == theirs.text
    assert [tuple(link) for link in ours.text.links] == theirs.links
    return ours.text.data.decode()


def origins_of(markup: str) -> set[str]:
    return set(canonicalise(mail(markup)).text.origins)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>a <b>b</b></p>c", "abc"),
        ("a<br>b&nbsp;c&amp;d", "abc&d"),
        ("a<!-- no -->b", "ab"),
        ("<style>p{}</style><script>x</script><title>t</title>a", "a"),
        ("<STYLE>p{}</StyLe >a", "a"),
        ("a < b <3 c", "a<b<3c"),
        ('<img alt="seen"> <input value="x">a', "a"),
        ("zero\u200bwidth\ufeff and\u00ad soft", "zerowidthandsoft"),
        ("ﬁne ① ²", "fine12"),
        ("<![if !mso]>a<![endif]><?xml x?>b", "ab"),
        ('<a title="x > y">a</a>', "a"),
        ("<a title='\"'>a</a>", "a"),
        ("<p>unfinished <b", "unfinished<b"),
    ],
)
def test_text(markup: str, text: str) -> None:
    assert text_of(markup) == text


@pytest.mark.parametrize(
    "markup",
    [
        "a<!-- --!>evil<!-- -->",
        "a<!-->evil<!-- -->",
        "a<!--->evil<!-- -->",
        "a<style>evil",
        "a<svg><style><p>evil</p></style></svg>",
        "a<svg><![CDATA[evil]]></svg>",
        'a<b c"d>evil</b>"x>',
        'a<b title="x>evil',
        "a<xmp><i evil></xmp>",
        "a<textarea><i evil></textarea>",
        "a<plaintext><i evil>",
        "a<title>x</title >evil",
        "a<\u017ftyle>evil</\u017ftyle>",
        "a<!-- never ended evil",
        "a\u202eevil",
        "a<noscript>evil</noscript>",
    ],
)
def test_words_that_a_browser_might_show_are_in_the_text(markup: str) -> None:
    assert "evil" in text_of(markup).replace("\u202e", "")
    assert text_of(markup) != text_of("a")


def test_marks_that_turn_the_direction_count() -> None:
    assert text_of("a\u202eb") != text_of("ab")


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/plain", "no charset: Früh", "nocharset:Früh"),
        ("text/plain; charset=x-unknown", "Früh", "Früh"),
        ("nonsense", "<b>as it is</b>", "<b>asitis</b>"),
        ("application/pdf", "not text", ""),
        ("multipart/mixed", "no boundary", "noboundary"),
    ],
)
def test_parts(kind: str, body: str, text: str) -> None:
    assert text_of(body, kind) == text


def test_alternative_shows_its_last_part_and_mixed_all() -> None:
    part = "--b\r\nContent-Type: text/{0}\r\n\r\n{1}\r\n"
    body = part.format("plain", "one") + part.format("html", "<p>two") + "--b--"
    assert text_of(body, "multipart/alternative; boundary=b") == "two"
    assert text_of(body, 'multipart/mixed; boundary="b"') == "onetwo"
    assert text_of(body, 'multipart/mixed; boundary="b "') == "onetwo"
    hidden = "--b\r\nContent-Disposition: attachment\r\n\r\nfile\r\n" + body
    assert text_of(hidden, "multipart/mixed; boundary=b") == "onetwo"


@pytest.mark.parametrize("encoding", ["base64", "BASE64 ", "quoted-printable", "8bit"])
def test_transfer_encodings(encoding: str) -> None:
    body = {"base64": "RnLDvGg=", "quoted-printable": "Fr=C3=BC=\r\nh  "}.get(
        encoding.strip().lower(), "Früh"
    )
    raw = mail(body, **{"Content-Transfer-Encoding": encoding})
    assert canonicalise(raw).text.data.decode() == "Früh"
    assert maily_verify.Message(raw).text.decode() == "Früh"


@pytest.mark.parametrize("label", ["iso-8859-1", "US-ASCII", '"windows-1252"', "nonsense"])
def test_bytes_that_are_no_utf8_are_windows_1252(label: str) -> None:
    raw = mail("x", **{"Content-Type": f"text/plain; charset={label}"})
    raw = raw.removesuffix(b"x\r\n") + b"Fr\xfch \x80\x81\r\n"
    assert canonicalise(raw).text.data == "Früh€\ufffd".encode()
    assert maily_verify.Message(raw).text == "Früh€\ufffd".encode()


HOSTILE = ["<a b='", "<!--", "<!-- -->", "<a ", "<style>", "<xmp>", "</", "<a b=\"<a c='", "<a 'x"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_markup_is_read_in_passing(piece: str) -> None:
    """It would take an hour if every tag without an end looked at all the rest."""
    text_of(piece * 40_000)


INNER = "https://shop.example.com/a?b=1&c=ü"


def _mandrill() -> str:
    inner = json.dumps({"p": json.dumps({"url": INNER, "id": "x"})}).encode()
    return base64.urlsafe_b64encode(inner).decode().rstrip("=")


@pytest.mark.parametrize(
    "wrapped",
    [
        f"https://eur03.safelinks.protection.outlook.com/?url={quote(INNER, '')}&data=x&reserved=0",
        f"https://urldefense.proofpoint.com/v1/url?u={quote(INNER, '')}&k=1",
        "https://urldefense.proofpoint.com/v2/url?u="
        f"{quote(INNER, '').replace('-', '%2D').replace('%', '-')}&d=x",
        "https://urldefense.com/v3/__https://shop.example.com/a?b=1&c=*__;"
        + base64.urlsafe_b64encode("ü".encode("latin-1")).decode().rstrip("=")
        + "!!x$",
        f"https://www.google.com/url?q={quote(INNER, '')}&sa=D",
        f"https://google.com/url?sa=t&url={quote(INNER, '')}",
        f"https://linkprotect.cudasvc.com/url?a={quote(INNER, '')}&c=E",
        f"https://secure-web.cisco.com/1abc/{quote(INNER, '')}",
        f"https://mandrillapp.com/track/click/123/shop.example.com?p={_mandrill()}",
    ],
)
def test_wrappers_come_off(wrapped: str) -> None:
    assert unwrap(wrapped) == INNER
    assert maily_verify.unwrapped(wrapped) == INNER
    twice = f"https://www.google.com/url?q={quote(wrapped, '')}"
    assert unwrap(twice) == maily_verify.unwrapped(twice) == INNER


@pytest.mark.parametrize(
    "url",
    [
        "https://safelinks.protection.outlook.com.evil.example/?url=https://good.example",
        "https://www.google.com/search?q=https://good.example",
        "https://www.google.com/url?q=javascript:alert(1)",
        "https://evil.example/url?q=https://good.example",
        "https://user@www.google.com/url?q=https://good.example",
        "https://mandrillapp.com/track/click/1/x?p=AAAA",
        "https://urldefense.com/v3/nothing",
    ],
)
def test_what_is_no_wrapper_stays(url: str) -> None:
    assert unwrap(url) == maily_verify.unwrapped(url) == url


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://Example.COM/path?q#f", "https://example.com"),
        ("http://example.com:80/", "http://example.com"),
        ("http://example.com:443/", "http://example.com:443"),
        ("https://bank.example@evil.example/", "https://evil.example"),
        ("https:\\\\evil.example\\x", "https://evil.example"),
        ("https:evil.example", "https://evil.example"),
        ("//evil.example/x", "https://evil.example"),
        ("https://evil.example.", "https://evil.example"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443"),
        ("mailto:Anna@Example.org?subject=x", "mailto:example.org"),
        ("javascript:alert(1)", "javascript:"),
        ("data:text/html,x", "data:"),
        ("tel:+4930", "tel:"),
        ("#top", None),
        ("/relative", None),
        ("https://", None),
        ("mailto:", None),
    ],
)
def test_origins(url: str, wanted: str | None) -> None:
    assert origin(url) == wanted
    assert maily_verify.origin_of(url) == wanted


def test_links_are_found_wherever_they_point_from() -> None:
    found = origins_of(
        "<a HREF=https://a.example>x</a><form action='https://b.example'><button "
        'formaction="https://c.example"><svg><a xlink:href="https://d.example"></svg>'
        "https://e.example/x, <area href=' \thttps://f.ex\nample'><base href=https://g.example>"
        "<link href=https://style.example><img src=https://img.example>"
    )
    assert found == {f"https://{letter}.example" for letter in "abcdefg"}


def test_sender_is_named_clearly_or_not_at_all() -> None:
    assert canonicalise(mail()).domain == "example.com"
    evil = mail(From='"news@example.com" <x@evil.example>')
    assert canonicalise(evil).domain == "evil.example"
    assert canonicalise(b"From: a@b.example\r\n" + mail()).domain == ""
    assert canonicalise(mail(From="nobody")).domain == "nobody"
    assert canonicalise(mail(From="x@exämple.com")).domain == ""


def test_exact_counts_added_fields_and_ignores_trace() -> None:
    digest = canonicalise(mail()).exact
    assert canonicalise(b"Received: from x\r\n" + mail()).exact == digest
    assert canonicalise(b"Reply-To: x@evil.example\r\n" + mail()).exact != digest
    assert canonicalise(b"From x Mon Jan\n" + mail().replace(b"\r\n", b"\n")).exact == digest
    assert canonicalise(mail(Subject="Spring  has\r\n\tbegun ")).exact == digest
