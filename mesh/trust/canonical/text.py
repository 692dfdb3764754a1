"""What a reader sees, folded, and the links with their places in it (spec §3 and §4)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from mesh.trust.canonical.links import origin, trim, unwrap
from mesh.trust.canonical.mime import Shown
from mesh.trust.canonical.tokens import Token, tokens

_URL = re.compile(
    r"https?://[^<>\"\x00-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+",
    re.IGNORECASE | re.ASCII,
)
_URL_END = ".,;:!?)]}'*"
# White space, controls and characters that are there to be invisible. Marks that turn the
# direction of reading stay: they change what is seen.
_INVISIBLE_ASCII = bytes([*range(0x21), 0x7F])
_INVISIBLE = re.compile(
    "[\x80-\xa0\xad\u034f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200d"
    "\u2028\u2029\u202f\u205f-\u2065\u206a-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)


class Link(NamedTuple):
    """``at``: how many bytes of the text stand before it."""

    at: int
    origin: str


class Text(NamedTuple):
    """The folded text as UTF-8, and every link in reading order."""

    data: bytes
    links: tuple[Link, ...]

    @property
    def origins(self) -> frozenset[str]:
        return frozenset(link.origin for link in self.links)


def read_text(parts: Iterable[Shown]) -> Text:
    """The text of the parts that a reader sees, one after the other."""
    out: list[bytes] = []
    links: list[Link] = []
    length = 0

    def add(piece: str) -> None:
        nonlocal length
        if not piece.isascii():
            piece = _INVISIBLE.sub("", unicodedata.normalize("NFKC", piece))
        data = piece.encode("utf-8", "replace").translate(None, _INVISIBLE_ASCII)
        out.append(data)
        length += len(data)

    def link(url: str) -> None:
        found = origin(url)
        if found is not None:
            links.append(Link(length, found))

    for part in parts:
        for is_link, value in tokens(part.text) if part.is_html else [Token(False, part.text)]:
            if is_link:
                link(unwrap(trim(value)))
                continue
            at = 0
            for match in _URL.finditer(value):
                shown = match[0].rstrip(_URL_END)
                url = unwrap(shown)
                add(value[at : match.start()])
                link(url)
                add(url)
                at = match.start() + len(shown)
            add(value[at:] if at else value)
    return Text(b"".join(out), tuple(links))


def text_digest(data: bytes) -> bytes:
    """L2 of folded text."""
    return hashlib.sha256(b"maily-text-v1\n" + data).digest()
