"""What the model is asked, piece by piece.

Every question is a rewriting of the brief's own facts, with worked examples before it: a model of
135 million parameters copies the form of examples well, follows instructions badly and invents
when it writes freely. The fewer facts a question holds, the truer the answer. The brief stands in
the question as data, cleaned, and never in the system message. Guardrails judge the answer, so
an instruction hidden in a brief gains nothing even where the model follows it.
"""

from __future__ import annotations

import re

from mesh.agents import templates
from mesh.agents.generate import Prompt
from mesh.agents.guard import patterns as p
from mesh.agents.guard.check import Limits
from mesh.agents.guard.facts import Facts, fold, stem

SUBJECT = Limits(12, 70, sentences=False, max_exclamations=0, grounding=0.75)
PREHEADER = Limits(20, 110, max_exclamations=0, grounding=0.5)
ANGLE = Limits(20, 200, max_exclamations=0, grounding=0.6)
OPENING = Limits(40, 300, grounding=0.6)
CLOSING = Limits(15, 140, grounding=0.5)

_LANGUAGES = {
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "pl": "Polish",
    "sv": "Swedish",
    "da": "Danish",
    "cs": "Czech",
    "tr": "Turkish",
    "ru": "Russian",
    "uk": "Ukrainian",
    "ja": "Japanese",
    "zh": "Chinese",
    "ko": "Korean",
    "ar": "Arabic",
    "hi": "Hindi",
}
_SUBJECTS = (
    ("Lake Gym: free yoga class for new members on Saturday", "Your free yoga class on Saturday"),
    ("Corner Books: new crime novel by Ana Ruiz, from 3 May", "New on 3 May: the Ana Ruiz novel"),
    ("Blue Bikes: repair day in the town hall", "Bring your bike to our repair day"),
)
_SENTENCES = (
    (
        "Lake Gym. Free yoga class for new members. Bring a towel.",
        "New members can join a free yoga class at Lake Gym.",
    ),
    (
        "Corner Books. Signed copies of the new crime novel by Ana Ruiz.",
        "You can get signed copies of the new crime novel by Ana Ruiz at Corner Books.",
    ),
)
_PARAGRAPHS = (
    (
        "Lake Gym. Open day on Saturday. Free yoga class for new members. Bring a towel.",
        "We open our doors at Lake Gym on Saturday, and new members can join a free yoga class. "
        "Please bring a towel.",
    ),
    (
        "Corner Books. New crime novel by Ana Ruiz. In the shop from 3 May. Signed copies.",
        "We have the new crime novel by Ana Ruiz at Corner Books, in the shop from 3 May. You can "
        "find signed copies too.",
    ),
)
_CLOSINGS = (
    ("See the classes", "Come and see the classes, we look forward to hearing from you."),
    ("Order the novel", "Order the novel, we look forward to hearing from you."),
    ("Timetable", "Have a look at the timetable, we look forward to hearing from you."),
)
_MARKS = (
    "gym",
    "yoga",
    "towel",
    "crime",
    "novel",
    "ana",
    "ruiz",
    "signed",
    "bike",
    "repair",
    "timetable",
)
"""Words of the examples that have no business in an answer unless the brief holds them."""


def leaks(text: str, facts: Facts) -> list[str]:
    """Whether the text repeats an example instead of speaking of the brief."""
    words = {stem(w) for w in p.WORD.findall(fold(text))}
    marks = {stem(w) for w in _MARKS} - facts.stems
    return [f"copies an example: {w}" for w in sorted(words & marks)]


def points(facts: Facts) -> list[str]:
    """The brief's facts, one phrase each, at least one, without full stops."""
    brief = facts.brief
    found: list[str] = []
    for source in (brief.product, *brief.key_points):
        text = templates.shorten(templates.safe(source, facts), 160).rstrip(" .…")
        known = any(fold(text) in fold(other) for other in found)
        if text and not known:
            found.append(text)
    return found or [templates.topic(facts, 120) or templates.brand(facts) or "News"]


def subject(facts: Facts, index: int) -> Prompt:
    """``index``: which of the facts this line is about."""
    known = points(facts)
    return _prompt(
        "Write one short email subject line.",
        _named(facts, known[index % len(known)], ": "),
        _SUBJECTS,
        facts,
    )


def preheader(facts: Facts, chosen: str) -> Prompt:
    """About facts that the subject does not hold already, as far as there are any."""
    said = fold(chosen)
    rest = [x for x in points(facts) if fold(x) not in said] or points(facts)
    question = _listed(facts, rest[:2])
    return _prompt(
        f"Rewrite the text as one short {_tone(facts)} sentence.", question, _SENTENCES, facts
    )


def angle(facts: Facts) -> Prompt:
    question = _listed(facts, points(facts)[:2])
    return _prompt("Rewrite the text as one sentence to customers.", question, _SENTENCES, facts)


def opening(facts: Facts) -> Prompt:
    return _prompt(
        f"Rewrite the text as two {_tone(facts)} sentences to customers. Keep the facts.",
        _listed(facts, points(facts)[:3]),
        _PARAGRAPHS,
        facts,
    )


def closing(facts: Facts, action: str) -> Prompt:
    """``action``: what the reader is invited to, the button's label."""
    return _prompt(
        f"Write one {_tone(facts)} sentence that invites the reader.", action, _CLOSINGS, facts
    )


def _prompt(
    system: str, question: str, examples: tuple[tuple[str, str], ...], facts: Facts
) -> Prompt:
    base = facts.brief.language[:2]
    if base == "en":
        return Prompt(system, question, examples)
    # English examples would pull the answer into English.
    name = _LANGUAGES.get(base, base)
    return Prompt(f"{system} Use only the facts of the text. Answer in {name}.", question)


def _named(facts: Facts, text: str, mark: str) -> str:
    brand = templates.brand(facts)
    return text if not brand or fold(brand) in fold(text) else f"{brand}{mark}{text}"


def _listed(facts: Facts, parts: list[str]) -> str:
    text = ". ".join(part[0].upper() + part[1:] for part in parts) + "."
    return templates.shorten(_named(facts, text, ". "), 420)


def _tone(facts: Facts) -> str:
    """One plain word of the brief's tone: free text has no place in an instruction."""
    match = re.match(r"[a-z]{3,14}\b", facts.brief.tone.strip().lower())
    return match.group() if match else "friendly"
