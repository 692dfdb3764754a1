"""How much of a certified message is in the one at hand (spec §7.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from mesh.trust.canonical import Canonical
from mesh.trust.canonical.links import links_digest
from mesh.trust.canonical.text import text_digest

MIN_WINDOW = 32
"""Bytes: a shorter text is found by chance within others."""
MAX_BEFORE = 8192
"""Bytes that may stand before the certified text: a gateway's banner is shorter."""
MAX_EDGE_LINKS = 8


class Level(StrEnum):
    """From strongest to none; the words are the ones to show."""

    EXACT = "exact"
    TEXT = "same text"
    EXTENDED = "same text with additions"
    LINKS = "same links only"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Window:
    """A run of the message's text, and the links that count as standing in it."""

    begin: int
    text_digest: bytes
    links_digest: bytes
    added_origins: tuple[str, ...]


def window_at(message: Canonical, begin: int, size: int) -> Iterator[Window]:
    """The run with each reading of the links right at its ends."""
    text = message.text
    digest = text_digest(text.data[begin : begin + size])
    end = begin + size
    inside = {link.origin for link in text.links if begin < link.at < end}
    first = [link.origin for link in text.links if link.at == begin][-MAX_EDGE_LINKS:]
    last = [link.origin for link in text.links if link.at == end][:MAX_EDGE_LINKS]
    tried: set[frozenset[str]] = set()
    for left in range(len(first), -1, -1):
        for right in range(len(last), -1, -1):
            origins = frozenset(inside | {*first[len(first) - left :]} | {*last[:right]})
            if origins not in tried:
                tried.add(origins)
                added = tuple(sorted(text.origins - origins))
                yield Window(begin, digest, links_digest(origins), added)


def begins(message: Canonical, size: int, wanted: bytes | None = None) -> list[int]:
    """Where a text of ``size`` bytes may begin within a longer one.

    With the text's digest ``wanted`` every place is tried; without, the two that gateways leave:
    what is added stands all after it, or all before it.
    """
    data = message.text.data
    spare = len(data) - size
    if size < MIN_WINDOW or spare <= 0:
        return []
    if wanted is None:
        return [0, spare] if spare <= MAX_BEFORE else [0]
    for begin in range(min(spare, MAX_BEFORE) + 1):
        # Only at the first byte of a character.
        if data[begin] & 0xC0 != 0x80 and text_digest(data[begin : begin + size]) == wanted:
            return [begin]
    return []
