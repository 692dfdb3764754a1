"""A certificate as a sheet of A4: its facts, its state as of a time, and the proof as a code.

The sheet itself proves nothing, and says so: anyone can print one. What can be checked is in the
codes. The same input gives the same bytes: the only time in it is ``as_of``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import WrapMode, XPos, YPos
from fpdf.fonts import TTFFont

from mesh.contracts.networks import AnchorView
from mesh.contracts.trust import CertificateView
from mesh.core.errors import InvalidInput
from mesh.trust.certificate import read_cbor
from mesh.trust.present import links, qr
from mesh.trust.present.glyphs import CODEC, core_font_has, showable
from mesh.trust.present.words import STATES

MARGIN = 18.0
"""Millimetres, as all lengths here."""
WIDTH = 210.0 - 2 * MARGIN
_LABEL = 34.0
_LINE = 5.0
_GREY = 95
_MAX_ANCHORS = 4
_MAX_VALUE = 180
"""Characters: two lines, so that codes and facts fit on one page."""
_HOW, _BOTTOM = 56.0, 8.0
"""What the guide needs at most; with uncommonly long facts it goes onto a second page."""
_LINK_CODE, _WHOLE_CODE = 44.0, 78.0


@dataclass(frozen=True, slots=True)
class SheetOptions:
    """How sheets are made."""

    font: Path | None = None
    """A TrueType or OpenType file whose licence allows embedding; its letters that are used are
    put into the file. None: PDF's own Helvetica, which knows Western European letters alone."""


def certificate_sheet(
    view: CertificateView,
    base: str,
    keys: tuple[str, ...],
    compact: bytes | None = None,
    options: SheetOptions | None = None,
) -> bytes:
    """The PDF. ``base``: the public address; ``keys``: the issuer's verifier keys; ``compact``:
    the proof, None while there is none. Takes about 0.2 s: not for an event loop. InvalidInput.
    """
    page = links.verify_url(base, view.id)
    sheet = _Sheet(options or SheetOptions(), view.as_of)
    sheet.set_title(f"Certificate {view.id}")
    sheet.line_of("Certificate of an email", 17, bold=True)
    sheet.line_of(f"{links.host_of(base)}, as of {_time(view.as_of)}", 9, grey=True)
    sheet.ln(3)
    for name, value in _facts(view, keys):
        sheet.row(name, value)
    for anchor in view.anchors[:_MAX_ANCHORS]:
        sheet.row(f"Network {anchor.network}", _anchor(anchor))
        if anchor.tx:
            sheet.set_x(MARGIN + _LABEL)
            sheet.small(f"transaction {anchor.tx}", WIDTH - _LABEL, mono=True)
    if len(view.anchors) > _MAX_ANCHORS:
        sheet.row("", f"and {len(view.anchors) - _MAX_ANCHORS} more: the receipt lists them")
    sheet.ln(2)
    sheet.rule()
    top = sheet.get_y() + 3
    right = MARGIN + WIDTH - _WHOLE_CODE
    if compact is not None:
        whole = links.verify_url(base, view.id, compact)
        sheet.code(whole, "L", right, top, _WHOLE_CODE)
        sheet.caption("The same, with the whole proof: needs nobody", right, top, _WHOLE_CODE)
    sheet.code(page, "M", MARGIN, top, _LINK_CODE)
    sheet.caption("The page of this certificate", MARGIN, top, _LINK_CODE)
    sheet.set_xy(MARGIN, top + _LINK_CODE + 6)
    room = WIDTH - _WHOLE_CODE - 6 if compact is not None else WIDTH
    sheet.small(page, room, link=page)
    sheet.ln(1)
    sheet.small(
        "This sheet proves nothing by itself: anyone can print one. What is in the codes can be "
        "checked, against the mail.",
        room,
    )
    if compact is not None:
        sheet.set_y(max(sheet.get_y(), top + _WHOLE_CODE + 7))
        if sheet.get_y() + _HOW > sheet.h - _BOTTOM:
            sheet.add_page()
        _how(sheet, view, base, _signer(compact, keys))
    return bytes(sheet.output())


def _facts(view: CertificateView, keys: tuple[str, ...]) -> list[tuple[str, str]]:
    issuers = dict.fromkeys(key.partition("+")[0] for key in keys)
    state = str(view.state)
    rows = [("State", f"{state}. {STATES[state]}")]
    if view.revoked:
        when = _time(view.revoked.at)
        rows.append(("Revoked", f"{when}: {view.revoked.reason}"))
    if view.forgotten:
        rows.append(("Forgotten", "What told of the person and the mail was erased for good."))
    else:
        rows += [
            ("Subject", view.subject or "(none)"),
            ("Date in the mail", view.date or "(none)"),
            ("Sender's domain", view.domain or "(not clear)"),
            ("Recipient", view.recipient_masked or "(none)"),
            ("Message id", view.message_id or "(none)"),
        ]
    if view.certified_at:
        rows.append(("Taken in", _time(view.certified_at)))
    place = f"{view.index + 1:,} of {view.size:,}" if view.size else f"{view.index + 1:,}"
    rows += [
        ("Issuer", ", ".join(issuers) or "(none)"),
        ("Certificate", view.id),
        ("Batch", f"{view.batch}, place {place}"),
        ("Root", view.root or "(the batch is still open)"),
    ]
    return rows


def _anchor(anchor: AnchorView) -> str:
    block = "" if anchor.block_number is None else f", block {anchor.block_number:,}"
    return f"{anchor.state}, chain {anchor.chain_id}{block}"


def _signer(compact: bytes, keys: tuple[str, ...]) -> str | None:
    """Of all keys, old ones too, the one that signed this."""
    wanted = read_cbor(compact).signature[:4].hex()
    return next((key for key in keys if key.split("+")[1:2] == [wanted]), None)


def _how(sheet: _Sheet, view: CertificateView, base: str, signer: str | None) -> None:
    sheet.line_of("How to check it without us", 11, bold=True)
    steps = [
        "1. Save the mail as a file (in most programs: show original, download).",
        "2. Scan the large code. The digits behind # are the certificate.",
        "3. Take maily_verify.py (one file of Python, needs only the package cryptography) from "
        "where you trust it, and run, without any network:",
    ]
    for step in steps:
        sheet.small(step, WIDTH)
    key = signer or "KEY"
    sheet.small(f"python maily_verify.py DIGITS mail.eml --key {key}", WIDTH, mono=True)
    sheet.small(
        "The key must come from the sender by a way that you trust, not from this sheet.", WIDTH
    )
    if view.root and view.anchors:
        sheet.small(
            "4. For the time, get the receipt below, and ask a node that you trust for the block:",
            WIDTH,
        )
        url = f"{links.public_base(base)}/v1/trust/receipts/{view.root}"
        sheet.small(url, WIDTH, mono=True)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


class _Sheet(FPDF):
    """The page, and the few ways in which something is put onto it."""

    def __init__(self, options: SheetOptions, created: datetime) -> None:
        super().__init__("portrait", "mm", "A4")
        self.set_creation_date(created.astimezone(UTC))
        self.set_creator("Maily Mesh")
        self.set_lang("en")
        self.core_fonts_encoding = CODEC
        self.set_margins(MARGIN, 16)
        self.set_auto_page_break(False)
        self._family = "helvetica"
        self._has: Callable[[str], bool] = core_font_has
        if options.font is not None:
            self._family, self._has = "sheet", self._embedded(options.font)
        self.add_page()

    def _embedded(self, path: Path) -> Callable[[str], bool]:
        try:
            self.add_font("sheet", fname=path)
            font = self.fonts["sheet"]
            letters = frozenset(font.cmap) if isinstance(font, TTFFont) else frozenset()
        except Exception as error:  # a font file can be broken in many ways
            raise InvalidInput(f"{path} is no font: {error}", {"field": "font"}) from error
        return lambda letter: ord(letter) in letters

    def _font(self, size: float, *, bold: bool = False, grey: bool = False) -> None:
        # An embedded font is one file: its bold would be another.
        style = "B" if bold and self._family == "helvetica" else ""
        self.set_font(self._family, style, size)
        self.set_text_color(_GREY if grey else 0)

    def line_of(self, text: str, size: float, *, bold: bool = False, grey: bool = False) -> None:
        self._font(size, bold=bold, grey=grey)
        shown = showable(text, self._has)
        self.cell(WIDTH, size * 0.5, shown, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def row(self, name: str, value: str) -> None:
        self._font(9, grey=True)
        self.cell(_LABEL, _LINE, showable(name, self._has, 20))
        self._font(9)
        self._several(showable(value, self._has, _MAX_VALUE), WIDTH - _LABEL, _LINE)

    def small(self, text: str, width: float, *, mono: bool = False, link: str = "") -> None:
        if mono:
            self.set_font("courier", "", 7.5)
            self.set_text_color(0)
        else:
            self._font(8.5, grey=not link)
        has = core_font_has if mono else self._has
        self._several(showable(text, has, 400), width, 4.2, link)

    def _several(self, text: str, width: float, height: float, link: str = "") -> None:
        self.multi_cell(
            width,
            height,
            text,
            align="L",
            link=link,
            new_x=XPos.LMARGIN,
            new_y=YPos.NEXT,
            wrapmode=WrapMode.WORD if " " in text else WrapMode.CHAR,
        )

    def rule(self) -> None:
        self.set_draw_color(200)
        self.line(MARGIN, self.get_y(), MARGIN + WIDTH, self.get_y())

    def code(self, text: str, level: qr.Level, x: float, y: float, size: float) -> None:
        """Drawn as lines, so that no reader blurs it."""
        made = qr.qr_code(text, level)
        unit = size / made.side
        self.set_fill_color(0)
        for begin, row, length in qr.runs(made):
            self.rect(x + begin * unit, y + row * unit, length * unit, unit, "F")

    def caption(self, text: str, x: float, y: float, size: float) -> None:
        self._font(8.5, grey=True)
        self.set_xy(x, y + size)
        self.cell(size, 4, showable(text, self._has), align="C")
