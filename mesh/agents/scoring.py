"""Rank subject lines by a score that can be explained.

``SubjectScorer`` is the seam: a model trained on opens and clicks may take the heuristic's place.
The heuristic's parts follow what senders commonly measure: 30 to 50 characters show whole on
phones, the first words carry the topic, a personal tag helps, spam signs hurt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mesh.agents.guard import patterns as p
from mesh.agents.guard.check import grounding
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.facts import Facts, fold, stem
from mesh.agents.guard.spam import spam_score


@dataclass(frozen=True, slots=True)
class SubjectScore:
    """``value`` from 0 to 1; ``parts`` are its weighted terms and add up to it."""

    value: float
    parts: dict[str, float]
    reason: str


class SubjectScorer(Protocol):
    name: str

    def score(self, subject: str, facts: Facts) -> SubjectScore: ...


class HeuristicScorer:
    """Length, topic, main point, specifics, personal touch, calm."""

    name = "heuristic-1"

    def score(self, subject: str, facts: Facts) -> SubjectScore:
        plain = without_tags(subject)
        folded = fold(plain)
        length = len(plain)
        # Full marks from 28 to 50 characters, falling to nothing at 10 and 90.
        if length < 28:
            fit = max(0.0, (length - 10) / 18)
        else:
            fit = 1.0 if length <= 50 else max(0.0, (90 - length) / 40)
        words = p.WORD.findall(folded)
        early = " ".join(words[:4])
        topic = 0.6 * grounding(folded, facts) + 0.4 * grounding(early, facts)
        specific = 0.0
        if any(c.isdigit() for c in plain):
            specific += 0.5
        if facts.brief.brand and fold(facts.brief.brand) in folded:
            specific += 0.5
        # The first thing that the brief names is what the email is about.
        main = next((x for x in (facts.brief.product, *facts.brief.key_points) if x), "")
        wanted = {stem(w) for w in p.WORD.findall(fold(main))}
        said = {stem(w) for w in words}
        calm = 1.0 - spam_score(plain).value - 0.1 * plain.count("!")
        parts = {
            "length": round(0.25 * fit, 4),
            "topic": round(0.25 * topic, 4),
            "main": round(0.2 * len(wanted & said) / max(1, len(wanted)), 4),
            "specific": round(0.15 * specific, 4),
            "personal": 0.05 if p.MERGE_TAG.search(subject) else 0.0,
            "calm": round(0.1 * max(0.0, calm), 4),
        }
        value = round(sum(parts.values()), 4)
        best = max(parts, key=lambda k: parts[k])
        return SubjectScore(value, parts, f"{length} characters; most of the score from {best}")
