"""The certificate's sheet of paper: one page, the same bytes, honest letters, codes that scan."""

from __future__ import annotations

import re
import zlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mesh.contracts.networks import AnchorState, AnchorView
from mesh.contracts.trust import CertificateState, CertificateView, RevokedView, RevokeReason
from mesh.core.errors import InvalidInput
from mesh.trust.certificate import read_cbor
from mesh.trust.present.glyphs import core_font_has, showable
from mesh.trust.present.pdf import SheetOptions, certificate_sheet
from mesh.trust.present.words import STATES
from tests.unit.test_trust_images import BASE, ID, LINK, WHOLE_LINK, a_million, scanned

_PUBLIC = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
SIGNER = f"example.com/trust+{read_cbor(a_million()).signature[:4].hex()}+{_PUBLIC}"
KEYS = (f"example.com/trust+00000001+{_PUBLIC}", SIGNER, f"example.com/trust+00000002+{_PUBLIC}")
AS_OF = datetime(2026, 3, 21, 8, 30, tzinfo=UTC)
ANCHOR = AnchorView(
    network="local",
    chain_id=31337,
    state=AnchorState.FINAL,
    tx="0x" + "ab" * 32,
    block_number=4711,
    block_hash="0x" + "cd" * 32,
)


def view(**other: object) -> CertificateView:
    facts: dict[str, object] = {
        "id": ID,
        "state": CertificateState.FINAL,
        "batch": UUID(int=5),
        "index": 654_321,
        "size": 1_000_000,
        "root": "ab" * 32,
        "leaf": "cd" * 32,
        "subject": "Spring has begun",
        "date": "Fri, 20 Mar 2026 09:00:00 +0100",
        "domain": "example.com",
        "recipient_masked": "a…@e….org",
        "message_id": "<1@example.com>",
        "certified_at": AS_OF,
        "as_of": AS_OF,
        "anchors": [ANCHOR],
    }
    return CertificateView.model_validate(facts | other)


def pages(pdf: bytes) -> list[str]:
    """The drawing of each page."""
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            text = zlib.decompress(match[1])
        except zlib.error:
            continue
        if b"BT" in text:
            found.append(text.decode("latin-1"))
    assert len(found) == len(re.findall(rb"/Type /Page\b", pdf))
    return found


def content(pdf: bytes) -> str:
    (page,) = pages(pdf)
    return page


def said(pdf: bytes) -> str:
    """Its words, lines joined by spaces."""
    found = re.findall(r"\(((?:[^()\\]|\\.)*)\) Tj", content(pdf), re.DOTALL)
    joined = " ".join(re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) for text in found)
    return joined.encode("latin-1").decode("cp1252")


def drawn(pdf: bytes) -> Image.Image:
    """Its filled rectangles, at 8 pixels a millimetre."""
    scale = 8 * 25.4 / 72
    image = Image.new("L", (round(595 * scale), round(842 * scale)), 255)
    for match in re.finditer(r"([\d.]+) ([\d.]+) ([\d.]+) (-?[\d.]+) re f", content(pdf)):
        x, y, width, height = map(float, match.groups())
        left, top = x * scale, (841.89 - y) * scale
        right, low = left + width * scale, top - height * scale
        image.paste(0, (round(left), round(top), round(right), round(low)))
    return image


def test_both_codes_scan() -> None:
    pdf = certificate_sheet(view(), BASE, KEYS, a_million())
    assert sorted(scanned(drawn(pdf)), key=len) == [LINK, WHOLE_LINK]


def test_it_says_what_is_known() -> None:
    text = said(certificate_sheet(view(), BASE, KEYS, a_million()))
    for fact in (
        *("Spring has begun", "example.com", "a…@e….org", "<1@example.com>", "ab" * 32, ID),
        *("654,322 of 1,000,000", "chain 31337, block 4,711", "2026-03-21 08:30:00 UTC", SIGNER),
        *("This sheet proves nothing by itself", "How to check it without us"),
        f"final. {STATES['final']}",
    ):
        assert fact in text, fact
    assert not any(key in text for key in KEYS if key != SIGNER)


def test_the_same_input_gives_the_same_bytes() -> None:
    one = certificate_sheet(view(), BASE, KEYS, a_million())
    assert one == certificate_sheet(view(), BASE, KEYS, a_million())
    elsewhere = AS_OF.astimezone(timezone(timedelta(hours=9)))
    assert one == certificate_sheet(view(as_of=elsewhere), BASE, KEYS, a_million())
    later = view(as_of=AS_OF + timedelta(seconds=1))
    assert one != certificate_sheet(later, BASE, KEYS, a_million())


@pytest.mark.parametrize("state", list(CertificateState))
def test_every_state_has_words_and_nothing_says_more(state: CertificateState) -> None:
    text = said(certificate_sheet(view(state=state), BASE, KEYS))
    assert f"{state}. {STATES[state]}" in text
    if state is not CertificateState.FINAL:
        assert "for good: it existed" not in text


def test_without_a_proof_there_is_no_promise_of_one() -> None:
    still_open = view(state="open", size=0, root=None, leaf=None, anchors=[])
    pdf = certificate_sheet(still_open, BASE, KEYS)
    assert scanned(drawn(pdf)) == [LINK]
    text = said(pdf)
    assert "(the batch is still open)" in text
    assert "How to check" not in text
    assert "whole proof" not in text


def test_revoked_and_forgotten() -> None:
    revoked = RevokedView(
        reason=RevokeReason.SENT_IN_ERROR, at=AS_OF, state=CertificateState.INCLUDED
    )
    text = said(certificate_sheet(view(state="revoked", revoked=revoked), BASE, KEYS, a_million()))
    assert "sent in error" in text
    gone = view(forgotten=True, subject=None, date=None, domain=None, recipient_masked=None)
    text = said(certificate_sheet(gone, BASE, KEYS))
    assert "erased for good" in text
    assert "Recipient" not in text
    assert "Subject" not in text


def test_the_longest_facts_run_off_no_page() -> None:
    long = view(
        subject="Ж" * 500,
        date="9" * 500,
        domain=".".join(["a" * 60] * 4),
        message_id=f"<{'m' * 900}>",
        recipient_masked="r" * 300,
        revoked=RevokedView(reason="person's request", at=AS_OF, state="included"),
        anchors=[ANCHOR.model_copy(update={"network": "n" * 32})] * 16,
    )
    key = f"{'k' * 200}+abcdef01+AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
    base = f"https://{'long.' * 12}example.com"
    pdf = certificate_sheet(long, base, (key,), a_million())
    first, second = pages(pdf)
    for page in (first, second):
        heights = [float(y) for y in re.findall(r"BT [\d.]+ (-?[\d.]+) Td", page)]
        assert min(heights) > 20  # points from the lower edge
    lowest = min(float(y) for y in re.findall(r"[\d.]+ (-?[\d.]+) [\d.]+ -?[\d.]+ re f", first))
    assert lowest > 40
    assert "and 12 more" in first
    assert "How to check it without us" in second


# --- Letters ------------------------------------------------------------------------------------


@given(st.text(max_size=300), st.integers(20, 240))
def test_what_can_be_shown_is_all_that_is_shown(text: str, limit: int) -> None:
    shown = showable(text, limit=limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode("cp1252")
    if not shown.endswith("..."):
        back = re.sub(r"\[U\+([0-9A-F]{4,6})\]", lambda code: chr(int(code[1], 16)), shown)
        assert back == text or "[U+" in text
    if text.isascii() and text.isprintable() and len(text) <= limit - 3:
        assert shown == text


def test_marks_of_direction_are_written_out() -> None:
    assert showable("pay \u202egpj.exe") == "pay [U+202E]gpj.exe"
    assert showable("a\x00b\nc") == "a[U+0000]b[U+000A]c"
    assert showable("Größe €5 – „ja“") == "Größe €5 – „ja“"


def font_file(path: Path, letters: str) -> Path:
    """A font with boxes for these letters and nothing else."""
    pen = TTGlyphPen(None)
    for at, point in enumerate(((0, 0), (0, 700), (500, 700), (500, 0))):
        (pen.lineTo if at else pen.moveTo)(point)
    pen.closePath()
    box = pen.glyph()
    names = {letter: f"u{ord(letter):04X}" for letter in letters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap({ord(letter): name for letter, name in names.items()})
    glyphs = [".notdef", *names.values()]
    builder.setupGlyf(dict.fromkeys(glyphs, box))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_a_font_of_the_operators_shows_other_scripts(tmp_path: Path) -> None:
    ascii_letters = "".join(map(chr, range(32, 127)))
    options = SheetOptions(font_file(tmp_path / "boxes.ttf", ascii_letters + "Скидка…"))
    subject = view(subject="Скидка")
    pdf = certificate_sheet(subject, BASE, KEYS, a_million(), options)
    assert pdf == certificate_sheet(subject, BASE, KEYS, a_million(), options)
    assert b"/FontFile2" in pdf
    assert sorted(scanned(drawn(pdf)), key=len) == [LINK, WHOLE_LINK]
    # What this font lacks is written out, in letters that it has.
    lacking = certificate_sheet(view(subject="花"), BASE, KEYS, a_million(), options)
    assert lacking != certificate_sheet(view(subject="草"), BASE, KEYS, a_million(), options)


def test_what_is_no_font_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    for path in (broken, tmp_path / "nothing.ttf"):
        with pytest.raises(InvalidInput) as refused:
            certificate_sheet(view(), BASE, KEYS, None, SheetOptions(path))
        assert refused.value.details == {"field": "font"}


def test_letters_of_the_core_fonts() -> None:
    assert all(core_font_has(letter) for letter in "aÄ€…œ")
    assert not any(core_font_has(letter) for letter in "ŐЖ花\x81")
