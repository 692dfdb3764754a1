"""One open batch in its owner's memory: what came before, and the writes that wait.

Writes go in groups: what comes while one transaction is under way goes together in the next. A
batch has one lane and a lane one writer, so an index is the order of arrival and what came before
is found without a race; nobody else may write to its shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mesh.core.errors import Conflict, NotFound, own_copy
from mesh.storage.trust_batches import BatchRow, TrustBatches
from mesh.storage.trust_leaves import TrustLeaves
from mesh.trust.intake import Claims
from mesh.trust.marks import MarkIndex, keys_of
from mesh.trust.pages import Prepared
from mesh.trust.vault import MESSAGE_MARK_BYTES

Answer = list[tuple[int, int, bool]]
"""For each line: serial of the batch, index in it, whether it was there already."""


@dataclass(slots=True)
class Held:
    """A batch and the marks of all its leaves."""

    row: BatchRow
    marks: MarkIndex
    size: int

    @classmethod
    async def load(cls, row: BatchRow, leaves: TrustLeaves) -> Held:
        marks = MarkIndex()
        async for first, column in leaves.marks(row.id):
            if first < row.size:
                marks.add(keys_of(column), first)
        return cls(row, marks, row.size)


@dataclass(slots=True)
class Request:
    """``Prepared`` leaves of one caller."""

    workspace: UUID
    rows: Prepared
    first_line: int
    answer: asyncio.Future[Answer]
    claims: Claims = field(default_factory=dict)
    places: list[tuple[Held, int, bool]] = field(default_factory=list)

    def stands(self, row: int) -> bool:
        """Whether a message that shows its certificate's id has got that place."""
        held, index, _ = self.places[row]
        return self.claims.get(row, (held.row.serial, index)) == (held.row.serial, index)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(own_copy(error))

    def finish(self) -> None:
        if not self.answer.done():
            self.answer.set_result(
                [(held.row.serial, index, repeated) for held, index, repeated in self.places]
            )


class Lane:
    """``key``: the batch, or the workspace of a rolling one."""

    def __init__(self, key: UUID, kind: str) -> None:
        self.key, self.kind = key, kind
        self.lock = asyncio.Lock()
        """Held while the batch is written to or closed."""
        self.waiting: list[Request] = []
        self.worker: asyncio.Task[None] | None = None
        self.held: Held | None = None
        """None: it is to be read from the database."""
        self.former: Held | None = None
        """Of a rolling one: the batch before, so that a repeat is found there, too."""

    @property
    def bytes(self) -> int:
        """Of the marks."""
        return sum(item.marks.bytes for item in (self.held, self.former) if item is not None)

    def forget(self) -> None:
        """What is in memory may not be what is in the database."""
        self.held = self.former = None


async def sift(
    group: Sequence[Request], held: Held, former: Held | None, leaves: TrustLeaves
) -> tuple[list[Prepared], list[Request]]:
    """Numbers the leaves that are new, in the order of the requests. Gives what is to be written
    and whose it is; a request with another message of a Message-ID that is there fails alone."""
    known = {} if former is None else await _known(group, former, leaves)
    known |= await _known(group, held, leaves)  # the open one wins
    fresh: list[Prepared] = []
    good: list[Request] = []
    size = held.size
    for request in group:
        if request.workspace != held.row.workspace_id:
            request.fail(NotFound("There is no such batch.", {"id": str(held.row.id)}))
            continue
        taken: list[int] = []
        mine: dict[bytes, tuple[Held, int, bytes]] = {}
        for row in range(len(request.rows)):
            mark = request.rows.mark(row)
            message, content = mark[:MESSAGE_MARK_BYTES], mark[MESSAGE_MARK_BYTES:]
            there = mine.get(message) or known.get(message)
            if there is not None and there[2] == content:
                request.places.append((there[0], there[1], True))
            elif there is None or there[0] is not held:
                mine[message] = held, size + len(taken), content
                request.places.append((held, size + len(taken), False))
                taken.append(row)
            else:
                request.fail(_doubled(request, row))
                break
            if not request.stands(row):
                request.fail(_misplaced(request, row))
                break
        else:
            known |= mine
            size += len(taken)
            good.append(request)
            if taken:
                fresh.append(request.rows.take(taken))
    return fresh, good


async def _known(
    group: Sequence[Request], held: Held, leaves: TrustLeaves
) -> dict[bytes, tuple[Held, int, bytes]]:
    """Whole marks of those leaves that seem to have come before."""
    column = b"".join(request.rows.marks for request in group)
    hits = sorted({int(at) for at in held.marks.find(keys_of(column)) if at >= 0})
    if not hits:
        return {}
    found = await leaves.marks_at(held.row.id, hits)
    return {
        mark[:MESSAGE_MARK_BYTES]: (held, index, mark[MESSAGE_MARK_BYTES:])
        for index, mark in found.items()
    }


def _misplaced(request: Request, row: int) -> Conflict:
    line = request.first_line + row
    index = request.places[row][1]
    return Conflict(
        f"Line {line}: the message shows another place's id; its own place is {index}.",
        {"line": line, "index": index},
    )


def _doubled(request: Request, row: int) -> Conflict:
    line = request.first_line + row
    return Conflict(
        f"Line {line}: another message with this Message-ID is in the batch.",
        {"line": line, "message_id": request.rows.message_ids[row]},
    )


async def hold(
    lane: Lane, batches: TrustBatches, leaves: TrustLeaves, shard: int, fresh: UUID
) -> Held:
    """The lane's batch, read when it is not in memory. A rolling one is made (as ``fresh``) when
    there is none. Raises NotFound, and Conflict when it is closed."""
    if lane.held is None:
        if lane.kind == "campaign":
            row = await batches.get(lane.key)
            if row.kind != "campaign":
                raise NotFound("There is no such batch.", {"id": str(row.id)})
        else:
            row = await batches.create(fresh, lane.key, shard, "rolling")
            last = await batches.last_closed(lane.key, "rolling")
            lane.former = None if last is None else await Held.load(last, leaves)
        if row.closing_at is not None:
            raise Conflict("This batch is closed.", {"id": str(row.id)})
        lane.held = await Held.load(row, leaves)
    return lane.held
