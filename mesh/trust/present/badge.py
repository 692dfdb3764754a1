"""The badge: "Check this email at mail.example.com". The same picture for every mail of a sender.

It has no tick, no shield, no green and no state. Anyone can copy a picture into any mail, so it
may only say where to look; what holds, the page says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from html import escape
from io import BytesIO
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from mesh.core.errors import InvalidInput

HEIGHT = 32
"""Of the badge at scale 1, in CSS pixels."""
MAX_SCALE = 3
_FONT_PX = 13
_ICON = 30
"""Width left for the glass, with its margins."""
_MARGIN = 12
_MAX_HOST = 60
"""Characters; of a longer name the end is shown: that is what says whose it is."""
_SMOOTH = 4
"""The frame and the glass are drawn so many times larger, then made smaller."""

Theme = Literal["light", "dark"]


@dataclass(frozen=True, slots=True)
class Colours:
    """Text on its own ground: 12:1 or better, so that it does not matter what is around it."""

    ground: str
    line: str
    text: str


THEMES: dict[Theme, Colours] = {
    "light": Colours(ground="#f6f7f8", line="#8a929b", text="#24292f"),
    "dark": Colours(ground="#22272e", line="#768390", text="#e6ebf0"),
}


@dataclass(frozen=True, slots=True)
class BadgeOptions:
    """How the badge is drawn."""

    theme: Theme = "light"
    """Both are legible on white and on black."""
    scale: int = 1
    """1 to 3; 2 is for displays with two pixels a CSS pixel. Of no matter for SVG."""

    def __post_init__(self) -> None:
        if self.theme not in THEMES:
            raise InvalidInput("a badge is light or dark", {"field": "theme"})
        if not 1 <= self.scale <= MAX_SCALE:
            raise InvalidInput(f"a badge is 1 to {MAX_SCALE} times its size", {"field": "scale"})


PLAIN = BadgeOptions()


def alt_text(host: str) -> str:
    """What the badge says, for those who don't see it."""
    return f"Check this email at {host}"


def badge_width(host: str) -> int:
    """Of the badge at scale 1, in CSS pixels."""
    return _ICON + _text_width(_caption(host)) + _MARGIN


def badge_svg(host: str, options: BadgeOptions = PLAIN) -> bytes:
    """``host``: what ``links.host_of`` gives. No style, no script, no reference to anything."""
    colours, width, text = THEMES[options.theme], badge_width(host), _caption(host)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'width="{width}" height="{HEIGHT}" role="img"><title>{escape(alt_text(host))}</title>'
        f'<rect x=".5" y=".5" width="{width - 1}" height="{HEIGHT - 1}" rx="6" '
        f'fill="{colours.ground}" stroke="{colours.line}"/>'
        f'<g fill="none" stroke="{colours.text}" stroke-width="1.6" stroke-linecap="round">'
        '<circle cx="15" cy="14.5" r="4.5"/><path d="M18.4 17.9l4 4"/></g>'
        f'<text x="{_ICON}" y="20.5" font-family="Helvetica,Arial,sans-serif" '
        f'font-size="{_FONT_PX}" fill="{colours.text}" textLength="{_text_width(text)}" '
        f'lengthAdjust="spacingAndGlyphs">{escape(text)}</text></svg>\n'
    ).encode()


def badge_png(host: str, options: BadgeOptions = PLAIN) -> bytes:
    """Letters are of the font that Pillow brings (Aileron, public domain)."""
    colours, width, scale = THEMES[options.theme], badge_width(host), options.scale
    size, unit = (width * scale, HEIGHT * scale), scale * _SMOOTH
    large = Image.new("RGBA", (width * unit, HEIGHT * unit), (0, 0, 0, 0))
    pen = ImageDraw.Draw(large)
    corner = ((0, 0), (large.width - 1, large.height - 1))
    pen.rounded_rectangle(corner, 6 * unit, colours.ground, colours.line, unit)
    thick = round(1.6 * unit)
    ring = [int(side * unit) for side in (9.7, 9.2, 20.3, 19.8)]
    pen.ellipse(ring, outline=colours.text, width=thick)
    pen.line([int(at * unit) for at in (18.4, 17.9, 22.4, 21.9)], colours.text, thick)
    image = large.resize(size, Image.Resampling.BOX)
    font = _font(_FONT_PX * scale)
    ImageDraw.Draw(image).text(
        (_ICON * scale, 20.5 * scale), _caption(host), colours.text, font, anchor="ls"
    )
    out = BytesIO()
    image.save(out, "PNG", compress_level=9)
    return out.getvalue()


def _caption(host: str) -> str:
    if not host or not host.isascii() or not host.isprintable() or " " in host:
        raise InvalidInput("not the name of a host", {"field": "host"})
    return alt_text(host if len(host) <= _MAX_HOST else f"...{host[3 - _MAX_HOST :]}")


def _text_width(text: str) -> int:
    return round(_font(_FONT_PX).getlength(text))


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(pixels)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise InvalidInput("this Pillow was built without FreeType", {"field": "font"})
    return font
