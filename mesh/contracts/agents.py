"""What the agents beside ``write_email`` take and give."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from mesh.contracts.base import Contract
from mesh.contracts.email import NO_NUL, Block, Link, MergeTag

VERSION = 1

Text = Annotated[str, StringConstraints(max_length=20_000, pattern=NO_NUL)]
Contact = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")
]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[A-Z]{2})?$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Draft(Contract):
    """An email as an agent takes it up: what ``write_email`` gave, or one from elsewhere."""

    subject: str = Field(min_length=1, max_length=90, pattern=NO_NUL)
    preheader: str = Field(default="", max_length=140, pattern=NO_NUL)
    blocks: list[Block] = Field(min_length=1, max_length=30)
    language: Language = "en"
    merge_tags: list[MergeTag] = Field(default_factory=list, max_length=20)


class ClassifyInput(Contract):
    """Either ``email`` or ``text``."""

    email: Draft | None = None
    subject: str = Field(default="", max_length=500, pattern=NO_NUL)
    text: Text = ""
    sender: str = Field(
        default="", max_length=300, pattern=NO_NUL, description="Name of the sender"
    )
    language: Language = "en"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.email is None) == (not self.text.strip()):
            raise ValueError("give exactly one of email and text")
        return self


class Judgement(Contract):
    """The answer to one question, with every label's calibrated probability."""

    label: str
    probability: Share
    candidates: dict[str, Share] = Field(description="Label → probability; they add up to 1")
    because: list[str] = Field(
        default_factory=list, description="Words and signs that speak for it"
    )


class SpamRisk(Contract):
    risk: Share = Field(description="Calibrated probability that a filter's readers call it spam")
    signs: list[str] = Field(default_factory=list)


class ComplianceFinding(Contract):
    """One rule that the email breaks, or whose keeping can't be seen."""

    rule: str = Field(description="Name of the rule")
    severity: Literal["info", "warning", "violation"]
    reason: str
    source: str = Field(description="Where the rule stands")
    evidence: str = Field(default="", max_length=200)


class ComplianceRisk(Contract):
    """Rules, not law: a hint for people, no legal advice."""

    risk: Share
    findings: list[ComplianceFinding] = Field(default_factory=list)


class Classification(Contract):
    """What ``classify`` gives."""

    topic: Judgement
    tone: Judgement
    audience: Judgement
    spam: SpamRisk
    compliance: ComplianceRisk
    model: str = Field(description="Version of the trained classifier")
    degraded: bool = Field(description="True when it had to do without embeddings")
    notes: list[str] = Field(default_factory=list)


class PersonaliseInput(Contract):
    """An email and whom it goes to."""

    email: Draft
    contact_id: Contact
    links: list[Link] = Field(
        default_factory=list, max_length=20, description="Allowed beside the email's own"
    )
    instructions: str = Field(
        default="", max_length=500, pattern=NO_NUL, description="What to look for in the memory"
    )
    max_facts: int = Field(default=2, ge=0, le=5)


class PersonalStatement(Contract):
    """One thing said to this reader alone."""

    text: str
    block: int = Field(ge=-1, description="Index of the block that holds it; -1: the subject")
    cites: list[str] = Field(min_length=1, description="Memories that it rests on")


class PersonalisedEmail(Contract):
    """What ``personalise`` gives. Without a memory that fits, the email comes back as it was."""

    email: Draft
    statements: list[PersonalStatement] = Field(default_factory=list)
    cites: list[str] = Field(default_factory=list, description="Every memory that shaped it")
    changed: bool
    html: str
    text: str
    degraded: bool


class Variant(Contract):
    id: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")
    subject: str = Field(min_length=1, max_length=200, pattern=NO_NUL)
    preheader: str = Field(default="", max_length=200, pattern=NO_NUL)
    blocks: list[Block] = Field(default_factory=list, max_length=30)
    sends: int = Field(default=0, ge=0, description="How often it was sent already")
    successes: int = Field(default=0, ge=0, description="Opens, clicks …: what the goal counts")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.successes > self.sends:
            raise ValueError("successes must not exceed sends")
        return self


class OptimiseInput(Contract):
    """Variants to rank."""

    variants: list[Variant] = Field(min_length=2, max_length=50)
    goal: Literal["open", "click"] = "open"
    audience: str = Field(default="", max_length=1_000, pattern=NO_NUL)
    brand: str = Field(default="", max_length=200, pattern=NO_NUL)
    language: Language = "en"
    merge_tags: list[MergeTag] = Field(default_factory=list, max_length=20)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({variant.id for variant in self.variants}) < len(self.variants):
            raise ValueError("every variant needs an id of its own")
        return self


class Ranked(Contract):
    """One variant's place. ``expected`` is a rate; ``low`` and ``high`` hold it with 90 %."""

    id: str
    rank: int = Field(ge=1)
    expected: Share
    low: Share
    high: Share
    best_probability: Share = Field(description="That it is the best of all")
    share: Share = Field(description="Of the next sends, by Thompson sampling")
    parts: dict[str, float] = Field(default_factory=dict)
    why: list[str] = Field(default_factory=list)


class Ranking(Contract):
    """What ``optimise`` gives: best first."""

    goal: str
    scorer: str
    ranked: list[Ranked] = Field(min_length=1)
    decisive: bool = Field(description="Whether the best is the best with at least 90 %")
    advice: str


class TranslateInput(Contract):
    email: Draft
    to: Language
    keep: list[Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]] = (
        Field(default_factory=list, max_length=50, description="Names that stay as they are")
    )

    @model_validator(mode="after")
    def _another(self) -> Self:
        if self.to[:2] == self.email.language[:2]:
            raise ValueError("the email is in this language already")
        return self


class TranslatedPart(Contract):
    """One text of the email: translated, or kept because no good translation was had."""

    where: str = Field(description="subject, preheader, blocks.2.text, blocks.3.items.0 …")
    translated: bool
    reason: str = ""


class TranslatedEmail(Contract):
    """What ``translate`` gives. Parts that could not be translated stay in their language."""

    email: Draft
    parts: list[TranslatedPart]
    html: str
    text: str
    degraded: bool = Field(description="True when any part was kept in its language")
