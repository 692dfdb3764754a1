"""A memory as it lies in the database and in a partition: sealed, with what may be read beside."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import orjson

from mesh.contracts.memory import (
    MemoryItem,
    MemoryKind,
    MemoryState,
    Namespace,
    NamespaceKind,
    Source,
    SourceKind,
    Statement,
)
from mesh.memory.gate import Admitted
from mesh.memory.vault import Vault, item_context

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Record:
    """One row, with its salt. Everything that says something is in ``sealed``."""

    id: UUID
    workspace_id: UUID
    namespace: UUID
    """Blind id."""
    shard: int
    kind: MemoryKind
    state: MemoryState
    salt: bytes
    sealed: bytes
    vector: bytes
    """Sealed float32, little-endian."""
    importance: float
    pinned: bool
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    merged_into: UUID | None = None
    superseded_by: UUID | None = None
    derived_from: tuple[UUID, ...] = ()
    client_hash: bytes | None = None
    content_hash: bytes = b""
    contacts: tuple[UUID, ...] = ()
    """Blind ids of whom it is about."""
    change: int = 0
    """Grows with every change of any memory; 0: not written yet."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sealed of a memory."""

    text: str
    namespace: Namespace
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, Any], ...] = ()
    statement: Statement | None = None
    contacts: tuple[str, ...] = ()
    source: Source = field(default_factory=Source)
    language: str | None = None
    client_id: str | None = None

    def encode(self) -> bytes:
        said: dict[str, Any] = {"t": self.text, "n": [self.namespace.kind, self.namespace.id]}
        source = self.source
        optional = {
            "g": list(self.tags),
            "m": dict(self.metadata),
            "s": self.statement and list(self.statement.model_dump().values()),
            "c": list(self.contacts),
            "o": [source.kind, source.ref, [str(i) for i in source.derived_from]],
            "l": self.language,
            "i": self.client_id,
        }
        return orjson.dumps(said | {key: value for key, value in optional.items() if value})

    @classmethod
    def decode(cls, data: bytes) -> Payload:
        said = orjson.loads(data)
        kind, ref, derived = said.get("o") or (SourceKind.USER, None, ())
        subject = said.get("s")
        return cls(
            text=said["t"],
            namespace=Namespace.model_construct(kind=_KINDS[said["n"][0]], id=said["n"][1]),
            tags=tuple(said.get("g", ())),
            metadata=tuple(said.get("m", {}).items()),
            statement=None
            if subject is None
            else Statement.model_construct(
                subject=subject[0], attribute=subject[1], value=subject[2]
            ),
            contacts=tuple(said.get("c", ())),
            source=Source.model_construct(
                kind=SourceKind(kind), ref=ref, derived_from=[UUID(i) for i in derived]
            ),
            language=said.get("l"),
            client_id=said.get("i"),
        )


_KINDS = {kind.value: kind for kind in NamespaceKind}


def seal_record(
    vault: Vault, admitted: Admitted, vector: Floats, *, identity: UUID, workspace: UUID, shard: int
) -> Record:
    """A row ready to be written. ``vector``: of unit length."""
    new = admitted.new
    namespace = vault.namespace_id(workspace, new.namespace)
    salt = vault.new_salt()
    payload = Payload(
        text=admitted.text,
        namespace=new.namespace,
        tags=tuple(dict.fromkeys(new.tags)),
        metadata=tuple(new.metadata.items()),
        statement=new.statement,
        contacts=admitted.contacts,
        source=new.source,
        language=new.language,
        client_id=new.client_id,
    )
    return Record(
        id=identity,
        workspace_id=workspace,
        namespace=namespace,
        shard=shard,
        kind=new.kind,
        state=MemoryState.ACTIVE,
        salt=salt,
        sealed=vault.seal(salt, item_context(workspace, identity, b"text"), payload.encode()),
        vector=vault.seal(
            salt, item_context(workspace, identity, b"vector"), vector.astype("<f4").tobytes()
        ),
        importance=admitted.importance,
        pinned=new.pinned,
        created_at=admitted.created_at,
        updated_at=admitted.created_at,
        expires_at=admitted.expires_at,
        valid_from=new.valid_from,
        valid_to=new.valid_to,
        derived_from=tuple(dict.fromkeys(new.source.derived_from)),
        client_hash=None if new.client_id is None else vault.client_hash(namespace, new.client_id),
        content_hash=vault.content_hash(namespace, new.kind, admitted.text),
        contacts=tuple(vault.contact_id(workspace, contact) for contact in admitted.contacts),
    )


def open_payload(vault: Vault, record: Record) -> Payload:
    """Raises Unreadable."""
    return Payload.decode(open_said(vault, record))


def open_said(vault: Vault, record: Record) -> bytes:
    """The payload as it was encoded. Raises Unreadable."""
    context = item_context(record.workspace_id, record.id, b"text")
    return vault.open(record.salt, context, record.sealed)


def open_vector(vault: Vault, record: Record) -> Floats:
    """Raises Unreadable."""
    context = item_context(record.workspace_id, record.id, b"vector")
    return np.frombuffer(vault.open(record.salt, context, record.vector), dtype="<f4")


def item_of(record: Record, payload: Payload, history: list[UUID] | None = None) -> MemoryItem:
    return MemoryItem.model_construct(
        id=record.id,
        namespace=payload.namespace,
        kind=record.kind,
        state=record.state,
        text=payload.text,
        client_id=payload.client_id,
        tags=list(payload.tags),
        metadata=dict(payload.metadata),
        importance=record.importance,
        pinned=record.pinned,
        statement=payload.statement,
        contacts=list(payload.contacts),
        source=payload.source,
        language=payload.language,
        valid_from=record.valid_from,
        valid_to=record.valid_to,
        expires_at=record.expires_at,
        created_at=record.created_at,
        updated_at=record.updated_at,
        merged_into=record.merged_into,
        superseded_by=record.superseded_by,
        history=history or [],
    )


def seconds(moment: datetime | None, default: float) -> float:
    """Unix seconds."""
    return default if moment is None else moment.timestamp()


def moment(value: float) -> datetime | None:
    """None for an infinity."""
    return datetime.fromtimestamp(value, UTC) if np.isfinite(value) else None
