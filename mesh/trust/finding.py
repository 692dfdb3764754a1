"""Finds what a message says of its certificate: the certificate itself, or links to its page."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from mesh.core.errors import InvalidInput
from mesh.trust.attach import compact_in, part_in
from mesh.trust.canonical.headers import split_message
from mesh.trust.canonical.mime import shown_parts
from mesh.trust.present.links import MAX_DIGITS, VerifyLink, read_link

MAX_LINKS = 16
_LINK = re.compile(
    rf"https?://[^\s\"'<>#?]{{1,1024}}/verify/[A-Za-z2-7]{{32}}(?![A-Za-z2-7])(?:#[0-9]{{1,{MAX_DIGITS}}})?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A certificate's bytes, not checked in any way, and where they were."""

    data: bytes
    where: Literal["part", "header", "link"]


def certificate_in(message: bytes) -> Found | None:
    """The part before the header: it has the full form. Then a link that holds the proof."""
    if part := part_in(message):
        return Found(part, "part")
    if compact := compact_in(message):
        return Found(compact, "header")
    for link in links_in(message):
        if link.proof:
            return Found(link.proof, "link")
    return None


def links_in(message: bytes) -> list[VerifyLink]:
    """Links to certificates' pages in what the message shows, each once, the first 16.

    Also those that a link wrapper holds percent-encoded. Whoever wrote the message chose them:
    not to be opened without being asked.
    """
    found: dict[VerifyLink, None] = {}
    for shown in shown_parts(split_message(message)):
        text = html.unescape(shown.text) if shown.is_html else shown.text
        for match in (*_LINK.finditer(text), *_LINK.finditer(unquote(text))):
            try:
                found.setdefault(read_link(match[0]))
            except InvalidInput:
                continue
            if len(found) == MAX_LINKS:
                return list(found)
    return list(found)
