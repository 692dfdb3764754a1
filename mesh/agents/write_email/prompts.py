"""What the model is asked, piece by piece.

Every question is a rewriting of the brief's own facts, with worked examples before it: a model of
135 million parameters copies the form of examples well, follows instructions badly and invents
when it writes freely. The fewer facts a question holds, the truer the answer. The brief stands in
the question as data, cleaned, and never in the system message. Guardrails judge the answer, so
an instruction hidden in a brief gains nothing even where the model follows it. The words are in
``mesh.agents.prompts``.
"""

from __future__ import annotations

import re

from mesh.agents import prompts, templates
from mesh.agents.generate import Prompt
from mesh.agents.guard import patterns as p
from mesh.agents.guard.check import Limits
from mesh.agents.guard.facts import Facts, fold, stem

SUBJECT = Limits(12, 70, sentences=False, max_exclamations=0, grounding=0.75)
PREHEADER = Limits(20, 110, max_exclamations=0, grounding=0.5)
ANGLE = Limits(20, 200, max_exclamations=0, grounding=0.6)
OPENING = Limits(40, 300, grounding=0.6)
CLOSING = Limits(15, 140, grounding=0.5)

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
    question = _named(facts, known[index % len(known)], ": ")
    return _prompt("subject-line-writer", "subject", question, facts)


def preheader(facts: Facts, chosen: str) -> Prompt:
    """About facts that the subject does not hold already, as far as there are any."""
    said = fold(chosen)
    rest = [x for x in points(facts) if fold(x) not in said] or points(facts)
    return _prompt("preheader-writer", "preheader", _listed(facts, rest[:2]), facts)


def angle(facts: Facts) -> Prompt:
    return _prompt("strategist", "angle", _listed(facts, points(facts)[:2]), facts)


def opening(facts: Facts) -> Prompt:
    return _prompt("body-writer", "opening", _listed(facts, points(facts)[:3]), facts)


def closing(facts: Facts, action: str) -> Prompt:
    """``action``: what the reader is invited to, the button's label."""
    return _prompt("body-writer", "closing", action, facts)


def _prompt(agent: str, piece: str, question: str, facts: Facts) -> Prompt:
    made = prompts.render(agent, piece, language=facts.brief.language, tone=tone_word(facts))
    return Prompt(made.system, question, made.examples, made.reference)


def _named(facts: Facts, text: str, mark: str) -> str:
    brand = templates.brand(facts)
    return text if not brand or fold(brand) in fold(text) else f"{brand}{mark}{text}"


def _listed(facts: Facts, parts: list[str]) -> str:
    text = ". ".join(part[0].upper() + part[1:] for part in parts) + "."
    return templates.shorten(_named(facts, text, ". "), 420)


def tone_word(facts: Facts) -> str:
    """One plain word of the brief's tone: free text has no place in an instruction."""
    match = re.match(r"[a-z]{3,14}\b", facts.brief.tone.strip().lower())
    return match.group() if match else "friendly"
