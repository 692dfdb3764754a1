"""Writes the tables that the verification page needs: what browsers have of them differs from the
spec (charsets, §8), changes with the browser's age (NFKC) or needs a DOM (character references).

::

    python -m tests.trust_page_tables

Sources: Python's codecs (unicode.org's and Microsoft's mappings), ``html.entities.html5`` (the HTML
standard's table of named references) and ``unicodedata`` of Unicode 14, the version of the spec's
reference implementation. A test compares the files with what this script would write.
"""

from __future__ import annotations

import html
import json
import unicodedata
from html.entities import html5
from itertools import groupby
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "serve_apps" / "trust_page"
UNICODE = "14.0.0"
HOLE = "�"

_SINGLE = {
    "windows-1252": "cp1252",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "macintosh": "mac-roman",
    **{f"iso-8859-{n}": f"iso-8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    **{f"windows-125{n}": f"cp125{n}" for n in (0, 1, 3, 4, 5, 6, 7, 8)},
}
_DOUBLE = {
    "big5": "big5",
    "gb18030": "gb18030",
    "windows-31j": "cp932",
    "windows-949": "cp949",
    "euc-jp": "euc-jp",
}


def _decoded(codec: str, *data: int) -> str:
    """The character, or the hole where the codec has none."""
    try:
        text = bytes(data).decode(codec)
    except UnicodeError:
        return HOLE
    return text if len(text) == 1 else HOLE


def _literal(text: str) -> str:
    """A JavaScript string: letters as they are, whatever can't be seen or read as an escape."""
    out = []
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif unicodedata.category(character)[0] in "LNPS" and not unicodedata.combining(character):
            out.append(character)
        else:
            out.append(f"\\u{ord(character):04x}")
    return '"' + "".join(out) + '"'


def _module(about: str, *lines: str) -> str:
    head = f"// {about}\n// Written by tests/trust_page_tables.py; do not edit.\n\n"
    return head + "\n".join(lines) + "\n"


def single() -> str:
    rows = [
        f'  "{label}": {_literal("".join(_decoded(codec, at) for at in range(128, 256)))},'
        for label, codec in sorted(_SINGLE.items())
    ]
    about = "Charsets of one byte: characters for the bytes 128 to 255, U+FFFD where there is none."
    return _module(about, "export const SINGLE = {", *rows, "};")


def double() -> str:
    """Rows by lead byte; runs of characters in the order of Unicode are written as two numbers."""
    out = []
    for label, codec in _DOUBLE.items():
        out.append(f'  "{label}": [')
        out += [row for lead in range(0x80, 0x100) for row in _row(codec, (lead,))]
        out.append("  ],")
    out.append('  "jis-x-0212": [')
    out += [row for lead in range(0xA1, 0xFF) for row in _row("euc-jp", (0x8F, lead))]
    out.append("  ],")
    about = "Charsets of two bytes, in rows: lead byte, first trail byte, characters."
    gb = ["export const GB18030_RANGES = ["]
    gb += [f"  {first}, {code}," for first, code in _gb_ranges()]
    gb_about = (
        "// GB 18030's four bytes, as a number, and the code point there; both go on in step."
    )
    return _module(about, "export const DOUBLE = {", *out, "};", "", gb_about, *gb, "];")


def _row(codec: str, lead: tuple[int, ...]) -> list[str]:
    cells = [_decoded(codec, *lead, trail) for trail in range(0x30, 0x100)]
    if codec == "gb18030":
        cells = [HOLE if trail < 0x40 else cells[trail - 0x30] for trail in range(0x30, 0x100)]
    rows = []
    at = 0
    for is_hole, group in groupby(cells, key=HOLE.__eq__):
        run = "".join(group)
        if not is_hole:
            rows.append(f"    {lead[-1]}, {at + 0x30}, {_literal(run)},")
        at += len(run)
    return rows


def _gb_ranges() -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    expected = -1
    for number in range(39_420):
        rest, fourth = divmod(number, 10)
        rest, third = divmod(rest, 126)
        first, second = divmod(rest, 10)
        found = _decoded("gb18030", first + 0x81, second + 0x30, third + 0x81, fourth + 0x30)
        code = -1 if found == HOLE and number != 39_417 else ord(found)
        if code != expected:
            ranges.append((number, code))
        expected = code + 1 if code >= 0 else -1
    return ranges


def references() -> str:
    """Names with and without ``;``: HTML allows some without."""
    chunks: list[str] = [""]
    for name, text in sorted(html5.items()):
        pair = f"{json.dumps(name)}:{json.dumps(text)},"
        if len(chunks[-1]) + len(pair) > 100:
            chunks.append("")
        chunks[-1] += pair
    numbers = {str(code): text for code, text in html._invalid_charrefs.items()}  # type: ignore[attr-defined]
    codes = sorted(html._invalid_codepoints)  # type: ignore[attr-defined]
    return _module(
        "HTML's named character references, and the numbers that stand for something else.",
        "export const NAMED = {",
        *chunks,
        "};",
        "",
        "export const INSTEAD = " + json.dumps(numbers) + ";",
        "",
        "// First and last of each run of numbers that stand for nothing.",
        "export const NOTHING = " + json.dumps(_runs(codes)) + ";",
    )


def _runs(codes: list[int]) -> list[int]:
    out: list[int] = []
    for code in codes:
        if out and out[-1] == code - 1:
            out[-1] = code
        else:
            out += [code, code]
    return out


def unassigned() -> str:
    codes = [
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) == "Cn" and not 0x40000 <= code < 0xE0000
    ]
    runs = _runs(codes)
    steps = [b - a for a, b in zip([0, *runs], runs, strict=False)]
    text = " ".join(map(str, steps))
    lines = [f'  "{text[at : at + 96]}" +' for at in range(0, len(text), 96)]
    lines[-1] = lines[-1].removesuffix(" +") + ";"
    about = f"Code points that Unicode {UNICODE} leaves unassigned: first and last, as steps."
    return _module(about, "export const UNASSIGNED =", *lines)


FILES = {
    "table_single.js": single,
    "table_double.js": double,
    "table_references.js": references,
    "table_unassigned.js": unassigned,
}

if __name__ == "__main__":
    for name, make in FILES.items():
        (FOLDER / name).write_text(make())
