"""How what is remembered shapes an email: the same facts and wishes for every step.

The first step recalls and keeps what it found in its output; later steps, perhaps on another
worker, read it there. So all parts of an email rest on the same memory, and a resumed task, too.
"""

from __future__ import annotations

from mesh.agents.agent import StepContext
from mesh.agents.guard.facts import Facts, fold, stem
from mesh.agents.guard.patterns import WORD
from mesh.agents.preferences import Cited, Remembered
from mesh.contracts.email import Brief
from mesh.contracts.tasks import Decision

DEFAULT_TONE = str(Brief.model_fields["tone"].default)
MAX_BULLETS = 2
"""Facts of the memory that are told beside the brief's own points."""


def remembered(context: StepContext) -> Remembered:
    """What the first step recalled."""
    return Remembered.from_output(context.previous.get("strategy", {}).get("remembered"))


def facts_of(context: StepContext, known: Remembered | None = None) -> Facts:
    """The brief and what is remembered, as guardrails see them."""
    known = remembered(context) if known is None else known
    brief = context.brief
    if known.tone and brief.tone == DEFAULT_TONE:
        brief = brief.model_copy(update={"tone": known.tone.value})
    wishes = [c.value for c in (known.greeting, known.sign_off) if c]
    return Facts(
        brief,
        memory=(*(c.value for c in known.facts), *wishes),
        banned=tuple(c.value for c in known.banned),
    )


def fitting(known: Remembered, facts: Facts) -> list[Cited]:
    """Remembered facts that share a content word with the brief: worth telling, at most two."""
    topic = {stem(w) for w in WORD.findall(fold(facts.brief_text)) if len(w) > 3}
    found = []
    for cited in known.facts:
        words = {stem(w) for w in WORD.findall(fold(cited.value)) if len(w) > 3}
        if words & topic:
            found.append(cited)
    return found[:MAX_BULLETS]


def recall_decision(agent: str, known: Remembered, facts: Facts) -> Decision:
    """What was remembered and what came of it. Names memories, never quotes those refused."""
    used: dict[str, str] = {}
    for name in ("greeting", "sign_off", "tone"):
        cited: Cited | None = getattr(known, name)
        if cited is not None:
            used[name] = cited.citation
    if known.tone and facts.brief.tone != known.tone.value:
        used.pop("tone", None)
    notes = list(known.refused)
    if known.language and known.language.value != facts.brief.language[:2]:
        notes.append(
            f"{known.language.citation}: asks for {known.language.value}, the brief for "
            f"{facts.brief.language}: `translate` makes that version"
        )
    if known.degraded:
        notes.append("the memory gave less than it holds")
    return Decision(
        agent=agent,
        what="memory",
        chosen=used,
        candidates=[{"text": c, "score": 1.0} for c in known.cites()],
        reason=known.failure
        or (
            f"{len(known.facts)} facts, {len(known.banned)} words to avoid, "
            f"{len(used)} wishes followed"
        ),
        repairs=[note[:300] for note in notes[:20]],
        cites=known.cites(),
    )
