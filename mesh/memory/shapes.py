"""What a partition is made of, what it gives a snapshot, and what it gives a search."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt

from mesh.contracts.memory import MemoryItem, Namespace
from mesh.memory.columns import Columns
from mesh.memory.record import Payload, Record, item_of


@dataclass(frozen=True, slots=True)
class Head:
    """What holds for a whole namespace."""

    workspace_id: UUID
    id: UUID
    """Blind."""
    shard: int
    salt: bytes
    namespace: Namespace
    dimensions: int


@dataclass(frozen=True, slots=True)
class Links:
    """Of the few memories that have any."""

    merged_into: UUID | None = None
    superseded_by: UUID | None = None
    derived_from: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Frozen:
    """A partition at one moment, as a snapshot holds it. By position: 0, 1, …"""

    columns: Columns
    codes: npt.NDArray[np.float16]
    labels: dict[Hashable, list[int]]
    links: dict[int, Links]
    position: int
    """The newest change."""


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate of a search, as the owner hands it to whoever ranks."""

    record: Record
    """Without its sealed parts."""
    said: bytes
    """Its payload, opened and not yet read: most candidates are not chosen."""
    vector: bytes
    """Half precision, of unit length: for likeness among candidates. Empty: nobody asks."""
    dense: float | None = None
    text: float | None = None

    @property
    def item(self) -> MemoryItem:
        return item_of(self.record, Payload.decode(self.said))
