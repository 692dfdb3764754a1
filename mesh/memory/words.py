"""Full text without the text: PostgreSQL stems and ranks, and is given only hashes to keep.

Lexemes come from PostgreSQL's own dictionaries, together with where in the text they stand. What
is stored, and what is searched for, are their hashes under the namespace's salt, at the same
places; so its ranking works as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mesh.memory.vault import Vault

CONFIGURATIONS: Mapping[str, str] = MappingProxyType(
    {
        "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "english",
        "es": "spanish", "fi": "finnish", "fr": "french", "hu": "hungarian", "id": "indonesian",
        "it": "italian", "lt": "lithuanian", "nl": "dutch", "no": "norwegian",
        "pt": "portuguese", "ro": "romanian", "ru": "russian", "sv": "swedish", "ta": "tamil",
        "tr": "turkish",
    }
)  # fmt: skip
SIMPLE = "simple"
MAX_LEXEMES = 2_000
"""Of one text; the rest of a long one is found by its vector alone."""
MAX_POSITIONS = 64
COMMON = 200
"""Memories of a namespace that have a word before it counts as common."""
MAX_MATCHES = 2_500
"""Of common words, that one query scores."""
_LAST_PLACE = 16_383
"""PostgreSQL's own limit."""


@dataclass(frozen=True, slots=True)
class Lexeme:
    text: str
    places: tuple[int, ...]
    """In the text, from 1."""


def configuration(language: str | None) -> str:
    """PostgreSQL's name for how the language is stemmed. Unset: as English; unknown: not at
    all."""
    return CONFIGURATIONS["en"] if language is None else CONFIGURATIONS.get(language, SIMPLE)


def vector_text(vault: Vault, salt: bytes, lexemes: Sequence[Lexeme]) -> str:
    """A tsvector as text, of hashes."""
    taken = lexemes[:MAX_LEXEMES]
    hashed = vault.words(salt, (lexeme.text for lexeme in taken))
    parts = []
    for word, lexeme in zip(hashed, taken, strict=True):
        places = [str(p) for p in lexeme.places[:MAX_POSITIONS] if 0 < p <= _LAST_PLACE]
        parts.append(f"'{word}':{','.join(places)}" if places else f"'{word}'")
    return " ".join(parts)


def query_text(
    vault: Vault, salt: bytes, lexemes: Iterable[Lexeme], common: Mapping[str, int] | None = None
) -> str:
    """A tsquery as text: any of the words. Empty: there is nothing to look for.

    ``common``: hashed words that many memories have, with how many. The rarest words are taken,
    as long as together they have at most ``MAX_MATCHES`` (one is always taken): every match has to
    be scored, and a word that everybody has tells nobody apart.
    """
    unique = list(dict.fromkeys(lexeme.text for lexeme in lexemes))[:MAX_LEXEMES]
    hashed = vault.words(salt, unique)
    known = common or {}
    taken: list[str] = []
    matches = 0
    for word in sorted(hashed, key=lambda word: known.get(word, 0)):
        matches += known.get(word, 0)
        if taken and matches > MAX_MATCHES:
            break
        taken.append(word)
    return " | ".join(f"'{word}'" for word in taken)
