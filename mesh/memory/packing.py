"""Hits as a prompt can hold them, within a budget of tokens.

A line each: ``[n] text``. Breaks within a text become blanks, so that no memory can pretend to be
several, or to be something else than a line of this list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+")
_BYTES_PER_TOKEN = 3
"""Of words: tokenisers that we know take more in every language."""


@dataclass(frozen=True, slots=True)
class Packed:
    text: str
    tokens: int
    kept: tuple[int, ...]
    """Which of the texts, in their order."""


def tokens_of(text: str) -> int:
    """Upper estimate: words by their length; each digit, sign and line break counts as one."""
    words = _WORD.findall(text)
    rest = len(_WORD.sub("", text).replace(" ", ""))
    return rest + sum(-(-len(word.encode()) // _BYTES_PER_TOKEN) for word in words)


def pack(texts: Sequence[str], budget: int | None) -> Packed:
    """In the order given; one that does not fit is left out, later ones may still fit."""
    lines: list[str] = []
    kept: list[int] = []
    spent = 0
    for index, text in enumerate(texts):
        line = f"[{len(kept) + 1}] {' '.join(text.split())}"
        cost = tokens_of(line + "\n")
        if budget is not None and spent + cost > budget:
            continue
        spent += cost
        lines.append(line)
        kept.append(index)
    return Packed("\n".join(lines), spent, tuple(kept))
