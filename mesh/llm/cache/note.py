"""Whether the answer of this request came out of the cache, told to whoever answers it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["hit", "semantic", "miss"]


@dataclass(slots=True)
class CacheNote:
    outcome: Outcome | None = None
    """None: the route caches nothing."""


_NOTE: ContextVar[CacheNote | None] = ContextVar("maily_cache_note", default=None)


@contextmanager
def cache_note() -> Iterator[CacheNote]:
    """Of the calls within the block, and of tasks made in it; the last one's."""
    note = CacheNote()
    token = _NOTE.set(note)
    try:
        yield note
    finally:
        _NOTE.reset(token)


def tell(outcome: Outcome) -> None:
    if (note := _NOTE.get()) is not None:
        note.outcome = outcome
