"""One namespace in memory: vectors, what filters look at, and the sealed texts.

A cache of the database's rows, owned by one host: whatever is here was committed before. Texts
stay sealed and are opened for the answers alone. Every public method blocks, for microseconds to
milliseconds, and may be called by many threads at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from uuid import UUID

import numpy as np
import numpy.typing as npt

from mesh.contracts.memory import MemoryFilter, MemoryItem, Statement
from mesh.memory.columns import (
    ACTIVE,
    KIND_CODE,
    KINDS,
    STATE_CODE,
    STATES,
    SUPERSEDED,
    Columns,
    Postings,
)
from mesh.memory.index import VectorIndex
from mesh.memory.labels import labels_of, statement_key, wanted_labels
from mesh.memory.locks import ReadWriteLock
from mesh.memory.options import MemoryOptions
from mesh.memory.record import (
    Payload,
    Record,
    item_of,
    moment,
    open_payload,
    open_said,
    open_vector,
    seconds,
)
from mesh.memory.shapes import Found, Frozen, Head, Links
from mesh.memory.vault import Vault

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Partition:
    """Made empty; ``put`` brings rows in. ``position``: the newest change that it holds."""

    def __init__(self, head: Head, vault: Vault, options: MemoryOptions | None = None) -> None:
        self.head = head
        self.options = options or MemoryOptions()
        self.index = VectorIndex(head.dimensions, self.options.index)
        self.position = 0
        self.common: dict[str, int] = {}
        """Hashed words that many of its memories have; whoever looks after it counts them."""
        self.counted_at = 0
        """Memories that were there then."""
        self.columns = Columns()
        self._vault = vault
        self._lock = ReadWriteLock()
        self._at: dict[UUID, int] = {}
        self._labels = Postings()
        self._links: dict[int, Links] = {}
        self._timed = 0
        """Memories for which the time of day matters."""
        self._idle = 0
        """Memories that are not active."""

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, identity: UUID) -> bool:
        return identity in self._at

    def ids(self) -> Iterator[UUID]:
        return iter(tuple(self._at))

    def put(self, records: Sequence[Record]) -> None:
        """Bring committed rows in, or up to date; some 20 µs each."""
        with self._lock.reading():
            known = {record.id for record in records if record.id in self._at}
        # A row that comes twice was changed in between: the last one counts.
        fresh = list({r.id: r for r in records if r.id not in known}.values())
        opened = [(open_payload(self._vault, r), open_vector(self._vault, r)) for r in fresh]
        with self._lock.writing():
            self._add(fresh, opened)
            for record in records:
                if record.id in known:
                    self._unset(self._at[record.id])
                    self._set(self._at[record.id], record)
            self.position = max([self.position, *(record.change for record in records)])

    def _add(self, fresh: list[Record], opened: list[tuple[Payload, Floats]]) -> None:
        if fresh:
            positions = self.index.add(np.stack([vector for _, vector in opened]))
            self.columns.grow(self.index.size)
            for record, (payload, _), position in zip(
                fresh, opened, positions.tolist(), strict=True
            ):
                self._labels.add(labels_of(payload), position)
                self._at[record.id] = position
                self._set(position, record)

    def restore(self, frozen: Frozen) -> None:
        """Fill an empty partition with what ``freeze`` gave (positions 0, 1, …)."""
        size = len(frozen.codes)
        if not size:
            return
        columns = frozen.columns
        with self._lock.writing():
            self.index.add(frozen.codes.astype(np.float32))
            self.columns = columns
            self._links = dict(frozen.links)
            self._labels.restore(frozen.labels)
            self._at = {self._id(position): position for position in range(size)}
            times = (columns.expires, columns.valid_from, columns.valid_to)
            self._timed = int(np.count_nonzero(np.logical_or.reduce(np.isfinite(times))))
            self._idle = int(np.count_nonzero(columns.state != ACTIVE))
            self.position = frozen.position

    def erase(self, ids: Iterable[UUID]) -> int:
        """Gone from every part of it; gives how many were there."""
        with self._lock.writing():
            positions = [self._at.pop(i) for i in ids if i in self._at]
            labelled: dict[Hashable, list[int]] = defaultdict(list)
            for position in positions:
                for label in labels_of(open_payload(self._vault, self._record(position))):
                    labelled[label].append(position)
                self._unset(position)
                self._links.pop(position, None)
                self.columns.wipe(position)
            self._labels.discard(labelled)
            self.index.remove(positions)
            return len(positions)

    def dense(
        self, vector: npt.ArrayLike, k: int, wanted: MemoryFilter, now: float
    ) -> list[tuple[UUID, float]]:
        """The ``k`` most alike that the filter lets through, with their cosines; equals in the
        order of their ids."""
        with self._lock.reading():
            positions, scores = self.index.search(vector, k, self._allowed(wanted, now))
            found = [
                (self._id(position), round(min(1.0, max(-1.0, score)), 6))
                for position, score in zip(positions.tolist(), scores.tolist(), strict=True)
            ]
        return sorted(found, key=lambda hit: (-hit[1], hit[0].bytes))

    def few(self, wanted: MemoryFilter, now: float, limit: int) -> list[UUID] | None:
        """All ids that the filter lets through; None: they are more than ``limit``."""
        with self._lock.reading():
            mask = self._allowed(wanted, now)
            if mask is None or np.count_nonzero(mask) > limit:
                return list(self._at) if mask is None and len(self) <= limit else None
            return [self._id(position) for position in np.flatnonzero(mask).tolist()]

    def gather(
        self,
        dense: Sequence[tuple[UUID, float]],
        text: Sequence[tuple[UUID, float]],
        wanted: MemoryFilter,
        now: float,
        *,
        vectors: bool = True,
    ) -> list[Found]:
        """Candidates of both searches in their order, dense ones first, opened. What was erased
        meanwhile or what the filter does not let through is left out. ``vectors``: with them."""
        scores: dict[UUID, list[float | None]] = {i: [score, None] for i, score in dense}
        for identity, score in text:
            scores.setdefault(identity, [None, None])[1] = score
        with self._lock.reading():
            mask = self._allowed(wanted, now)
            there = {i: self._at[i] for i in scores if i in self._at}
            if mask is not None:
                there = {i: position for i, position in there.items() if mask[position]}
            codes = self.index.dump([*there.values()]) if vectors and there else None
            found = []
            for row, (identity, position) in enumerate(there.items()):
                record = self._record(position)
                by_vector, by_words = scores[identity]
                found.append(
                    Found(
                        record=replace(record, sealed=b"", salt=b""),
                        said=open_said(self._vault, record),
                        vector=b"" if codes is None else codes[row].tobytes(),
                        dense=by_vector,
                        text=by_words,
                    )
                )
            return found

    def record(self, identity: UUID) -> Record | None:
        """As it was put in, but without its sealed vector and hashes; None: it is not here."""
        with self._lock.reading():
            position = self._at.get(identity)
            return None if position is None else self._record(position)

    def item(self, identity: UUID) -> MemoryItem | None:
        with self._lock.reading():
            position = self._at.get(identity)
            return None if position is None else self._item(position)

    def vector(self, identity: UUID) -> Floats | None:
        with self._lock.reading():
            position = self._at.get(identity)
            return None if position is None else self.index.vectors([position])[0]

    def history(self, identity: UUID) -> list[UUID]:
        """Memories that were merged into it or that it supersedes, oldest first."""
        with self._lock.reading():
            return sorted(
                self._id(position)
                for position, links in self._links.items()
                if identity in (links.merged_into, links.superseded_by)
            )

    def speaking_of(self, statement: Statement) -> list[UUID]:
        """Memories whose statement has the same subject and attribute, superseded ones too."""
        with self._lock.reading():
            found = self._labels.get(statement_key(statement))
            state = self.columns.state[found]
            return [self._id(p) for p in found[(state == ACTIVE) | (state == SUPERSEDED)].tolist()]

    def changed_since(self, change: int, limit: int) -> list[UUID]:
        """Active memories written or changed after that one, oldest change first."""
        with self._lock.reading():
            columns, size = self.columns, self.index.size
            late = columns.there[:size] & (columns.state[:size] == ACTIVE)
            positions = np.flatnonzero(late & (columns.change[:size] > change))
            order = np.argsort(columns.change[positions], kind="stable")[:limit]
            return [self._id(position) for position in positions[order].tolist()]

    def freeze(self) -> Frozen:
        """Copies of all that ``restore`` needs, positions closed up."""
        with self._lock.reading():
            positions = np.array(sorted(self._at.values()), dtype=np.int64)
            places = {old: new for new, old in enumerate(positions.tolist())}
            return Frozen(
                columns=self.columns.taken(positions),
                codes=self.index.dump(positions),
                labels=self._labels.moved(places),
                links={places[old]: value for old, value in self._links.items()},
                position=self.position,
            )

    def statistics(self) -> dict[str, int | float]:
        return {
            "items": len(self),
            "labels": len(self._labels),
            "position": self.position,
            **self.index.statistics(),
        }

    def _allowed(self, wanted: MemoryFilter, now: float) -> Mask | None:
        """Positions that the filter lets through; None: every one."""
        columns, size = self.columns, self.index.size
        at = seconds(wanted.valid_at, now)
        timed = self._timed or wanted.valid_at is not None
        if wanted == _EVERYTHING and not timed and not self._idle:
            return None
        mask = columns.there[:size].copy()
        for label in wanted_labels(wanted):
            having = np.zeros(size, dtype=np.bool_)
            having[self._labels.get(label)] = True
            mask &= having
        if wanted.valid_at is None:
            mask &= columns.state[:size] == ACTIVE
        else:
            state = columns.state[:size]
            mask &= (state == ACTIVE) | (state == SUPERSEDED)
        if timed:
            begins = columns.valid_from[:size]
            if wanted.valid_at is not None:
                begins = np.where(np.isinf(begins), columns.created[:size], begins)
            mask &= (begins <= at) & (columns.valid_to[:size] > at)
            mask &= (columns.expires[:size] > now) | columns.pinned[:size]
        if wanted.kinds:
            chosen = np.zeros(len(KINDS), dtype=np.bool_)
            chosen[[KIND_CODE[kind] for kind in wanted.kinds]] = True
            mask &= chosen[columns.kind[:size]]
        if wanted.created_after is not None:
            mask &= columns.created[:size] > wanted.created_after.timestamp()
        if wanted.created_before is not None:
            mask &= columns.created[:size] < wanted.created_before.timestamp()
        if wanted.min_importance > 0:
            mask &= columns.importance[:size] >= np.float32(wanted.min_importance)
        return mask

    def _id(self, position: int) -> UUID:
        return UUID(bytes=bytes(self.columns.id[position]))

    def _item(self, position: int) -> MemoryItem:
        record = self._record(position)
        return item_of(record, open_payload(self._vault, record))

    def _record(self, position: int) -> Record:
        columns = self.columns
        links = self._links.get(position, _NO_LINKS)
        created = moment(float(columns.created[position]))
        updated = moment(float(columns.updated[position]))
        assert created is not None
        assert updated is not None
        return Record(
            id=self._id(position),
            workspace_id=self.head.workspace_id,
            namespace=self.head.id,
            shard=self.head.shard,
            kind=KINDS[columns.kind[position]],
            state=STATES[columns.state[position]],
            salt=bytes(columns.salt[position]),
            sealed=columns.sealed[position],
            vector=b"",
            importance=round(float(columns.importance[position]), 6),
            pinned=bool(columns.pinned[position]),
            created_at=created,
            updated_at=updated,
            expires_at=moment(float(columns.expires[position])),
            valid_from=moment(float(columns.valid_from[position])),
            valid_to=moment(float(columns.valid_to[position])),
            merged_into=links.merged_into,
            superseded_by=links.superseded_by,
            derived_from=links.derived_from,
            change=int(columns.change[position]),
        )

    def _set(self, position: int, record: Record) -> None:
        columns = self.columns
        columns.id[position] = np.void(record.id.bytes)
        columns.salt[position] = np.void(record.salt)
        columns.sealed[position] = record.sealed
        columns.kind[position] = KIND_CODE[record.kind]
        columns.state[position] = STATE_CODE[record.state]
        columns.pinned[position] = record.pinned
        columns.importance[position] = record.importance
        columns.created[position] = record.created_at.timestamp()
        columns.updated[position] = record.updated_at.timestamp()
        columns.expires[position] = seconds(record.expires_at, np.inf)
        columns.valid_from[position] = seconds(record.valid_from, -np.inf)
        columns.valid_to[position] = seconds(record.valid_to, np.inf)
        columns.change[position] = record.change
        columns.there[position] = True
        links = Links(record.merged_into, record.superseded_by, record.derived_from)
        if links != _NO_LINKS:
            self._links[position] = links
        self._timed += _timed(record)
        self._idle += record.state is not STATES[ACTIVE]

    def _unset(self, position: int) -> None:
        record = self._record(position)
        self._timed -= _timed(record)
        self._idle -= record.state is not STATES[ACTIVE]


_EVERYTHING = MemoryFilter()
_NO_LINKS = Links()


def _timed(record: Record) -> bool:
    times = (record.expires_at, record.valid_from, record.valid_to)
    return any(value is not None for value in times)
