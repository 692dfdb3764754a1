"""What a partition knows of each memory besides its vector, by position; who has which label."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mesh.contracts.memory import MemoryKind, MemoryState

KINDS: Final = tuple(MemoryKind)
STATES: Final = tuple(MemoryState)
KIND_CODE: Final = {kind: code for code, kind in enumerate(KINDS)}
STATE_CODE: Final = {state: code for code, state in enumerate(STATES)}
ACTIVE: Final = STATE_CODE[MemoryState.ACTIVE]
SUPERSEDED: Final = STATE_CODE[MemoryState.SUPERSEDED]

DTYPES: Final[dict[str, Any]] = {
    "id": "V16",
    "salt": "V32",
    "kind": np.uint8,
    "state": np.uint8,
    "pinned": np.bool_,
    "importance": np.float32,
    "created": np.float64,
    "updated": np.float64,
    "expires": np.float64,
    "valid_from": np.float64,
    "valid_to": np.float64,
    "change": np.int64,
}


class Columns:
    """Arrays of equal length that grow together. ``there``: whether a position is taken."""

    __slots__ = (*DTYPES, "sealed", "there")

    id: npt.NDArray[np.void]
    salt: npt.NDArray[np.void]
    kind: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    pinned: npt.NDArray[np.bool_]
    importance: npt.NDArray[np.float32]
    created: npt.NDArray[np.float64]
    updated: npt.NDArray[np.float64]
    expires: npt.NDArray[np.float64]
    valid_from: npt.NDArray[np.float64]
    valid_to: npt.NDArray[np.float64]
    change: npt.NDArray[np.int64]

    def __init__(self) -> None:
        for name, dtype in DTYPES.items():
            setattr(self, name, np.zeros(0, dtype=dtype))
        self.there: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self.sealed: list[bytes] = []

    def grow(self, size: int) -> None:
        """At least so many positions."""
        have = len(self.there)
        if size <= have:
            return
        wanted = max(16, size * 3 // 2)
        for name in (*DTYPES, "there"):
            old = getattr(self, name)
            new = np.zeros(wanted, dtype=old.dtype)
            new[:have] = old
            setattr(self, name, new)
        self.sealed.extend([b""] * (wanted - have))

    def taken(self, positions: npt.NDArray[np.int64]) -> Columns:
        """Copies of these positions alone, in this order."""
        copy = Columns()
        for name in (*DTYPES, "there"):
            setattr(copy, name, getattr(self, name)[positions])
        copy.sealed = [self.sealed[position] for position in positions.tolist()]
        return copy

    def wipe(self, position: int) -> None:
        """Nothing of it stays in memory that we can reach."""
        for name in DTYPES:
            column = getattr(self, name)
            column[position : position + 1] = np.zeros(1, dtype=column.dtype)
        self.there[position] = False
        self.sealed[position] = b""


class Postings:
    """Positions by label (a tag, a key with its value, a statement's subject and attribute)."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[npt.NDArray[np.int64], int]] = {}

    def add(self, labels: Iterable[Hashable], position: int) -> None:
        for label in labels:
            array, count = self._found.get(label, (np.empty(4, dtype=np.int64), 0))
            if count == len(array):
                array = np.concatenate([array, np.empty(len(array), dtype=np.int64)])
            array[count] = position
            self._found[label] = (array, count + 1)

    def discard(self, labels: Mapping[Hashable, Sequence[int]]) -> None:
        """Positions that do not have their label any more, by label."""
        for label, positions in labels.items():
            kept = self.get(label)
            kept = kept[~np.isin(kept, positions)]
            if len(kept):
                self._found[label] = (kept, len(kept))
            else:
                self._found.pop(label, None)

    def moved(self, places: Mapping[int, int]) -> dict[Hashable, list[int]]:
        """All of them, with other positions in place of theirs."""
        return {
            label: [places[position] for position in self.get(label).tolist()]
            for label in self._found
        }

    def restore(self, found: Mapping[Hashable, Sequence[int]]) -> None:
        """As ``moved`` gave them."""
        for label, positions in found.items():
            array = np.array(positions, dtype=np.int64)
            self._found[label] = (array, len(array))

    def get(self, label: Hashable) -> npt.NDArray[np.int64]:
        array, count = self._found.get(label, (np.empty(0, dtype=np.int64), 0))
        return array[:count]

    def __len__(self) -> int:
        return len(self._found)
