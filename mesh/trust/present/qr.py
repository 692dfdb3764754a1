"""QR codes as PNG and SVG: the same bytes for the same text, so that they can be cached for ever.

The package ``qrcode`` makes the modules; it stores runs of digits in numeric mode, which is what
makes a whole proof fit. Always black on white with the quiet zone of four modules within the
picture: in a dark mail client too, a camera needs both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Literal

import qrcode
from PIL import Image
from qrcode.exceptions import DataOverflowError

from mesh.core.errors import InvalidInput

QUIET_ZONE = 4
"""Modules; ISO/IEC 18004 asks for four."""
MIN_PIXELS, MAX_PIXELS = 64, 2048
MIN_MODULE = 2
"""Pixels: with one, a screen's scaling destroys the code."""

Level = Literal["L", "M", "Q", "H"]

_LEVELS: dict[Level, int] = {
    "L": qrcode.ERROR_CORRECT_L,
    "M": qrcode.ERROR_CORRECT_M,
    "Q": qrcode.ERROR_CORRECT_Q,
    "H": qrcode.ERROR_CORRECT_H,
}
_DIGITS = 20
"""Runs of digits from this length on go into numeric mode."""


@dataclass(frozen=True, slots=True)
class QrOptions:
    """How a code is drawn."""

    pixels: int = 360
    """Width and height, 64 to 2,048. A PNG has the largest whole number of pixels a module that
    keeps within it, but at least two: so it may be smaller, or larger when the code is dense."""
    level: Level = "M"
    """Least error correction. A higher one is taken if the code gets no larger by it."""
    title: str = ""
    """For screen readers, in SVG."""

    def __post_init__(self) -> None:
        if not MIN_PIXELS <= self.pixels <= MAX_PIXELS:
            raise InvalidInput(
                f"a QR code is {MIN_PIXELS} to {MAX_PIXELS} pixels wide", {"field": "size"}
            )


LINK = QrOptions()
WHOLE = QrOptions(pixels=720, level="L")
"""For a link with the whole proof: density matters more than error correction on a screen."""


@dataclass(frozen=True, slots=True)
class QrCode:
    """The modules, true is dark, without the quiet zone."""

    rows: tuple[tuple[bool, ...], ...]
    version: int
    """1 to 40; a code has 17 + 4 × version modules a side."""
    level: Level

    @property
    def side(self) -> int:
        """Modules with the quiet zone."""
        return len(self.rows) + 2 * QUIET_ZONE


def qr_code(text: str, level: Level = "M") -> QrCode:
    """Raises InvalidInput when the text is longer than a code can hold."""
    names = list(_LEVELS)[list(_LEVELS).index(level) :]
    best = _fitted(text, names[0])
    for name in names[1:]:
        try:
            better = _fitted(text, name)
        except InvalidInput:
            break
        if better.version > best.version:
            break
        best, level = better, name
    best.make(fit=False)
    rows = tuple(tuple(bool(dark) for dark in row) for row in best.modules)
    return QrCode(rows, best.version, level)


def _fitted(text: str, level: Level) -> qrcode.QRCode:
    code = qrcode.QRCode(error_correction=_LEVELS[level], border=0)
    code.add_data(text.encode(), optimize=_DIGITS)
    try:
        code.best_fit()
    except (DataOverflowError, ValueError) as error:  # ValueError: version 41
        raise InvalidInput("too long for a QR code", {"field": "text"}) from error
    return code


def qr_png(text: str, options: QrOptions = LINK) -> bytes:
    """One bit a pixel. Takes 10 to 150 ms: not for an event loop."""
    code = qr_code(text, options.level)
    scale = max(MIN_MODULE, options.pixels // code.side)
    image = Image.new("1", (code.side, code.side), 1)
    for x, y, length in runs(code):
        image.paste(0, (x, y, x + length, y + 1))
    width = code.side * scale
    out = BytesIO()
    image.resize((width, width), Image.Resampling.NEAREST).save(out, "PNG", compress_level=9)
    return out.getvalue()


def qr_svg(text: str, options: QrOptions = LINK) -> bytes:
    """One path; no style, no script, no reference to anything."""
    code = qr_code(text, options.level)
    lines = "".join(f"M{x} {y}.5h{length}" for x, y, length in runs(code))
    title = f"<title>{escape(options.title)}</title>" if options.title else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {code.side} {code.side}" '
        f'width="{options.pixels}" height="{options.pixels}" shape-rendering="crispEdges" '
        f'role="img">{title}<path fill="#fff" d="M0 0h{code.side}v{code.side}H0z"/>'
        f'<path stroke="#000" d="{lines}"/></svg>\n'
    ).encode()


def runs(code: QrCode) -> Iterator[tuple[int, int, int]]:
    """Each run of dark modules: column and row with the quiet zone, and length."""
    for y, row in enumerate(code.rows):
        x = 0
        while x < len(row):
            length = 0
            while x + length < len(row) and row[x + length]:
                length += 1
            if length:
                yield x + QUIET_ZONE, y + QUIET_ZONE, length
            x += length + 1
