"""Emails that come from outside, as guardrails and renderers see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import TypeAdapter, ValidationError

from mesh.agents.guard.clean import clean, safe_fallback, without_tags
from mesh.agents.guard.facts import Facts
from mesh.agents.render import render_html, render_text, safe_url
from mesh.contracts.agents import Draft
from mesh.contracts.email import Brief, Email, Link, Review, Strategy
from mesh.contracts.problems import invalid_field
from mesh.core.errors import InvalidInput

_LINK = TypeAdapter(Link)


def check_links(email: Draft) -> None:
    """Buttons need an address that may be sent. Raises InvalidInput naming the field."""
    for index, block in enumerate(email.blocks):
        if block.kind != "button":
            continue
        try:
            _LINK.validate_python({"label": "x", "url": safe_url(block.url or "")})
        except (ValidationError, InvalidInput):
            raise invalid_field(
                f"input.email.blocks.{index}.url", "A button needs an http or https address"
            ) from None


def facts_of_draft(
    email: Draft, memory: Sequence[str] = (), banned: Sequence[str] = (), links: Sequence[Link] = ()
) -> Facts:
    """The email itself is the brief: what it says, its links and its tags are what may be said."""
    texts = [without_tags(text)[:500] for _, text in texts_of(email)]
    texts = [text for text in (clean(text, labels=False) for text in texts) if text]
    own = [
        Link.model_validate({"label": (block.text or "…")[:120], "url": safe_url(block.url or "")})
        for block in email.blocks
        if block.kind == "button"
    ]
    brief = Brief(
        goal=clean(without_tags(email.subject), labels=False).ljust(3, "…"),
        product="",
        key_points=texts[1:21],
        # What does not fit into key points still counts as said.
        audience=" ".join(texts[21:])[:1_000],
        language=email.language,
        links=[*own, *links][:20],
        merge_tags=email.merge_tags,
    )
    return Facts(brief, memory=tuple(memory), banned=tuple(banned))


def texts_of(email: Draft) -> Iterator[tuple[str, str]]:
    """Every text with its place, in the order of the email."""
    yield "subject", email.subject
    if email.preheader:
        yield "preheader", email.preheader
    for index, block in enumerate(email.blocks):
        if block.text:
            yield f"blocks.{index}.text", block.text
        for at, item in enumerate(block.items):
            yield f"blocks.{index}.items.{at}", item


def with_texts(email: Draft, texts: dict[str, str], language: str | None = None) -> Draft:
    """The email with these texts in their places; links and tags are never touched."""
    blocks = []
    for index, block in enumerate(email.blocks):
        items = [
            texts.get(f"blocks.{index}.items.{at}", item) for at, item in enumerate(block.items)
        ]
        text = texts.get(f"blocks.{index}.text", block.text)
        blocks.append(block.model_copy(update={"text": text, "items": items}))
    return email.model_copy(
        update={
            "subject": texts.get("subject", email.subject),
            "preheader": texts.get("preheader", email.preheader),
            "blocks": blocks,
            "language": language or email.language,
        }
    )


def rendered(email: Draft) -> tuple[str, str]:
    """HTML and plain text. Raises InvalidInput for an address that is not allowed."""
    whole = Email(
        subject=email.subject,
        subject_candidates=[email.subject],
        preheader=email.preheader or "…",
        blocks=email.blocks,
        strategy=Strategy(objective="…", angle="…", call_to_action="…"),
        review=Review(approved=True, spam_score=0.0),
        language=email.language,
        merge_tags=[
            tag.model_copy(update={"fallback": safe_fallback(tag.fallback)})
            for tag in email.merge_tags
        ],
    )
    return render_html(whole), render_text(whole)
