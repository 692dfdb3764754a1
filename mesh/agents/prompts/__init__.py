"""Prompts as versioned files: one folder per agent, one TOML file per version.

A file never changes once it is released: a better prompt is a new version. Each decision that
rests on a prompt names it (``agent/v1#sum``), so that a text can be traced to the very words that
asked for it, and two versions can be compared.
"""

from __future__ import annotations

import hashlib
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from mesh.agents.activation import ACTIVE
from mesh.core.errors import Internal

NEWEST: Mapping[str, int] = {
    "strategist": 2,
    "subject-line-writer": 2,
    "preheader-writer": 2,
    "body-writer": 2,
    "translator": 1,
    "personaliser": 1,
}
"""The version that each agent uses."""

PLACEHOLDERS = frozenset({"tone", "language", "source"})
"""What a prompt may leave open. Each is filled with one word of ours, never with a brief's text:
free text has no place in an instruction."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """One question of one agent."""

    system: str
    elsewhere: str
    """The instruction for languages other than English; those get no examples, which would pull
    the answer into English."""
    examples: tuple[tuple[str, str], ...]
    variants: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Examples by what the text is for, or by its tone: a small model copies their form, so they
    should be of the form that is wanted."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One version of one agent's prompts."""

    agent: str
    version: int
    sha256: str
    pieces: Mapping[str, PromptTemplate]
    marks: frozenset[str] = frozenset()
    """Words of the examples that have no business in an answer unless the brief holds them."""

    @property
    def reference(self) -> str:
        """As decisions name it."""
        return f"{self.agent}/v{self.version}#{self.sha256[:12]}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """An instruction that is ready, its examples, and where it comes from."""

    system: str
    examples: tuple[tuple[str, str], ...]
    reference: str


def render(
    agent: str, piece: str, *, language: str = "en", variant: str = "", **words: str
) -> Rendered:
    """The agent's newest prompt for a piece. ``language``: two letters; ``variant``: which
    examples, the usual ones where there are none of that name; ``words``: placeholders.

    Raises Internal when there is no such prompt, or a placeholder has no word.
    """
    file = load(agent)
    template = file.pieces.get(piece)
    if template is None:
        raise Internal(f"the prompt {file.reference} has no piece {piece!r}")
    base = language[:2]
    english = base == "en"
    text = template.system if english or not template.elsewhere else template.elsewhere
    words = {"language": LANGUAGES.get(base, base), **words}
    try:
        system = text.format_map(words)
    except KeyError as error:
        raise Internal(f"the prompt {file.reference} needs a word for {error}") from error
    examples = template.variants.get(variant, template.examples)
    return Rendered(system, examples if english else (), file.reference)


def load(agent: str, version: int | None = None) -> PromptFile:
    """Read once and kept while it is used. Raises Internal for what does not exist or is wrong."""
    wanted = NEWEST.get(agent, 0) if version is None else version
    return ACTIVE.get(f"prompt:{agent}/v{wanted}", lambda: _read(agent, wanted))


def _read(agent: str, version: int) -> PromptFile:
    file = resources.files(__package__).joinpath(agent, f"v{version}.toml")
    try:
        data = file.read_bytes()
        tables = tomllib.loads(data.decode())
        marks = frozenset(map(str, tables.pop("marks", ())))
        pieces = {name: _piece(table) for name, table in tables.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Internal(f"the prompt {agent}/v{version} can't be read: {error}") from error
    return PromptFile(agent, version, hashlib.sha256(data).hexdigest(), pieces, marks)


def _piece(table: Mapping[str, Any]) -> PromptTemplate:
    if unknown := set(table) - {"system", "elsewhere", "examples", "variants"}:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    made = PromptTemplate(
        str(table["system"]),
        str(table.get("elsewhere", "")),
        _examples(table),
        {name: _examples(variant) for name, variant in table.get("variants", {}).items()},
    )
    for text in (made.system, made.elsewhere):
        names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        if unknown := names - PLACEHOLDERS:
            raise ValueError(f"unknown placeholders: {', '.join(sorted(unknown))}")
    return made


def _examples(table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(question), str(answer)) for question, answer in table["examples"])


LANGUAGES = {
    "en": "English",
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
"""Names that models know, by ISO 639-1."""
