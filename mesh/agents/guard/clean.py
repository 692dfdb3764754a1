"""Make text harmless whatever it says: form only, no judgement of content.

Invisible characters, mark-up, template syntax and placeholders go; merge tags of the brief are
written in their one form, ``{{ name | fallback }}``, and all others go. Idempotent.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from mesh.agents.guard import patterns as p
from mesh.agents.guard.injection import ROLE_MARK
from mesh.contracts.email import MergeTag

_TAG_OPEN, _TAG_CLOSE = "\ue000", "\ue001"
"""Private-use characters that stand for a merge tag while the rest is cleaned."""
_ROUNDS = 8
_BEFORE_MARK = re.compile(r"\s+([,.!?;:])(?!\w)")
_ADDRESS = re.compile(r"://|\bwww\.|\b(?:javascript|vbscript|data):", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»"}


def tag_text(tag: MergeTag) -> str:
    """The one form of a merge tag."""
    return f"{{{{ {tag.name} | {safe_fallback(tag.fallback)} }}}}"


def safe_fallback(fallback: str) -> str:
    """A fallback that can't end its tag or begin another. An address is no word to fill a gap
    with: such a fallback goes."""
    if _ADDRESS.search(fallback):
        return ""
    text = p.INVISIBLE.sub("", unicodedata.normalize("NFC", fallback))
    return re.sub(r"\s+", " ", re.sub(r"[{}|<>%]", "", text)).strip()


def _name(text: str) -> str:
    return re.sub(r"\W+", "_", text.strip().casefold().replace("'s", "")).strip("_")


def clean(text: str, tags: Iterable[MergeTag] = (), *, labels: bool = True) -> str:
    """Harmless text on one line. ``labels``: take off a leading ``Subject:`` and the like."""
    known = {tag.name: tag for tag in tags}
    order = list(known)
    text = unicodedata.normalize("NFC", text)
    text = text.replace(_TAG_OPEN, "").replace(_TAG_CLOSE, "")
    text = p.INVISIBLE.sub("", re.sub(r"[\r\t]", " ", text))
    text = re.sub(r"[^\S\n]+", " ", text)

    def keep(name: str) -> str:
        key = _name(name)
        return f"{_TAG_OPEN}{order.index(key)}{_TAG_CLOSE}" if key in known else ""

    # Removing one thing may put together another, so go on until nothing changes. Text nested
    # deeper than that is no honest text: it loses every bracket.
    for turn in range(_ROUNDS + 3):
        before = text
        if turn == _ROUNDS:
            text = re.sub(r"[\[\]{}<>|*`$]|%(?=\W*%)", "", text)
        text = p.MERGE_TAG.sub(lambda m: keep(m[1]), text)
        text = p.CODE_FENCE.sub("", text)
        text = ROLE_MARK.sub(" ", text)
        text = p.MARKDOWN_LINK.sub(r"\1", text)
        text = p.PLACEHOLDER.sub(lambda m: keep(m[1] or m[2] or m[3] or ""), text)
        text = p.HTML_TAG.sub("", text)
        text = p.MARKDOWN_MARK.sub("", text)
        text = p.TEMPLATE_SYNTAX.sub("", text)
        text = text.replace("{", "").replace("}", "")
        text = p.LABEL.sub("", text) if labels else text
        text = re.sub(r"\s+", " ", text)
        text = _BEFORE_MARK.sub(r"\1", text).strip()
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
            text = text[1:-1]
        if text == before:
            break
    for index, name in enumerate(order):
        text = text.replace(f"{_TAG_OPEN}{index}{_TAG_CLOSE}", tag_text(known[name]))
    return text.replace(_TAG_OPEN, "").replace(_TAG_CLOSE, "")


def without_tags(text: str) -> str:
    """The text with each merge tag replaced by its fallback: what a reader may see."""
    return p.MERGE_TAG.sub(lambda m: (m[2] or "").strip(), text)
