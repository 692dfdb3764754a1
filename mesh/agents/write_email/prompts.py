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
from mesh.agents.classifier.cues import cue_words, labels
from mesh.agents.generate import Prompt
from mesh.agents.guard import patterns as p
from mesh.agents.guard.check import Limits
from mesh.agents.guard.facts import Facts, fold, stem

SUBJECT = Limits(8, 70, sentences=False, max_exclamations=0, grounding=0.75)
PREHEADER = Limits(20, 110, max_exclamations=0, grounding=0.75)
ANGLE = Limits(20, 200, max_exclamations=0, grounding=0.75)
OPENING = Limits(40, 300, grounding=0.75)
CLOSING = Limits(15, 140, grounding=0.6)

_ALONE = re.compile(r"\b(?:I|I'm|I'll|I've|me|my)\b")
_AGENTS = ("strategist", "subject-line-writer", "preheader-writer", "body-writer")


def leaks(text: str, facts: Facts) -> list[str]:
    """Whether the text repeats an example instead of speaking of the brief, or forgets that it
    speaks for a brand."""
    words = {stem(w) for w in p.WORD.findall(fold(text))}
    known = frozenset[str]().union(*(prompts.load(agent).marks for agent in _AGENTS))
    marks = {stem(w) for w in known} - facts.stems
    found = [f"copies an example: {w}" for w in sorted(words & marks)]
    if facts.brief.language[:2] == "en" and _ALONE.search(text):
        found.append("speaks as one person")
    return found


def topic_of(facts: Facts) -> str:
    """What the brief is for, by its own words; empty when they don't say."""
    text = " ".join((facts.brief.goal, facts.brief.product, *facts.brief.key_points))
    hits = {topic: len(cue_words(text, "topic", topic, most=9)) for topic in labels("topic")}
    best = max(hits, key=lambda topic: hits[topic])
    return best if hits[best] else ""


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
    """``index``: which of the facts this line is about; a brief of few facts lends its links'
    labels and its goal, so that three lines needn't say the same."""
    known = points(facts)
    more = [templates.safe(link.label, facts) for link in facts.brief.links]
    more.append(templates.topic(facts, 60))
    known += [x for x in more if x and not any(fold(x) in fold(other) for other in known)]
    question = _named(facts, known[index % len(known)], ": ")
    return _prompt("subject-line-writer", "subject", question, facts, topic_of(facts))


def preheader(facts: Facts, chosen: str) -> Prompt:
    """About facts that the subject does not hold already, as far as there are any."""
    said = fold(chosen)
    rest = [x for x in points(facts) if fold(x) not in said] or points(facts)
    question = _listed(facts, rest[:2])
    return _prompt("preheader-writer", "preheader", question, facts, topic_of(facts))


def angle(facts: Facts) -> Prompt:
    question = _listed(facts, points(facts)[:2])
    return _prompt("strategist", "angle", question, facts, topic_of(facts))


def opening(facts: Facts) -> Prompt:
    question = _listed(facts, points(facts)[:3])
    return _prompt("body-writer", "opening", question, facts, topic_of(facts))


def closing(facts: Facts, action: str) -> Prompt:
    """``action``: what the reader is invited to, the button's label."""
    return _prompt("body-writer", "closing", action, facts, templates.tone_word(facts))


def _prompt(agent: str, piece: str, question: str, facts: Facts, variant: str) -> Prompt:
    made = prompts.render(
        agent,
        piece,
        language=facts.brief.language,
        variant=variant,
        tone=templates.tone_word(facts),
    )
    return Prompt(made.system, question, made.examples, made.reference)


def _named(facts: Facts, text: str, mark: str) -> str:
    brand = templates.brand(facts)
    return text if not brand or fold(brand) in fold(text) else f"{brand}{mark}{text}"


def _listed(facts: Facts, parts: list[str]) -> str:
    text = ". ".join(part[0].upper() + part[1:] for part in parts) + "."
    return templates.shorten(_named(facts, text, ". "), 420)
