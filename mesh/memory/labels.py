"""What a filter can ask for, as labels; and when two statements speak of the same thing."""

from __future__ import annotations

from collections.abc import Hashable

from mesh.contracts.memory import MemoryFilter, Statement
from mesh.memory.record import Payload


def labels_of(payload: Payload) -> list[Hashable]:
    found: list[Hashable] = [("tag", tag) for tag in payload.tags]
    found += [_metadata_label(key, value) for key, value in payload.metadata]
    if payload.statement is not None:
        found.append(statement_key(payload.statement))
    return found


def wanted_labels(wanted: MemoryFilter) -> list[Hashable]:
    found: list[Hashable] = [("tag", tag) for tag in wanted.tags]
    return found + [_metadata_label(key, value) for key, value in wanted.metadata.items()]


def _metadata_label(key: str, value: object) -> Hashable:
    """True is not 1 here, but 1 is 1.0: that is how JSON has it."""
    return ("metadata", key, isinstance(value, bool), value)


def statement_key(statement: Statement) -> tuple[str, str, str]:
    """Statements with equal keys speak of the same thing."""
    return ("statement", _plain(statement.subject), _plain(statement.attribute))


def same_value(one: Statement, other: Statement) -> bool:
    return _plain(one.value) == _plain(other.value)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
