"""What a text shows on its surface: the head sees these beside the embedding.

An embedding says what a text means; capitals, marks and money signs say how it shouts. Each
feature lies between 0 and 1, so that one regularisation suits all inputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mesh.agents.classifier.cues import cue_features
from mesh.agents.guard import patterns as p
from mesh.agents.guard.clean import without_tags
from mesh.agents.guard.spam import SPAM_WORDS, caps_words

Floats = npt.NDArray[np.float32]

NAMES = (
    "capitals",
    "shouted_words",
    "exclamations",
    "questions",
    "money",
    "digits",
    "spam_words",
    "second_person",
    "sentence_length",
    "symbols",
)
_YOU = re.compile(r"\b(?:you|your|yours|you're|you'll)\b", re.IGNORECASE)
_SYMBOL = re.compile(r"[*=_#~|<>^]")


def surface(text: str) -> list[float]:
    """In the order of ``NAMES``; merge tags count as their fallbacks."""
    plain = without_tags(text)
    letters = sum(c.isalpha() for c in plain) or 1
    words = p.WORD.findall(plain)
    count = len(words) or 1
    folded = plain.casefold()
    sentences = max(1, len(p.SENTENCE_END.findall(plain)) + 1)
    return [
        sum(c.isupper() for c in plain) / letters,
        min(1.0, 5 * len(caps_words(plain)) / count),
        min(1.0, plain.count("!") / 5),
        min(1.0, plain.count("?") / 5),
        min(1.0, sum(plain.count(sign) for sign in "$€£") / 5),
        min(1.0, 5 * sum(c.isdigit() for c in plain) / len(plain)) if plain else 0.0,
        min(1.0, sum(word in folded for word in SPAM_WORDS) / 3),
        min(1.0, 10 * len(_YOU.findall(plain)) / count),
        min(1.0, count / sentences / 40),
        min(1.0, 20 * len(_SYMBOL.findall(plain)) / max(1, len(plain))),
    ]


def inputs(texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> Floats:
    """Rows for the head: embedding, surface, cues."""
    dense = np.asarray(vectors, dtype=np.float32)
    shown = np.asarray([surface(text) for text in texts], dtype=np.float32)
    cues = np.asarray([cue_features(text) for text in texts], dtype=np.float32)
    return np.concatenate([dense, shown, cues], axis=1)
