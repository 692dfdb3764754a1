"""How much a text looks like spam: an explainable score from 0 to 1.

The signs are those that public filters weigh (SpamAssassin's rules on capitals, exclamation
marks, money words and urgency); the weights are ours and only rank texts of our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.agents.guard import patterns as p
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.facts import fold

SPAM_WORDS = (
    *("act now", "buy now", "order now", "click here", "click below", "limited time", "hurry"),
    *("urgent", "last chance", "don't miss", "once in a lifetime", "risk-free", "risk free"),
    *("100% free", "no obligation", "no strings", "double your", "earn money", "extra cash"),
    *(
        "cash bonus",
        "make money",
        "get rich",
        "winner",
        "congratulations",
        "you have been selected",
    ),
    *("miracle", "amazing deal", "best price", "lowest price", "cheap", "free gift", "free money"),
    *("credit card", "no credit check", "viagra", "casino", "weight loss", "work from home"),
    *("this is not spam", "dear friend", "apply now", "call now", "satisfaction guaranteed"),
)
_CAPS = re.compile(r"\b[^\W\d_a-zß-öø-ÿ]{4,}\b")


@dataclass(frozen=True, slots=True)
class SpamScore:
    """``value`` from 0 (none) to 1; ``signs`` say what it rests on."""

    value: float
    signs: tuple[str, ...]


def caps_words(text: str) -> list[str]:
    """Words of four letters or more that are all capitals."""
    return [w for w in _CAPS.findall(without_tags(text)) if w.isupper()]


def spam_score(text: str, allowed_caps: frozenset[str] = frozenset()) -> SpamScore:
    """``allowed_caps``: words that the brief itself writes in capitals."""
    plain = without_tags(text)
    folded = fold(plain)
    signs: list[str] = []
    value = 0.0
    words = [w for w in SPAM_WORDS if w in folded]
    if words:
        value += 0.2 * len(words)
        signs.append("spam words: " + ", ".join(words))
    caps = [w for w in caps_words(plain) if w not in allowed_caps]
    if caps:
        value += 0.1 * len(caps)
        signs.append("capitals: " + ", ".join(caps[:5]))
    marks = plain.count("!")
    if marks > 1 or "!!" in plain:
        value += 0.1 * (marks - 1) + (0.1 if "!!" in plain else 0.0)
        signs.append(f"{marks} exclamation marks")
    money = sum(plain.count(sign) for sign in "$€£")
    if money > 3:
        value += 0.05 * (money - 3)
        signs.append(f"{money} currency signs")
    if len(p.URL.findall(plain)) > 2:
        value += 0.2
        signs.append("many links in the text")
    return SpamScore(round(min(1.0, value), 3), tuple(signs))
