"""What one process holds of one workspace's budgets, and how it spends from that by itself.

Pure: it knows the time from its clock and never waits. Whoever drives it (``meter.Meter``, or a
simulation) carries its asks to the shared counters and brings the grants back::

    reserve ──▶ Reservation            all counters of the call had room here
            ──▶ Short ──▶ ask ──▶ grant ──▶ reserve again
            ──▶ BudgetExceeded         a counter has just said that there is no room
    settle  ──▶ the rest is free at once; what was used is told to the shared counter once the
                ledger has it (``committed``), and lies in what is held until then

A holding never shrinks below what is reserved and not yet told, and while an exchange is under
way the book reserves only what every possible grant leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from mesh.core.clock import Clock
from mesh.core.errors import BudgetExceeded, Unavailable
from mesh.llm.budgets.counters import LEASE_S, SETTLE_S, Ask, Grant, Status
from mesh.llm.budgets.limits import Budget, Counter, Unit, counters_of, ends_at, window_of

VALID_S = LEASE_S * 0.6
"""A holding is spent from for so long after it was asked for: well within its lease."""
BUSY_S = 0.5
"""Who asks again within so long asks for more at once …"""
SPARE_MOST = 64
"""… up to so many times what a call reserves."""
IDLE_S = 0.5
"""What was not spent from for so long goes back."""
DENIED_S = 0.1
"""A refusal is repeated for so long without asking."""
KEPT_S = 3_600.0
"""A counter is kept for so long after its period (it can be made anew from the ledger)."""
KEPT_TOTAL_S = 7 * 86_400.0

Amounts = Mapping[Unit, int]


@dataclass(slots=True, eq=False)
class Hold:
    """What this process holds of one counter in one period."""

    counter: Counter
    window: int
    held: int = 0
    busy: int = 0
    """Reserved by running calls, or used and not yet told to the counter."""
    fresh: int = 0
    """Part of ``busy``: used, not yet in the ledger …"""
    due: int = 0
    """… and in the ledger, not yet told to the counter."""
    told: int = 0
    """Used and told, in this window, by this holder."""
    known: bool = False
    valid_until: float = -math.inf
    asked_at: float = -math.inf
    needed_at: float = -math.inf
    spent_at: float = -math.inf
    multiple: int = 0
    """Of the last call's amount: asked for beyond the need."""
    seed: int | None = None
    ticket: int = 0
    sequence: int = 0
    pending: bool = False
    """An exchange is under way."""
    denied_until: float = -math.inf
    denied_amount: int = 0
    settling: bool = False
    last: Grant | None = None

    def free(self, now: float) -> int:
        return self.held - self.busy if now < self.valid_until else 0


@dataclass(slots=True, eq=False)
class Reservation:
    """Of one call. ``settle`` it once, whatever became of the call."""

    workspace_id: UUID
    parts: tuple[tuple[Hold, int], ...]
    began_at: float
    """Unix seconds: the minute that the ledger counts it in."""
    open: bool = True


@dataclass(frozen=True, slots=True)
class Short:
    """These counters must be asked for more (or for a seed) first."""

    holds: tuple[tuple[Hold, int], ...]


@dataclass(slots=True)
class BookStatistics:
    reserved: int = 0
    refused: int = 0
    exchanges: int = 0


class Book:
    """Of one workspace in one process. ``holder``: unique for this process's life."""

    def __init__(self, workspace_id: UUID, holder: str, clock: Clock) -> None:
        self.workspace_id = workspace_id
        self.holder = holder
        self.budgets: tuple[Budget, ...] = ()
        self.statistics = BookStatistics()
        self._clock = clock
        self._holds: dict[tuple[str, int], Hold] = {}
        self._ahead: dict[str, int] = {}
        """Periods that a counter was seen in, where our clock is behind."""
        self._counters: dict[tuple[str | None, UUID | None], tuple[Counter, ...]] = {}

    def set_budgets(self, budgets: Iterable[Budget]) -> None:
        self.budgets = tuple(budgets)
        self._counters.clear()

    @property
    def holds(self) -> list[Hold]:
        return list(self._holds.values())

    def reserve(
        self, key_id: str | None, task_id: UUID | None, amounts: Amounts
    ) -> Reservation | Short:
        """All of the call's counters or none. Raises BudgetExceeded, and Unavailable while a
        counter that was lost settles."""
        now, unix = self._clock.monotonic(), self._clock.now()
        parts: list[tuple[Hold, int]] = []
        short: list[tuple[Hold, int]] = []
        for counter in self._bound(key_id, task_id):
            amount = amounts[counter.budget.unit]
            hold = self._hold(counter, unix)
            if hold.free(now) >= amount:
                parts.append((hold, amount))
                continue
            if now < hold.denied_until and amount >= hold.denied_amount:
                self.statistics.refused += 1
                if hold.settling:
                    raise Unavailable(
                        "The budgets' counters are being made anew.", {}, retry_after_s=SETTLE_S
                    )
                raise self._exceeded(hold, amount, unix)
            short.append((hold, amount))
        if short:
            return Short(tuple(short))
        for hold, amount in parts:
            hold.busy += amount
            hold.spent_at = now
        self.statistics.reserved += 1
        return Reservation(self.workspace_id, tuple(parts), unix)

    def settle(self, reservation: Reservation, used: Amounts) -> None:
        """The call has ended: so much it really used. A second time nothing happens."""
        if not reservation.open:
            return
        reservation.open = False
        for hold, amount in reservation.parts:
            spent = used[hold.counter.budget.unit]
            hold.busy += spent - amount
            hold.fresh += spent

    def take_fresh(self) -> list[tuple[Hold, int]]:
        """What was settled and goes into the ledger now; give it to ``committed`` afterwards."""
        taken = [(hold, hold.fresh) for hold in self._holds.values() if hold.fresh]
        for hold, _ in taken:
            hold.fresh = 0
        return taken

    def committed(self, taken: Iterable[tuple[Hold, int]]) -> None:
        """The ledger has it: the counters may be told."""
        for hold, amount in taken:
            hold.due += amount

    def not_committed(self, taken: Iterable[tuple[Hold, int]]) -> None:
        for hold, amount in taken:
            hold.fresh += amount

    def ask_for(self, short: Short) -> list[tuple[Hold, Ask]]:
        """For a call that needs more; none for counters that are being asked already."""
        now, unix = self._clock.monotonic(), self._clock.now()
        asks = []
        for hold, amount in short.holds:
            if hold.pending:
                continue
            if now - hold.needed_at < BUSY_S:
                hold.multiple = min(SPARE_MOST, max(1, hold.multiple * 2))
            else:
                hold.multiple = 0
            hold.needed_at = now
            # A task's counter is one worker's alone: nothing is gained by taking more.
            spare = 0 if hold.counter.budget.scope == "task" else amount * hold.multiple
            asks.append((hold, self._ask(hold, now, unix, amount, spare)))
        return asks

    def ask_in_passing(self, beat: bool) -> list[tuple[Hold, Ask]]:
        """What the counters should be told by the way: what was used, that we live (``beat``),
        and what goes back because nobody needs it. Forgets what is over."""
        now, unix = self._clock.monotonic(), self._clock.now()
        asks = []
        for key, hold in list(self._holds.items()):
            if hold.pending:
                continue
            over = hold.window < self._window(hold.counter, unix)
            if over and hold.busy == hold.fresh + hold.due:
                hold.busy -= hold.due
                hold.due = 0  # the ledger has it, and its counter counts no more
                if not hold.fresh:
                    del self._holds[key]
                continue
            if over:
                continue
            idle = now - hold.spent_at >= IDLE_S and hold.held > hold.busy
            if hold.due or idle or (beat and hold.held):
                if idle:
                    hold.held = hold.busy
                asks.append((hold, self._ask(hold, now, unix, 0, 0)))
            elif not hold.busy and not hold.held and now - hold.asked_at > 2 * LEASE_S:
                del self._holds[key]
        return asks

    def answered(self, hold: Hold, ask: Ask, grant: Grant, amount: int) -> bool:
        """Take the counter's answer in. True: ask again (with ``hold.seed`` if it is wanted).

        ``amount``: what the ask was for, 0 in passing.
        """
        hold.pending = False
        self.statistics.exchanges += 1
        if grant.status is Status.STALE:
            return False
        if grant.status is Status.LATER:
            self._ahead[hold.counter.id] = grant.window
            return False
        hold.ticket = grant.ticket
        if grant.status is Status.SEED:
            return True
        if grant.status in (Status.UNKNOWN, Status.GONE):
            # It knows nothing of us: what was told is in it or in its seed, the rest is told anew.
            hold.known = False
            hold.told = 0
            hold.held = hold.busy
            hold.valid_until = -math.inf
            return True
        told = ask.used - hold.told
        hold.told = ask.used
        hold.due -= told
        hold.busy -= told
        hold.held = grant.held
        hold.known = True
        hold.last = grant
        hold.valid_until = hold.asked_at + VALID_S
        # By what was asked for, not by what is free now: others may have taken of it meanwhile,
        # which is no refusal.
        if amount and grant.held < ask.need:
            hold.denied_until = self._clock.monotonic() + DENIED_S
            hold.denied_amount = amount
            hold.settling = grant.status is Status.SETTLING
        else:
            hold.denied_until = -math.inf
        return False

    def unanswered(self, hold: Hold) -> None:
        """The exchange failed: what the counter did of it is not known, so nothing is taken in."""
        hold.pending = False

    def _bound(self, key_id: str | None, task_id: UUID | None) -> tuple[Counter, ...]:
        key = (key_id, task_id)
        found = self._counters.get(key)
        if found is None:
            if len(self._counters) > 10_000:
                self._counters.clear()
            found = self._counters[key] = counters_of(self.budgets, key_id, task_id)
        return found

    def _window(self, counter: Counter, unix: float) -> int:
        window = window_of(counter.budget.period, unix)
        return max(window, self._ahead.get(counter.id, 0)) if self._ahead else window

    def _hold(self, counter: Counter, unix: float) -> Hold:
        window = self._window(counter, unix)
        hold = self._holds.get((counter.id, window))
        if hold is None:
            hold = self._holds[counter.id, window] = Hold(counter, window)
        elif hold.counter is not counter:
            hold.counter = counter  # its limit was changed
        return hold

    def _ask(self, hold: Hold, now: float, unix: float, amount: int, spare: int) -> Ask:
        """Holds ``busy`` and what is free of it already, gives back nothing that is in use."""
        budget = hold.counter.budget
        if now >= hold.valid_until:
            hold.held = hold.busy
        else:
            hold.held = max(hold.held, hold.busy)
        floor = hold.held - hold.due
        need = max(floor, hold.busy - hold.due + amount)
        end = ends_at(budget.period, hold.window)
        hold.pending = True
        hold.asked_at = now
        hold.sequence += 1
        seed, hold.seed = hold.seed, None  # once: later it would be an old sum
        return Ask(
            counter=hold.counter.id,
            limit=budget.most,
            window=hold.window,
            ttl_s=KEPT_TOTAL_S if end is None else max(0.0, end - unix) + KEPT_S,
            sequence=hold.sequence,
            known=hold.known,
            used=hold.told + hold.due,
            floor=floor,
            need=need,
            spare=spare,
            seed=seed,
            ticket=hold.ticket,
        )

    def _exceeded(self, hold: Hold, amount: int, unix: float) -> BudgetExceeded:
        budget, grant = hold.counter.budget, hold.last
        spent = grant.spent if grant else 0
        end = ends_at(budget.period, hold.window)
        wait: float | None = None
        if amount <= budget.most and spent + amount <= budget.most:
            wait = 1.0  # it is reserved, not spent: some of it comes back
        elif amount <= budget.most and end is not None:
            wait = max(1.0, end - unix)
        whose = {"workspace": "workspace's", "key": "key's", "task": "task's"}[budget.scope]
        span = "in total" if budget.period == "total" else f"per {budget.period}"
        return BudgetExceeded(
            f"The {whose} budget of {budget.most} {_UNITS[budget.unit]} {span} leaves no room "
            f"for the {amount} that this call may use.",
            {
                "budget": budget.id,
                "scope": budget.scope,
                "unit": budget.unit,
                "period": budget.period,
                "limit": budget.most,
                "spent": spent,
                "reserved": (grant.others if grant else 0) + hold.busy - hold.due,
                "requested": amount,
            },
            retry_after_s=wait,
        )


_UNITS = {"tokens": "tokens", "cost": "millionths"}
