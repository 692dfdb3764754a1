"""The shared counters, as a protocol: what a process asks for and is granted.

A process *holds* a part of a budget: so much is reserved for it in the shared counter, and it
spends from that by itself. One exchange says what the process has spent since (``used``, adding
up, so that a repeat adds nothing), what it must keep (``floor``), what it needs now (``need``)
and what it would like beyond (``spare``). The counter grants atomically, and keeps one law:

    spent + all that is held  ≤  the limit

save where a limit was lowered, or a call spent more than was reserved for it. What a process
holds is a lease: unless it comes again within ``LEASE_S`` it is free for others.

``MemoryCounters`` is the law in Python, for tests and simulations; ``valkey.SCRIPT`` is the same
in Valkey, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol
from uuid import UUID

LEASE_S = 10.0
SETTLE_S = 2.0
"""After the counters were lost nothing new is granted for so long: every living process says
again within that time (see ``meter.BEAT_S``) what it holds."""
TICKET_S = 1.5
"""A seed is taken for so long after it was asked for, and only by the counter that asked: one that
comes later was read before who knows what, or before another loss."""
SPARE_SHARE = 8
"""Of what is free beyond the need, a process gets this part at most: what others can't use while
it lies there is bounded by that, and goes back within a second."""


class Status(IntEnum):
    GRANTED = 0
    UNKNOWN = 1
    """There is no such counter: ask again with the seed."""
    GONE = 2
    """The counter knows nothing of this holder: its lease ended, or the counter was lost."""
    LATER = 3
    """The counter is in a later period already."""
    SETTLING = 4
    """Granted, but nothing new: the counter was lost and its holders come back."""
    STALE = 5
    """A later exchange of the same holder was there first."""
    SEED = 6
    """The counter may lack what the ledger has (a holder's lease ended before it had told, or the
    counter settles after a loss): ask again with the seed."""


@dataclass(frozen=True, slots=True)
class Ask:
    counter: str
    limit: int
    window: int
    ttl_s: float
    """How long the counter is kept after this."""
    sequence: int
    """Grows with each exchange of this holder."""
    known: bool
    """The holder was granted something in this window before."""
    used: int
    """Spent by this holder in this window so far."""
    floor: int
    need: int
    """At least ``floor``."""
    spare: int
    seed: int | None = None
    """What the ledger says was spent in this window; None: not looked up."""
    ticket: int = 0
    """Of the answer that asked for the seed."""


@dataclass(frozen=True, slots=True)
class Grant:
    status: Status
    window: int
    held: int = 0
    spent: int = 0
    others: int = 0
    """Held by others."""
    ticket: int = 0
    """Where a seed is asked for: it comes with this."""


class Counters(Protocol):
    async def exchange(self, workspace_id: UUID, holder: str, asks: Sequence[Ask]) -> list[Grant]:
        """One atomic round trip. Raises Unavailable when the counters don't answer in time."""
        ...

    async def announce(self, workspace_id: UUID) -> None:
        """Budgets of the workspace were changed: tell every process."""
        ...


@dataclass(slots=True)
class _Held:
    held: int
    used: int
    expires: float
    sequence: int


@dataclass(slots=True)
class _Counter:
    window: int
    spent: int
    holders: dict[str, _Held] = field(default_factory=dict)


class MemoryCounters:
    """Of one workspace or more, in this process. ``now``: seconds of any clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.counters: dict[tuple[UUID, str], _Counter] = {}
        self._tickets: dict[tuple[UUID, str], int] = {}
        self._marks: dict[UUID, float] = {}
        """Per workspace: until when its counters settle after a loss."""

    def lose_everything(self) -> None:
        self.counters.clear()
        self._tickets.clear()
        self._marks.clear()

    async def announce(self, workspace_id: UUID) -> None:
        self._marks.setdefault(workspace_id, 0.0)

    async def exchange(self, workspace_id: UUID, holder: str, asks: Sequence[Ask]) -> list[Grant]:
        return self.decide(workspace_id, holder, asks)

    def decide(self, workspace_id: UUID, holder: str, asks: Sequence[Ask]) -> list[Grant]:
        now = self._now()
        return [self._one((workspace_id, ask.counter), holder, ask, now) for ask in asks]

    def _one(self, key: tuple[UUID, str], holder: str, ask: Ask, now: float) -> Grant:
        counter = self.counters.get(key)
        seed = ask.seed if ask.ticket == self._valid_ticket(key, now) else None
        if counter is None:
            if seed is None or ask.known:
                return Grant(Status.UNKNOWN, ask.window, ticket=self._ticket(key, now))
            counter = self.counters[key] = _Counter(ask.window, seed)
            self._marks.setdefault(key[0], now + SETTLE_S)
        if ask.window > counter.window:
            counter.window, counter.spent, counter.holders = ask.window, 0, {}
        elif ask.window < counter.window:
            return Grant(Status.LATER, counter.window)
        settling = now < self._marks.get(key[0], 0.0)
        gone = [name for name, h in counter.holders.items() if h.expires <= now]
        if settling or any(counter.holders[name].held for name in gone):
            if seed is None:
                return Grant(Status.SEED, ask.window, ticket=self._ticket(key, now))
            counter.spent = max(counter.spent, seed)
        for name in gone:
            del counter.holders[name]
        mine = counter.holders.get(holder)
        if mine is None and ask.known:
            return Grant(Status.GONE, counter.window)
        if mine is not None and ask.sequence < mine.sequence:
            return Grant(Status.STALE, counter.window)
        counter.spent += max(0, ask.used - (mine.used if mine else 0))
        others = sum(h.held for name, h in counter.holders.items() if name != holder)
        free = ask.limit - counter.spent - others
        held = ask.floor
        if free >= ask.need and not settling:
            held = ask.need + min(ask.spare, (free - ask.need) // SPARE_SHARE)
        counter.holders[holder] = _Held(
            held, max(ask.used, mine.used if mine else 0), now + LEASE_S, ask.sequence
        )
        status = Status.SETTLING if settling else Status.GRANTED
        return Grant(status, counter.window, held, counter.spent, others)

    def _valid_ticket(self, key: tuple[UUID, str], now: float) -> int | None:
        ticket = self._tickets.get(key)
        return None if ticket is None or now * 1_000 - ticket > TICKET_S * 1_000 else ticket

    def _ticket(self, key: tuple[UUID, str], now: float) -> int:
        """The one that is valid, else a new one."""
        ticket = self._valid_ticket(key, now)
        if ticket is None:
            ticket = self._tickets[key] = int(now * 1_000)
        return ticket
