"""What a brief holds: the only things that a text about it may claim."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property

from mesh.agents.guard import patterns as p
from mesh.agents.guard.personal import known_keys
from mesh.contracts.email import Brief

_PERCENT = {"%", "percent", "per cent", "prozent", "pour cent", "por ciento"}
_MONEY = {
    "usd": "$",
    "dollar": "$",
    "eur": "€",
    "euro": "€",
    "gbp": "£",
    "pound": "£",
}


def fold(text: str) -> str:
    """Lower case, compatibility forms and typographic dots and quotes made plain."""
    text = unicodedata.normalize("NFKC", text).translate(p.DOTS)
    return text.replace("’", "'").replace("‑", "-").casefold()


def numbers(text: str) -> set[tuple[str, str]]:
    """Every figure as (number, unit); the unit is ``%``, a currency sign or empty."""
    found = set()
    for match in p.NUMBER.finditer(fold(text)):
        unit = (match["before"] or match["after"] or "").strip()
        if unit in _PERCENT:
            unit = "%"
        unit = _MONEY.get(unit.rstrip("s"), unit)
        found.add((match["n"].strip(".,:"), unit))
    return found


@dataclass(frozen=True)
class Facts:
    """A brief seen by guardrails."""

    brief: Brief
    memory: tuple[str, ...] = ()
    """Statements of the memory that this text may rest on: they vouch for claims, figures and
    names like the brief's own words, never for addresses, links or phone numbers."""
    banned: tuple[str, ...] = ()
    """Words that the brand or the reader does not want, in lower case."""
    safe_texts: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What ``templates.safe`` made of the brief's texts: they are looked at again and again."""

    @cached_property
    def text(self) -> str:
        """All that claims may rest on: the brief's free text and the memory's statements.

        An attacker's words too, so it never vouches for links."""
        return "\n".join((self.brief_text, *self.memory))

    @cached_property
    def brief_text(self) -> str:
        """All free text of the brief."""
        brief = self.brief
        parts = [brief.goal, brief.product, brief.brand, brief.audience, *brief.key_points]
        parts += [link.label for link in brief.links]
        return "\n".join(parts)

    @cached_property
    def folded(self) -> str:
        return fold(self.text)

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(p.WORD.findall(self.folded))

    @cached_property
    def stems(self) -> frozenset[str]:
        return frozenset(stem(word) for word in self.words)

    @cached_property
    def figures(self) -> frozenset[tuple[str, str]]:
        return frozenset(numbers(self.text))

    @cached_property
    def plain_figures(self) -> frozenset[str]:
        return frozenset(n for n, _ in self.figures)

    @cached_property
    def emails(self) -> frozenset[str]:
        return frozenset(m.rstrip(".") for m in p.EMAIL.findall(fold(self.brief_text)))

    @cached_property
    def phones(self) -> frozenset[str]:
        return frozenset(re.sub(r"\D", "", m) for m in p.PHONE.findall(fold(self.brief_text)))

    @cached_property
    def personal(self) -> frozenset[str]:
        """Personal data that the brief gives away itself, in normal form."""
        return known_keys(self.brief_text)

    @cached_property
    def hosts(self) -> frozenset[str]:
        """Hosts of the brief's links, and of a brand that is itself a domain."""
        hosts = {(link.url.host or "").casefold() for link in self.brief.links}
        hosts |= {host.removeprefix("www.") for host in hosts}
        hosts |= {m.group().rstrip("/") for m in p.DOMAIN.finditer(fold(self.brief.brand))}
        return frozenset(hosts - {""})

    @cached_property
    def urls(self) -> frozenset[str]:
        return frozenset(str(link.url) for link in self.brief.links)

    @cached_property
    def banned_words(self) -> re.Pattern[str] | None:
        if not self.banned:
            return None
        return re.compile("|".join(rf"(?<!\w){re.escape(fold(w))}(?!\w)" for w in self.banned))

    @cached_property
    def allowed_claims(self) -> frozenset[int]:
        """Indexes of the groups of ``CLAIMS`` that the brief itself uses."""
        return frozenset(i for i, x in enumerate(CLAIM_PATTERNS) if x.search(self.folded))


def _any_of(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Words that start with a phrase; short phrases must be whole words."""
    parts = []
    for phrase in phrases:
        start = r"(?<!\w)" if phrase[0].isalnum() else ""
        end = r"(?!\w)" if len(phrase) < 6 else ""
        parts.append(start + re.escape(phrase) + end)
    return re.compile("|".join(parts))


CLAIM_PATTERNS = tuple(_any_of(group) for group in p.CLAIMS)
"""One per group of ``CLAIMS``; they search folded text."""


def stem(word: str) -> str:
    """A crude stem, enough to see that ``plants`` speaks of a ``plant``."""
    for suffix in ("ing", "ies", "ed", "es", "s", "ly", "e"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word
