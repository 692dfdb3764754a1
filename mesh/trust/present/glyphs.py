"""Text for a font that lacks letters: what it can't show is written as its number, openly.

PDF's own fonts know Windows-1252 alone. To transliterate would show a text that nobody wrote, and
to leave letters out would hide some; so a letter that the font lacks becomes ``[U+0416]``, as do
marks that turn the direction of reading and everything that does not print.
"""

from __future__ import annotations

from collections.abc import Callable

CODEC = "cp1252"


def core_font_has(letter: str) -> bool:
    """Whether the fonts that every PDF reader brings can show it."""
    try:
        letter.encode(CODEC)
    except UnicodeError:
        return False
    return True


def showable(text: str, has: Callable[[str], bool] = core_font_has, limit: int = 240) -> str:
    """At most ``limit`` characters come out; a longer text ends with three dots."""
    out: list[str] = []
    size = 0
    for letter in text:
        plain = letter.isprintable() and has(letter)
        piece = letter if plain else f"[U+{ord(letter):04X}]"
        if size + len(piece) > limit - 3:
            return "".join(out) + "..."
        out.append(piece)
        size += len(piece)
    return "".join(out)
