"""The brief that comes in and the email that goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, HttpUrl, StringConstraints

from mesh.contracts.base import Contract

VERSION = 1

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
NO_NUL = r"^[^\x00]*$"


class MergeTag(Contract):
    """A placeholder such as ``{{ first_name | there }}``: every tag has a fallback."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    fallback: str = Field(max_length=200, pattern=NO_NUL)


class Link(Contract):
    """A link that the email may hold. Agents may use these and no others."""

    label: str = Field(min_length=1, max_length=120, pattern=NO_NUL)
    url: HttpUrl


class Brief(Contract):
    """What the marketer wants said, to whom, and with which links and merge tags."""

    goal: str = Field(min_length=3, max_length=4_000, pattern=NO_NUL)
    audience: str = Field(default="", max_length=1_000, pattern=NO_NUL)
    product: str = Field(default="", max_length=1_000, pattern=NO_NUL)
    tone: str = Field(default="friendly", max_length=200, pattern=NO_NUL)
    language: str = Field(default="en", pattern=r"^[a-z]{2}(-[A-Z]{2})?$")
    brand: str = Field(default="", max_length=200, pattern=NO_NUL)
    key_points: list[Line] = Field(default_factory=list, max_length=20)
    links: list[Link] = Field(default_factory=list, max_length=20)
    merge_tags: list[MergeTag] = Field(default_factory=list, max_length=20)
    contact: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f]+$",
        description="Whom alone it is written for: agents read this contact's memory",
    )


class Strategy(Contract):
    """The first step's output: what the email has to do."""

    objective: str = Field(min_length=1, max_length=300)
    angle: str = Field(min_length=1, max_length=300)
    call_to_action: str = Field(min_length=1, max_length=60)


class Block(Contract):
    """One part of the body, from top to bottom."""

    kind: Literal["heading", "paragraph", "bullets", "button"]
    text: str = Field(default="", max_length=1_200)
    items: list[str] = Field(default_factory=list, max_length=6, description="Of bullets")
    url: str | None = Field(default=None, description="Of a button: one of the brief's links")


class Review(Contract):
    """The last step's output."""

    approved: bool
    notes: list[str] = Field(default_factory=list, max_length=20)
    spam_score: float = Field(ge=0.0, le=1.0)


class Email(Contract):
    """The structured email. Rendering to HTML and plain text follows from it alone."""

    subject: str = Field(min_length=1, max_length=90)
    subject_candidates: list[str] = Field(min_length=1, max_length=5)
    preheader: str = Field(min_length=1, max_length=140)
    blocks: list[Block] = Field(min_length=1, max_length=30)
    strategy: Strategy
    review: Review
    language: str
    merge_tags: list[MergeTag] = Field(default_factory=list)
