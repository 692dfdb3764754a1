"""Rows of the memory tables, and the statements that move many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from mesh.contracts.memory import MemoryKind, MemoryState
from mesh.memory.record import Record

# A row whose salt is gone is gone: it is on its way out, or was left by a copy of the database.
SELECT = """
SELECT i.id, i.workspace_id, i.namespace, i.shard, i.kind, i.state, k.salt, i.sealed, i.vector,
    i.importance, i.pinned, i.created_at, i.updated_at, i.expires_at, i.valid_from, i.valid_to,
    i.merged_into, i.superseded_by, i.derived_from, i.client_hash, i.content_hash, i.contacts,
    i.change
FROM memory_items i
JOIN memory_keys k ON k.bucket = i.shard % 16 AND k.id = i.id
"""

INSERT_KEYS = """
INSERT INTO memory_keys (bucket, id, salt)
SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bytea[])
"""
INSERT_NAMESPACE = """
INSERT INTO memory_namespaces (id, workspace_id, shard, sealed, dimensions)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING RETURNING id
"""
INSERT_ITEMS = """
INSERT INTO memory_items (
    id, workspace_id, namespace, shard, kind, state, sealed, vector, words, importance, pinned,
    client_hash, content_hash, contacts, derived_from, created_at, updated_at, expires_at,
    valid_from, valid_to, change
)
SELECT id, workspace_id, namespace, shard, kind, 'active', sealed, vector, words::tsvector,
    importance, pinned, client_hash, content_hash, contacts::uuid[], derived_from::uuid[],
    created_at, updated_at, expires_at, valid_from, valid_to, nextval('memory_changes')
FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::text[], $6::bytea[], $7::bytea[],
    $8::text[], $9::real[], $10::boolean[], $11::bytea[], $12::bytea[], $13::text[], $14::text[],
    $15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::timestamptz[],
    $19::timestamptz[]
) AS n (
    id, workspace_id, namespace, shard, kind, sealed, vector, words, importance, pinned,
    client_hash, content_hash, contacts, derived_from, created_at, updated_at, expires_at,
    valid_from, valid_to
)
RETURNING id, change
"""
UPDATE_ITEMS = """
UPDATE memory_items i SET state = n.state, importance = n.importance, pinned = n.pinned,
    updated_at = n.updated_at, valid_to = n.valid_to, merged_into = n.merged_into,
    superseded_by = n.superseded_by, expires_at = n.expires_at, change = nextval('memory_changes')
FROM unnest(
    $1::uuid[], $2::text[], $3::real[], $4::boolean[], $5::timestamptz[], $6::timestamptz[],
    $7::uuid[], $8::uuid[], $9::timestamptz[]
) AS n (
    id, state, importance, pinned, updated_at, valid_to, merged_into, superseded_by, expires_at
)
WHERE i.id = n.id
RETURNING i.id, i.change
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """A row to be written, with the hashes of its words as a tsvector's text."""

    record: Record
    words: str


@dataclass(frozen=True, slots=True)
class NamespaceRow:
    id: UUID
    workspace_id: UUID
    shard: int
    salt: bytes
    sealed: bytes
    dimensions: int
    consolidated: int = 0


@dataclass(frozen=True, slots=True)
class Closure:
    """What a forgetting has to erase: everything that was asked for and what was made of it."""

    asked: tuple[UUID, ...]
    derived: tuple[UUID, ...]
    merged: tuple[UUID, ...]
    shards: dict[UUID, int]
    """By id."""

    @property
    def all(self) -> tuple[UUID, ...]:
        return (*self.asked, *self.derived, *self.merged)


@dataclass(frozen=True, slots=True)
class Citing:
    """A task that read memories."""

    task: UUID
    open: bool
    """It has not ended: it may still write down what it read."""
    items: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Erased:
    """Rows that one erasure removed."""

    items: int = 0
    keys: int = 0
    snapshots: int = 0
    """Whoever holds their files removes them."""
    namespaces: tuple[UUID, ...] = ()
    """That lost something, by their blind ids."""


def record_of(row: asyncpg.Record) -> Record:
    return Record(
        id=row["id"],
        workspace_id=row["workspace_id"],
        namespace=row["namespace"],
        shard=row["shard"],
        kind=MemoryKind(row["kind"]),
        state=MemoryState(row["state"]),
        salt=row["salt"],
        sealed=row["sealed"],
        vector=row["vector"],
        importance=round(row["importance"], 6),
        pinned=row["pinned"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        merged_into=row["merged_into"],
        superseded_by=row["superseded_by"],
        derived_from=tuple(row["derived_from"]),
        client_hash=row["client_hash"],
        content_hash=row["content_hash"],
        contacts=tuple(row["contacts"]),
        change=row["change"],
    )


def insert_columns(drafts: Sequence[Draft]) -> list[list[Any]]:
    """Arguments of INSERT_ITEMS."""
    records = [draft.record for draft in drafts]
    return [
        [r.id for r in records],
        [r.workspace_id for r in records],
        [r.namespace for r in records],
        [r.shard for r in records],
        [r.kind.value for r in records],
        [r.sealed for r in records],
        [r.vector for r in records],
        [draft.words for draft in drafts],
        [r.importance for r in records],
        [r.pinned for r in records],
        [r.client_hash for r in records],
        [r.content_hash for r in records],
        [_array(r.contacts) for r in records],
        [_array(r.derived_from) for r in records],
        [r.created_at for r in records],
        [r.updated_at for r in records],
        [r.expires_at for r in records],
        [r.valid_from for r in records],
        [r.valid_to for r in records],
    ]


def update_columns(records: Sequence[Record]) -> list[list[Any]]:
    """Arguments of UPDATE_ITEMS."""
    return [
        [r.id for r in records],
        [r.state.value for r in records],
        [r.importance for r in records],
        [r.pinned for r in records],
        [r.updated_at for r in records],
        [r.valid_to for r in records],
        [r.merged_into for r in records],
        [r.superseded_by for r in records],
        [r.expires_at for r in records],
    ]


def _array(ids: tuple[UUID, ...]) -> str:
    return "{" + ",".join(map(str, ids)) + "}"
