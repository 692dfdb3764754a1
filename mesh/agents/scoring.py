"""Rank subject lines and whole variants by scores that can be explained.

``SubjectScorer`` and ``VariantScorer`` are the seams: models trained on opens and clicks may take
the heuristics' place. A heuristic's parts follow what senders commonly measure: 30 to 50
characters show whole on phones, the first words carry the topic, a personal tag helps, spam signs
hurt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mesh.agents.guard import patterns as p
from mesh.agents.guard.check import grounding
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.facts import Facts, fold, stem
from mesh.agents.guard.spam import spam_score
from mesh.contracts.agents import OptimiseInput, Variant


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scorer expects of a variant before it is sent: a Beta distribution's shape.

    ``rate`` is the expected share of successes, ``strength`` how many sends that belief is worth;
    ``parts`` are multipliers of the base rate, ``why`` says the strongest in words.
    """

    rate: float
    strength: float
    parts: dict[str, float] = field(default_factory=dict)
    why: tuple[str, ...] = ()


class VariantScorer(Protocol):
    """Expects what variants will do. Models trained on results take the heuristic's place by
    ``AgentServices.scorer``."""

    name: str

    async def estimate(
        self, variants: Sequence[Variant], given: OptimiseInput, *, timeout_s: float
    ) -> list[Estimate]:
        """In the order of ``variants``. Raises Unavailable, DeadlineExceeded, EngineError."""
        ...


BASE_RATES = {"open": 0.21, "click": 0.026}
"""Typical of marketing mail; only differences between variants matter for a ranking."""
PRIOR_STRENGTH = 60.0
"""Sends that the heuristic's opinion is worth: a few hundred real ones outweigh it."""


class HeuristicVariantScorer:
    """Length, specifics, personal touch, calm, preheader; for clicks the button and the length."""

    name = "heuristic-1"

    async def estimate(
        self, variants: Sequence[Variant], given: OptimiseInput, *, timeout_s: float
    ) -> list[Estimate]:
        return [self.of(variant, given) for variant in variants]

    def of(self, variant: Variant, given: OptimiseInput) -> Estimate:
        """Pure."""
        parts = self._opened(variant, given)
        if given.goal == "click":
            parts = {**{k: 1 + (v - 1) / 2 for k, v in parts.items()}, **self._clicked(variant)}
        rate = BASE_RATES[given.goal]
        for factor in parts.values():
            rate *= factor
        strongest = sorted(parts.items(), key=lambda x: -abs(x[1] - 1))[:3]
        why = tuple(
            f"{name.replace('_', ' ')}: {'+' if factor > 1 else ''}{factor - 1:.0%}"
            for name, factor in strongest
            if abs(factor - 1) >= 0.01
        )
        rounded = {name: round(factor, 4) for name, factor in parts.items()}
        return Estimate(min(0.95, rate), PRIOR_STRENGTH, rounded, why)

    def _opened(self, variant: Variant, given: OptimiseInput) -> dict[str, float]:
        plain = without_tags(variant.subject)
        length = len(plain)
        fit = 1.0 if 28 <= length <= 50 else 1.0 - min(1.0, abs(length - 39) / 60)
        spam = spam_score(plain)
        preheader = without_tags(variant.preheader)
        repeats = bool(preheader) and fold(preheader).rstrip(" .") in fold(plain)
        early = fold(" ".join(plain.split()[:3]))
        return {
            "length": 0.9 + 0.15 * fit,
            "figure": 1.05 if any(c.isdigit() for c in plain) else 1.0,
            "brand_first": 1.03 if given.brand and fold(given.brand) in early else 1.0,
            "personal": 1.06 if p.MERGE_TAG.search(variant.subject) else 1.0,
            "question": 1.02 if plain.rstrip().endswith("?") else 1.0,
            "spam_signs": 1.0 - 0.6 * spam.value - 0.03 * plain.count("!"),
            "preheader": 0.97 if repeats or not preheader else 1.04,
        }

    def _clicked(self, variant: Variant) -> dict[str, float]:
        buttons = [block for block in variant.blocks if block.kind == "button"]
        texts = [block.text + " ".join(block.items) for block in variant.blocks]
        words = len(p.WORD.findall(without_tags(" ".join(texts))))
        return {
            "buttons": {0: 0.4, 1: 1.12, 2: 1.05}.get(len(buttons), 0.95) if texts else 1.0,
            "words": 1.0 if 40 <= words <= 160 or not words else 0.9,
            "bullets": 1.05 if any(block.kind == "bullets" for block in variant.blocks) else 1.0,
        }
