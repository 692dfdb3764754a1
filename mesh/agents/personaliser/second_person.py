"""A remembered fact about somebody, said to them: "Bought a fern" becomes "You bought a fern".

Closed patterns, English: what they don't know is not said. A sentence about a person is only as
good as its grammar, and the small model's can't be trusted alone.
"""

from __future__ import annotations

import re

_SUBJECT = (
    r"^(?:(?:the |this )?(?:contact|customer|reader|client|member|subscriber|user|person)|she|"
    r"he|they)"
    r"\s+(?:also\s+)?"
)
_THIRD = {
    "has": "have",
    "is": "are",
    "was": "were",
    "does": "do",
    "goes": "go",
    "likes": "like",
    "loves": "love",
    "enjoys": "enjoy",
    "prefers": "prefer",
    "owns": "own",
    "keeps": "keep",
    "grows": "grow",
    "plays": "play",
    "runs": "run",
    "rides": "ride",
    "reads": "read",
    "collects": "collect",
    "drinks": "drink",
    "cooks": "cook",
    "bakes": "bake",
    "buys": "buy",
    "visits": "visit",
    "attends": "attend",
    "teaches": "teach",
    "studies": "study",
    "speaks": "speak",
    "wants": "want",
    "needs": "need",
    "uses": "use",
    "wears": "wear",
    "travels": "travel",
}
_PAST = frozenset(
    [
        "bought",
        "ordered",
        "visited",
        "attended",
        "joined",
        "booked",
        "asked",
        "signed",
        "donated",
        "subscribed",
        "chose",
        "tried",
        "rated",
        "reviewed",
        "returned",
        "renewed",
        "downloaded",
        "watched",
        "planted",
        "adopted",
        "moved",
        "started",
        "finished",
        "completed",
        "took",
        "won",
        "went",
        "had",
    ]
)
_SENSITIVE = re.compile(
    r"\b(?:illness|ill|sick|disease|cancer|diabet\w*|depress\w*|therapy|medica\w*|diagnos\w*|"
    r"disab\w*|"
    r"pregnan\w*|abortion|hiv|religio\w*|muslim|christian|jewish|church|mosque|hindu|buddhist|"
    r"atheist|"
    r"gay|lesbian|bisexual|transgender|sexual\w*|politic\w*|party member|trade union|"
    r"union member|"
    r"ethnic\w*|race|racial|immigra\w*|asylum|refugee|criminal|convict\w*|prison|debts?|"
    r"bankrupt\w*|salary|"
    r"income|divorc\w*|addict\w*|alcohol\w*|weight|obes\w*|died|death|funeral)\b",
    re.IGNORECASE,
)
"""GDPR art. 9 and 10 and what is as delicate: it is never said, however well it would fit."""


def sensitive(fact: str) -> bool:
    return bool(_SENSITIVE.search(fact))


def to_reader(fact: str) -> str:
    """A sentence to the reader, or empty when it can't be made safely."""
    text = re.sub(_SUBJECT, "", fact.strip().rstrip(" ."), flags=re.IGNORECASE)
    if re.search(r"[.!?]\s", text) or len(text) > 160:
        return ""
    words = text.split()
    if len(words) < 2:
        return ""
    verb = words[0].casefold()
    if verb == "you":
        rest = " ".join(words[1:])
        return f"You {_yours(rest)}."
    # "Anna likes ferns": one name before a verb that we know.
    if verb not in _THIRD and verb not in _PAST and len(words) > 2 and words[0][0].isupper():
        second = words[1].casefold()
        if second in _THIRD or second in _PAST:
            words, verb = words[1:], second
    if verb in _THIRD:
        return f"You {_yours(' '.join([_THIRD[verb], *words[1:]]))}."
    if verb in _PAST:
        return f"You {_yours(' '.join([verb, *words[1:]]))}."
    return ""


def _yours(text: str) -> str:
    text = re.sub(r"\b(?:his|her|their|my)\b", "your", text, flags=re.IGNORECASE)
    return re.sub(r"\b(?:himself|herself|themselves)\b", "yourself", text, flags=re.IGNORECASE)
