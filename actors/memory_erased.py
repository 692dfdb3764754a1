"""What a host says of an erasure, and how it makes sure that nothing of it answers any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from uuid import UUID

from mesh.contracts.memory import MemoryFilter
from mesh.memory.partition import Floats, Partition

PROBED = 16
"""Erased memories that are searched for afterwards, by their own vectors."""


@dataclass(frozen=True, slots=True)
class ErasedPart:
    """What one host erased of its shards."""

    items: int
    keys: int
    index: int
    snapshots: int
    namespaces: int
    surfaced: int
    """Erased memories that a search by their own vector still found: 0, or something is wrong."""

    def plus(self, other: ErasedPart) -> ErasedPart:
        return ErasedPart(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def probes_of(
    partitions: Sequence[Partition], ids: set[UUID]
) -> list[tuple[Partition, UUID, Floats]]:
    found: list[tuple[Partition, UUID, Floats]] = []
    for partition in partitions:
        for identity in ids:
            if len(found) == PROBED:
                return found
            if (vector := partition.vector(identity)) is not None:
                found.append((partition, identity, vector))
    return found


def surfacing(probes: Sequence[tuple[Partition, UUID, Floats]], now: float) -> int:
    """Erased memories that still answer to their own vector."""
    return sum(
        identity in partition
        or any(hit == identity for hit, _ in partition.dense(vector, 10, MemoryFilter(), now))
        for partition, identity, vector in probes
    )
