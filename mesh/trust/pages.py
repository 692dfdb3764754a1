"""Leaves as they are stored: packed in columns, up to 1,024 of them in one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from struct import pack

from mesh.trust.leaf import SALT_BYTES
from mesh.trust.merkle import HASH_BYTES
from mesh.trust.vault import MARK_BYTES, PERSON_BYTES

PAGE_LEAVES = 1_024
PAGE_BYTES = 8_388_608
"""Of sealed facts in one page, about: messages with thousands of links make smaller pages."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Leaves that are ready to be put into a batch, in columns."""

    salts: bytes
    leaves: bytes
    """Their hashes."""
    marks: bytes
    people: bytes
    sealed: tuple[bytes, ...]
    message_ids: tuple[str, ...]
    documents: tuple[bytes | None, ...]
    """Keyed hashes of the documents that they were made of."""

    def __len__(self) -> int:
        return len(self.sealed)

    @property
    def weight(self) -> int:
        """About how many bytes they take in memory."""
        return len(self) * 200 + sum(map(len, self.sealed)) + sum(map(len, self.message_ids))

    def mark(self, row: int) -> bytes:
        return self.marks[row * MARK_BYTES : (row + 1) * MARK_BYTES]

    def take(self, rows: Sequence[int]) -> Prepared:
        if len(rows) == len(self):
            return self

        def some(column: bytes, width: int) -> bytes:
            return b"".join(column[row * width : (row + 1) * width] for row in rows)

        return Prepared(
            salts=some(self.salts, SALT_BYTES),
            leaves=some(self.leaves, HASH_BYTES),
            marks=some(self.marks, MARK_BYTES),
            people=some(self.people, PERSON_BYTES),
            sealed=tuple(self.sealed[row] for row in rows),
            message_ids=tuple(self.message_ids[row] for row in rows),
            documents=tuple(self.documents[row] for row in rows),
        )

    @classmethod
    def join(cls, parts: Sequence[Prepared]) -> Prepared:
        if len(parts) == 1:
            return parts[0]
        return cls(
            salts=b"".join(part.salts for part in parts),
            leaves=b"".join(part.leaves for part in parts),
            marks=b"".join(part.marks for part in parts),
            people=b"".join(part.people for part in parts),
            sealed=tuple(item for part in parts for item in part.sealed),
            message_ids=tuple(item for part in parts for item in part.message_ids),
            documents=tuple(item for part in parts for item in part.documents),
        )

    def by_document(self) -> dict[bytes, int]:
        return dict(Counter(mark for mark in self.documents if mark is not None))


@dataclass(frozen=True, slots=True)
class Page:
    """A row of ``trust_pages`` and one of ``trust_salts``."""

    first: int
    count: int
    leaves: bytes
    offsets: bytes
    """u32 each, ``count`` + 1 of them."""
    sealed: bytes
    salts: bytes
    marks: bytes
    people: bytes


def pages_of(first: int, rows: Prepared) -> Iterator[Page]:
    """``first``: the index that the first leaf gets."""
    start = 0
    while start < len(rows):
        end = _page_end(rows.sealed, start)
        cells = rows.sealed[start:end]
        offsets = (0, *accumulate(map(len, cells)))
        yield Page(
            first=first + start,
            count=end - start,
            leaves=rows.leaves[start * HASH_BYTES : end * HASH_BYTES],
            offsets=pack(f">{len(offsets)}I", *offsets),
            sealed=b"".join(cells),
            salts=rows.salts[start * SALT_BYTES : end * SALT_BYTES],
            marks=rows.marks[start * MARK_BYTES : end * MARK_BYTES],
            people=rows.people[start * PERSON_BYTES : end * PERSON_BYTES],
        )
        start = end


def _page_end(cells: Sequence[bytes], start: int) -> int:
    size, end = 0, start
    while end < len(cells) and end < start + PAGE_LEAVES and size < PAGE_BYTES:
        size += len(cells[end])
        end += 1
    return end
