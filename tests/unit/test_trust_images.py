"""QR codes read back as a camera would, the badge, and the snippet within a certified mail."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from io import BytesIO

import pytest
import zxingcpp
from PIL import Image

from benchmarks.trustworks.rewriters import REWRITERS
from mesh.core.errors import InvalidInput
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import Compact, Proof, read_cbor
from mesh.trust.levels import Level
from mesh.trust.present import badge, links, qr, snippet
from tests.trust_support import batch, both, mail

BASE = "https://mail.example.com"
ID = "a2b3c4d5" * 4
LINK = links.verify_url(BASE, ID)


def a_million() -> bytes:
    """A compact certificate at a million leaves, of bytes that can't be told from real ones."""
    rng = random.Random(4)
    path = tuple(rng.randbytes(32) for _ in range(20))
    proof = Proof(654_321, 1_000_000, path)
    return Compact(
        rng.randbytes(16), rng.randbytes(32), rng.randbytes(16), 1833, proof, rng.randbytes(68)
    ).to_cbor()


WHOLE_LINK = links.verify_url(BASE, ID, a_million())


def scanned(image: Image.Image) -> list[str]:
    """What zxing reads of it: its text, and not anything else that it takes for a code."""
    found = zxingcpp.read_barcodes(image.convert("L"), formats=zxingcpp.BarcodeFormat.QRCode)
    return [code.text for code in found]


def opened(png: bytes) -> Image.Image:
    return Image.open(BytesIO(png))


def drawn(svg: bytes, scale: int = 4) -> Image.Image:
    """Our SVG of a code as a browser would draw it: a ground, and lines one module thick."""
    root = ET.fromstring(svg)
    side = int((root.get("viewBox") or "").split()[2])
    *_, lines = root
    assert lines.get("stroke") == "#000"
    image = Image.new("L", (side * scale, side * scale), 255)
    for line in (lines.get("d") or "").split("M")[1:]:
        start, length = line.split("h")
        x, y = (float(number) for number in start.split())
        left, top = int(x) * scale, int(y) * scale
        image.paste(0, (left, top, left + int(length) * scale, top + scale))
    return image


@pytest.mark.parametrize(
    ("text", "options"), [(LINK, qr.LINK), (WHOLE_LINK, qr.WHOLE)], ids=["link", "whole proof"]
)
def test_every_form_is_read_back(text: str, options: qr.QrOptions) -> None:
    png = qr.qr_png(text, options)
    image = opened(png)
    assert image.mode == "1"
    assert scanned(image) == [text]
    assert scanned(drawn(qr.qr_svg(text, options))) == [text]
    # A photograph of a screen: smaller, turned, compressed; also inverted around (dark mode).
    grey = image.convert("L")
    turned = grey.rotate(7, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    assert scanned(turned) == [text]
    jpeg = BytesIO()
    grey.convert("RGB").save(jpeg, "JPEG", quality=35)
    assert scanned(Image.open(jpeg)) == [text]
    dark = Image.new("L", (grey.width + 200, grey.height + 200), 10)
    dark.paste(grey, (100, 100))
    assert scanned(dark) == [text]
    assert qr.qr_png(text, options) == png


@pytest.mark.parametrize("css_pixels", [snippet.QR_CSS_PIXELS, 90])
def test_the_link_is_read_at_the_size_that_a_mail_shows_it(css_pixels: int) -> None:
    image = opened(qr.qr_png(LINK)).convert("L")
    small = image.resize((css_pixels, css_pixels), Image.Resampling.BILINEAR)
    assert scanned(small) == [LINK]


def test_the_whole_proof_of_a_certificate_among_a_million_is_one_code() -> None:
    proof = a_million()
    assert len(proof) <= 800
    code = qr.qr_code(WHOLE_LINK, "L")
    assert code.version <= 21  # 101 modules a side, at error correction L
    (text,) = scanned(opened(qr.qr_png(WHOLE_LINK, qr.WHOLE)))
    read = links.read_link(text)
    assert read == links.VerifyLink(BASE, ID, proof)
    assert read.proof is not None
    assert read_cbor(read.proof).proof.size == 1_000_000


def test_digits_go_into_numeric_mode() -> None:
    digits = links.fragment_of(a_million())
    as_bytes = qr.qr_code("x" * len(digits), "L")
    assert qr.qr_code(digits, "L").version < as_bytes.version - 8


def test_error_correction_is_raised_where_it_costs_nothing() -> None:
    tried = [qr.qr_code("a" * length, "M") for length in range(1, 120)]
    assert {code.level for code in tried} == {"M", "Q", "H"}
    for length, code in enumerate(tried, start=1):
        assert code.version == min(v for v, room in CAPACITY_M.items() if length <= room)


CAPACITY_M = dict(enumerate([14, 26, 42, 62, 84, 106, 122], start=1))
"""Bytes in a code of a version at M (ISO/IEC 18004, table 7)."""


def test_sizes_are_bounded() -> None:
    for pixels in (0, 63, 2049, 10**9):
        with pytest.raises(InvalidInput) as refused:
            qr.QrOptions(pixels=pixels)
        assert refused.value.details == {"field": "size"}
    for pixels in (64, 65, 500, 2048):
        image = opened(qr.qr_png(LINK, qr.QrOptions(pixels=pixels)))
        side = qr.qr_code(LINK).side
        assert image.size == (max(2, pixels // side) * side,) * 2


def test_what_no_code_can_hold_is_refused() -> None:
    for level in ("L", "M", "Q", "H"):
        with pytest.raises(InvalidInput):
            qr.qr_png("x" * 3000, qr.QrOptions(level=level))


def test_text_in_pictures_is_escaped() -> None:
    title = '</title><script>alert("1")</script>&'
    root = ET.fromstring(qr.qr_svg(LINK, qr.QrOptions(title=title)))
    assert [child.tag.rpartition("}")[2] for child in root] == ["title", "path", "path"]
    assert root[0].text == title
    root = ET.fromstring(badge.badge_svg('a"<b>&c'))
    assert {child.tag.rpartition("}")[2] for child in root} == {"title", "rect", "g", "text"}
    assert root[-1].text == 'Check this email at a"<b>&c'


# --- Badge --------------------------------------------------------------------------------------


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_badge_is_legible_and_neutral(theme: badge.Theme) -> None:
    colours = badge.THEMES[theme]
    assert contrast(colours.ground, colours.text) >= 12
    for colour in (colours.ground, colours.text, colours.line):
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        assert green <= max(red, blue), "green would read as a verdict"
    for scale in (1, 2, 3):
        options = badge.BadgeOptions(theme, scale)
        image = opened(badge.badge_png("mail.example.com", options))
        assert image.size == (badge.badge_width("mail.example.com") * scale, 32 * scale)
        assert image.convert("RGBA").getpixel((0, 0))[3] < 255  # type: ignore[index]
        middle = image.convert("RGB").getpixel((image.width - 4 * scale, image.height // 2))
        assert "#{:02x}{:02x}{:02x}".format(*middle) == colours.ground  # type: ignore[misc]
        assert badge.badge_png("mail.example.com", options) == badge.badge_png(
            "mail.example.com", options
        )
    svg = badge.badge_svg("mail.example.com", badge.BadgeOptions(theme)).decode()
    for word in ("valid", "verified", "✓", "certified", "style", "script", "href"):
        assert word not in svg.lower()


def test_of_a_long_host_the_end_is_shown() -> None:
    host = "mail.bank.example." + "a" * 60 + ".evil.example"
    svg = badge.badge_svg(host).decode()
    assert svg.rpartition("<text")[2].partition("</text>")[0].endswith(".evil.example")
    assert badge.badge_width(host) < 700


@pytest.mark.parametrize("host", ["", "münchen.example", "a b", "a\nb", "a\x00"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(InvalidInput):
        badge.badge_svg(host)
    with pytest.raises(InvalidInput):
        badge.badge_png(host)


def test_options_of_badges_are_bounded() -> None:
    for wrong in ({"scale": 0}, {"scale": 4}, {"theme": "green"}):
        with pytest.raises(InvalidInput):
            badge.BadgeOptions(**wrong)  # type: ignore[arg-type]


# --- Snippet ------------------------------------------------------------------------------------


class Pictures(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, str | None]] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.seen.append(dict(attrs))
        if tag == "a":
            self.links.append(dict(attrs)["href"])


def test_a_mail_with_its_own_code_is_certified_and_survives_rewriting() -> None:
    made = snippet.email_snippet(BASE, ID)
    message = mail(f"<html><body><p>Our spring sale has begun.</p>{made.html}</body></html>")
    papers = batch([message], filler=5)
    certificate = papers.certificates[0].to_json()
    assert both(certificate, message).level is Level.EXACT
    assert BASE in papers.certificates[0].origins
    text = canonicalise(message).text.data
    assert b"Checkthisemailatmail.example.com" in text
    assert ID.encode() not in text  # the words are the same for all
    for name, rewrite in REWRITERS.items():
        verdict = both(certificate, rewrite(message))
        assert verdict.holds, name
    # Whoever points the link elsewhere is found out, though every word is the same.
    forged = message.replace(b"https://mail.example.com/verify", b"https://mail.examp1e.com/verify")
    assert both(certificate, forged).level is Level.DIFFERENT
    assert both(certificate, forged).differs[1:] == ("links",)


def test_the_snippet_is_plain_hosted_and_described() -> None:
    made = snippet.email_snippet(BASE + "/", ID.upper())
    read = Pictures()
    read.feed(made.html)
    assert {*read.links} == {LINK}
    qr_image, badge_image = read.seen
    assert links.read_image_link(str(qr_image["src"])).kind == "qr"
    assert links.read_image_link(str(badge_image["src"])).kind == "badge"
    assert badge_image["alt"] == badge.alt_text("mail.example.com")
    assert qr_image["alt"]
    for word in ("data:", "<style", "script", "\n"):
        assert word not in made.html
    assert made.html.isascii()
    assert made.text == f"Check this email at mail.example.com: {LINK}"
