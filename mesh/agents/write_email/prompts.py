"""What the model is asked, piece by piece.

Short questions with two worked examples: a model of 135 million parameters follows the form of
examples far better than instructions. The brief stands in the question as data, cleaned; nothing
it says reaches the system message. Guardrails judge the answer, so that an instruction hidden in
a brief gains nothing even where the model follows it.
"""

from __future__ import annotations

from mesh.agents import templates
from mesh.agents.generate import Prompt
from mesh.agents.guard.check import Limits
from mesh.agents.guard.facts import Facts

SUBJECT = Limits(8, 70, sentences=False, max_exclamations=0, grounding=0.5)
PREHEADER = Limits(20, 110, max_exclamations=0, grounding=0.3)
ANGLE = Limits(15, 200, max_exclamations=0, grounding=0.2)
OPENING = Limits(40, 320, grounding=0.3)
CLOSING = Limits(20, 200, grounding=0.1)

_GYM = "Lake Gym: open day, free yoga class for new members on Saturday"
_BOOKS = "Corner Books: new crime novel by Ana Ruiz, in the shop from 3 May"

_SUBJECT_EXAMPLES = {
    "benefit": ("Your free yoga class at Lake Gym", "Read the new Ana Ruiz crime novel from 3 May"),
    "news": ("Open day at Lake Gym on Saturday", "New at Corner Books: a crime novel by Ana Ruiz"),
    "question": ("Coming to yoga on Saturday?", "Have you met the new Ana Ruiz novel?"),
}
SUBJECT_ANGLES = tuple(_SUBJECT_EXAMPLES)


def about(facts: Facts, limit: int = 380) -> str:
    """The brief as one line of facts: brand, product, key points, then the goal."""
    brief = facts.brief
    brand = templates.brand(facts)
    parts = [templates.safe(brief.product, facts)]
    parts += [templates.safe(point, facts) for point in brief.key_points]
    if sum(map(len, parts)) < 120:
        parts.append(templates.topic(facts, 160) if not any(parts) else "")
    text = "; ".join(part.rstrip(" .") for part in parts if part)
    return templates.shorten(f"{brand}: {text}" if brand else text, limit)


def subject(facts: Facts, angle: str) -> Prompt:
    first, second = _SUBJECT_EXAMPLES[angle]
    return Prompt(
        f"Write one short email subject line ({angle}). Use only the facts.",
        about(facts, 260),
        ((_GYM, first), (_BOOKS, second)),
    )


def preheader(facts: Facts, chosen: str) -> Prompt:
    return Prompt(
        "Write one short sentence that continues the subject line. Use only the facts.",
        f"Subject: {chosen}\nFacts: {about(facts, 260)}",
        (
            (
                f"Subject: Open day on Saturday\nFacts: {_GYM}",
                "New members can try a yoga class for free.",
            ),
            (
                f"Subject: A new crime novel\nFacts: {_BOOKS}",
                "Ana Ruiz is back, and you can find her book in the shop from 3 May.",
            ),
        ),
    )


def angle(facts: Facts) -> Prompt:
    return Prompt(
        "Say in one sentence why the readers should care. Use only the facts.",
        about(facts, 300),
        (
            (_GYM, "New members can try a yoga class without paying for it."),
            (_BOOKS, "Readers of crime novels get a new story by an author they know."),
        ),
    )


def opening(facts: Facts) -> Prompt:
    return Prompt(
        "Write two friendly sentences to customers. Use only the facts.",
        about(facts),
        (
            (
                _GYM,
                "This Saturday we open our doors at Lake Gym. If you are new here, join a yoga "
                "class for free and see if you like it.",
            ),
            (
                _BOOKS,
                "The new crime novel by Ana Ruiz comes to Corner Books. You can find it in the "
                "shop from 3 May.",
            ),
        ),
    )


def closing(facts: Facts) -> Prompt:
    return Prompt(
        "Write one friendly last sentence of an email. Use only the facts.",
        about(facts, 220),
        (
            (_GYM, "We look forward to meeting you at Lake Gym."),
            (_BOOKS, "Come by Corner Books and take a look."),
        ),
    )
