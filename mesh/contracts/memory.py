"""Memory: what is kept, asked for and forgotten.

A memory is one statement (a fact, a preference, what somebody said, a part of a document, what a
campaign led to) in one namespace of one workspace. Its text never changes: a correction is a new
memory that supersedes the old one.
"""

from __future__ import annotations

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from mesh.contracts.base import Contract

VERSION = 1
MAX_TEXT_CHARS = 8_000
MAX_BATCH = 256
MAX_NAMESPACES = 8
MAX_DIMENSIONS = 4_096

Label = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
Scalar = bool | int | float | Annotated[str, StringConstraints(max_length=500)]
Share = Annotated[float, Field(ge=0, le=1)]


class NamespaceKind(StrEnum):
    WORKSPACE = "workspace"
    """What holds for the whole brand."""
    CONTACT = "contact"
    """What is known of one recipient."""
    CONVERSATION = "conversation"
    """Turns of one exchange."""
    CAMPAIGN = "campaign"
    """What became of one campaign."""


class Namespace(Contract):
    """Memories of different namespaces never meet unless a query names both."""

    kind: NamespaceKind
    id: str = Field(default="", max_length=200, pattern=r"^[^\x00-\x1f]*$")
    """Of the contact, conversation or campaign; empty for the workspace's own."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.kind is NamespaceKind.WORKSPACE) != (self.id == ""):
            raise ValueError("a workspace namespace has no id, every other kind has one")
        return self


class MemoryKind(StrEnum):
    FACT = "fact"
    PREFERENCE = "preference"
    TURN = "turn"
    DOCUMENT = "document"
    OUTCOME = "outcome"


class MemoryState(StrEnum):
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    """A newer memory says otherwise (or its ``valid_to`` has passed)."""
    MERGED = "merged"
    """A near duplicate: ``merged_into`` says it for both."""


class Statement(Contract):
    """A memory that can be contradicted: another value for the same subject and attribute."""

    subject: Name
    attribute: Name
    value: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class SourceKind(StrEnum):
    USER = "user"
    AGENT = "agent"
    IMPORT = "import"
    CONSOLIDATION = "consolidation"


class Source(Contract):
    """Where a memory comes from."""

    kind: SourceKind = SourceKind.USER
    ref: Annotated[str, StringConstraints(max_length=200)] | None = None
    """What the source calls it: a task, a file, a message."""
    derived_from: list[UUID] = Field(default_factory=list, max_length=64)
    """Memories that this one was made of: forgetting one of them forgets this one, too."""


class NewMemory(Contract):
    """Something to remember."""

    namespace: Namespace
    kind: MemoryKind
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"^[^\x00]*$")
    client_id: Label | None = None
    """The caller's own name for this write: a repeat in the namespace gives the first answer."""
    tags: list[Label] = Field(default_factory=list, max_length=32)
    metadata: dict[Label, Scalar] = Field(default_factory=dict, max_length=32)
    importance: Share | None = None
    """Unset: the kind's default."""
    pinned: bool = False
    """Neither decays nor expires nor is merged away."""
    statement: Statement | None = None
    contacts: list[Name] = Field(default_factory=list, max_length=16)
    """Whom it is about: forgetting one of them forgets this, whatever its namespace."""
    source: Source = Source()
    language: Annotated[str, StringConstraints(pattern="^[a-z]{2}$")] | None = None
    """ISO 639-1: how words are stemmed for full text. Unset: not at all."""
    valid_from: AwareDatetime | None = None
    valid_to: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    """When it is erased. Unset: the kind's default."""
    created_at: AwareDatetime | None = None
    """When it became known. Unset: now."""
    vector: list[float] | None = Field(default=None, max_length=MAX_DIMENSIONS)
    """Its embedding, where the caller has it already (an import)."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.valid_from and self.valid_to and self.valid_to <= self.valid_from:
            raise ValueError("valid_to must be later than valid_from")
        _check_vector(self.vector)
        return self


class MemoryItem(Contract):
    """A memory as it is kept."""

    id: UUID
    namespace: Namespace
    kind: MemoryKind
    state: MemoryState
    text: str
    client_id: str | None = None
    tags: list[str] = Field(default_factory=list)
    metadata: dict[str, Scalar] = Field(default_factory=dict)
    importance: float
    pinned: bool
    statement: Statement | None = None
    contacts: list[str] = Field(default_factory=list)
    source: Source
    language: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    merged_into: UUID | None = None
    superseded_by: UUID | None = None
    history: list[UUID] = Field(default_factory=list)
    """Of an item asked for alone: memories that were merged into it or that it supersedes."""


class MemoryFilter(Contract):
    """All that is set must hold."""

    kinds: list[MemoryKind] = Field(default_factory=list, max_length=5)
    """Any of them; empty: all."""
    tags: list[Label] = Field(default_factory=list, max_length=16)
    """Every one of them."""
    metadata: dict[Label, Scalar] = Field(default_factory=dict, max_length=16)
    """Equal values."""
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    valid_at: AwareDatetime | None = None
    """What was held true then, superseded memories too. Unset: what holds now."""
    min_importance: Share = 0.0


class SearchMode(StrEnum):
    HYBRID = "hybrid"
    DENSE = "dense"
    TEXT = "text"


class MemoryQuery(Contract):
    """What to recall."""

    text: str = Field(default="", max_length=MAX_TEXT_CHARS, pattern=r"^[^\x00]*$")
    namespaces: list[Namespace] = Field(min_length=1, max_length=MAX_NAMESPACES)
    filter: MemoryFilter = MemoryFilter()
    k: int = Field(default=10, ge=1, le=100)
    mode: SearchMode = SearchMode.HYBRID
    language: Annotated[str, StringConstraints(pattern="^[a-z]{2}$")] | None = None
    recency_weight: Share = 0.15
    importance_weight: Share = 0.15
    diversity: Share = 0.3
    """0: by score alone; 1: as different from one another as can be (MMR)."""
    token_budget: int | None = Field(default=None, ge=1, le=32_000)
    """Hits beyond it are left out. Unset: no limit but ``k``."""
    vector: list[float] | None = Field(default=None, max_length=MAX_DIMENSIONS)
    """Embedding of the text, where the caller has it already."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.text.strip() and (self.vector is None or self.mode is not SearchMode.DENSE):
            raise ValueError("text is needed (or a vector with mode dense)")
        _check_vector(self.vector)
        return self


class ScoreParts(Contract):
    """How a score came about; every part lies between 0 and 1 but ``penalty``, which is ≥ 0."""

    dense: float | None = None
    """Cosine similarity; None: not found by its vector."""
    dense_rank: int | None = None
    text: float | None = None
    """Full-text rank, as PostgreSQL scores it; None: not found by its words."""
    text_rank: int | None = None
    fused: float
    """Reciprocal ranks, added and normalised; of one search alone: its own score."""
    recency: float
    """1: just now; ½: one half-life of its kind ago."""
    importance: float
    penalty: float = 0.0
    """What was taken off for likeness to better hits."""


class MemoryHit(Contract):
    item: MemoryItem
    score: float
    parts: ScoreParts
    citation: str
    """What a text that rests on it cites: ``mem:`` and its id."""


class MemoryAnswer(Contract):
    hits: list[MemoryHit]
    packed: str
    """The hits as a prompt can hold them: a line each, ``[n] text``, n counted from 1."""
    tokens: int
    """Of ``packed``, estimated on the safe side."""
    left_out: int = 0
    """Hits that the token budget had no room for."""
    degraded: bool = False
    """The owner was away: exact over what the database gave in time, perhaps not everything."""
    reason: str | None = None


class MemoryPatch(Contract):
    """What of a memory may be changed."""

    pinned: bool | None = None
    importance: Share | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.pinned is None and self.importance is None:
            raise ValueError("name at least one of pinned and importance")
        return self


class ForgetSelector(Contract):
    """What to forget: exactly one of these."""

    item: UUID | None = None
    namespace: Namespace | None = None
    contact: Name | None = None
    """Its namespace, and every memory in others that is about it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(x is not None for x in (self.item, self.namespace, self.contact)) != 1:
            raise ValueError("name exactly one of item, namespace and contact")
        return self


class Scrub(Contract):
    """What was done so that deleted bytes are gone from disk, too."""

    keys: bool
    """The table of keys was rewritten without the erased ones."""
    log: bool
    """The write-ahead log that had held them was ended and removed."""
    note: str | None = None


class ForgetReceipt(Contract):
    """Says what was erased, and lets anybody check it."""

    id: UUID
    workspace_id: UUID
    selector: str
    """Keyed hash of what was asked for: the receipt tells no more of it than that."""
    requested_at: datetime
    finished_at: datetime | None
    items: list[UUID]
    """Ids of the erased memories: nothing else of them is kept."""
    erased: dict[str, int]
    """Counts by store: items, keys, derived, merged, index, snapshots, answers, journal …"""
    scrub: Scrub | None = None
    verified_at: datetime | None = None
    remaining: int | None = None
    """Found again when it was checked last: rows, keys, index entries. 0 is the only good one."""
    hash: str | None = None
    """SHA-256 over the receipt without ``verified_at`` and ``remaining``, as canonical JSON."""
    seal: str | None = None
    """HMAC of the hash under a key of this instance: nobody else could have written it."""


class MemoryBatch(Contract):
    """Body of ``POST /v1/memory/items``."""

    items: list[NewMemory] = Field(min_length=1, max_length=MAX_BATCH)


class MemoryPage(Contract):
    items: list[MemoryItem]


class Consolidation(Contract):
    """What one pass did."""

    examined: int = 0
    merged: int = 0
    superseded: int = 0
    expired: int = 0
    complete: bool = True
    """False: the pass ended at its bound; the next goes on there."""


class ConsolidateRequest(Contract):
    """Body of ``POST /v1/memory/consolidate``."""

    namespace: Namespace


class ImportReport(Contract):
    stored: int
    repeated: int
    """Lines whose memory was there already."""


class MemoryStats(Contract):
    """Of one workspace."""

    items: int
    namespaces: int
    by_kind: dict[str, int]
    by_state: dict[str, int]
    pinned: int
    bytes: int
    """Of the sealed texts and vectors."""
    shards: dict[str, int]
    """Shards by the host that owns them now; ``none``: by nobody."""
    receipts: int
    oldest: datetime | None = None
    newest: datetime | None = None
    details: dict[str, Any] = Field(default_factory=dict)


def _check_vector(vector: list[float] | None) -> None:
    if vector is None:
        return
    if len(vector) < 2 or not all(map(math.isfinite, vector)) or not any(vector):
        raise ValueError("a vector has 2 or more finite numbers that are not all 0")
