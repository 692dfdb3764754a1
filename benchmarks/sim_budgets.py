"""Budgets in a deterministic simulation: whole processes, one shared counter, everything that
can go wrong between them.

    python -m benchmarks.sim_budgets --seeds 10000
    python -m benchmarks.sim_budgets --seed 4711      # one of them again, told step by step

The processes run the very code of the runtime (``Book``, ``MemoryCounters``, ``UsageBuffer``);
messages between them are late, lost or doubled, processes are killed or stand still, the counters
are lost, the ledger is away. What must hold, for every counter and period:

* nobody has used more than the limit, save for what killed processes had not told and what
  processes that stood still beyond their lease went on with;
* the ledger has every call that ended in a living process once;
* at rest the counter has at least what the ledger has, exactly that where nothing died or was
  lost, and holds nothing for anybody.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from mesh.core.errors import BudgetExceeded, Unavailable
from mesh.llm.budgets.book import Book, Hold, Reservation, Short
from mesh.llm.budgets.counters import LEASE_S, Ask, MemoryCounters, Status
from mesh.llm.budgets.limits import Budget
from mesh.llm.budgets.meter import BEAT_S, FLUSH_S

WORKSPACE = UUID(int=7)
TASK = UUID(int=9)
START = 1_700_000_000.0
TIMEOUT_S = 1.0
_BUDGETS = (
    Budget("workspace", "tokens", "total", 3_000),
    Budget("workspace", "tokens", "minute", 900),
    Budget("key", "tokens", "day", 1_500),
    Budget("task", "tokens", "total", 700),
    Budget("workspace", "cost", "month", 4_000),
)


class Broken(AssertionError):
    """A law does not hold."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong in one seed."""

    lossy: bool
    """Messages are lost, doubled or very late."""
    kills: bool
    pauses: bool
    loses_counters: bool
    ledger_away: bool

    @classmethod
    def of(cls, rng: random.Random) -> Plan:
        return cls(*(rng.random() < share for share in (0.5, 0.3, 0.2, 0.3, 0.3)))


@dataclass(slots=True)
class _Clock:
    """A process's: its own idea of the date, the same seconds."""

    world: World
    skew_s: float = 0.0

    def now(self) -> float:
        return START + self.world.now + self.skew_s

    def monotonic(self) -> float:
        return self.world.now

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class _Call:
    key: str
    task: UUID | None
    amount: int
    uses: int
    seconds: float
    tries: int = 0


@dataclass(slots=True, eq=False)
class _Process:
    book: Book
    clock: _Clock
    asking: bool = False
    waiting: list[_Call] = field(default_factory=list)
    running: dict[int, tuple[Reservation, _Call]] = field(default_factory=dict)
    alive: bool = True
    stands_until: float = 0.0
    beat_at: float = 0.0
    pending_batch: tuple[int, list[tuple[Hold, int]]] | None = None


class World:
    """One seed. ``run`` raises Broken."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.plan = Plan.of(self.rng)
        self.now = 0.0
        self.events = 0
        self.budgets = tuple(b for b in _BUDGETS if self.rng.random() < 0.5) or _BUDGETS[:1]
        self.counters = MemoryCounters(lambda: self.now)
        self.counters._marks[WORKSPACE] = 0.0  # the budgets were announced
        self.refused = self.served = 0
        self._tell = tell
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._ordinal = 0
        self._names = 0
        self._calls = 0
        self._used: dict[tuple[str, int], int] = defaultdict(int)
        """What calls really used or may still use, by counter and period."""
        self._ledger: dict[tuple[str, int], int] = defaultdict(int)
        self._batches: set[int] = set()
        self._untold: dict[tuple[str, int], int] = defaultdict(int)
        """Used in processes that were killed before they told it."""
        self._overhang: dict[tuple[str, int], int] = defaultdict(int)
        """In use somewhere, unknown to the counter, at the moment of a grant."""
        self._away_until = 0.0
        self.processes = [self._process() for _ in range(self.rng.randint(1, 4))]

    def run(self) -> World:
        rng = self.rng
        at = 0.0
        for _ in range(rng.randint(20, 120)):
            at += rng.expovariate(1 / rng.choice((0.02, 0.3, 1.5)))
            self._at(at, self._arrive)
        end = at + 5.0
        for _ in range(rng.randint(1, 3)):
            when = rng.uniform(0.0, end)
            if self.plan.kills:
                self._at(when, self._kill)
            if self.plan.pauses:
                self._at(when, self._pause)
            if self.plan.loses_counters:
                self._at(when, self._lose)
            if self.plan.ledger_away:
                self._at(when, self._ledger_goes)
        # At rest: everything that runs ends, idle holdings go back, leases of the dead run out.
        self._go_on(end + 60.0 + LEASE_S * 2)
        self._at_rest()
        return self

    def _go_on(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, happens = heapq.heappop(self._heap)
            self.events += 1
            happens()
        self.now = until

    def _at(self, when: float, happens: Callable[[], None]) -> None:
        self._ordinal += 1
        heapq.heappush(self._heap, (when, self._ordinal, happens))

    def _say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(f"{self.now:9.3f}  {text}")

    # Processes

    def _process(self) -> _Process:
        self._names += 1
        skew = self.rng.uniform(-2.0, 2.0) if self.plan.lossy else 0.0
        clock = _Clock(self, skew)
        process = _Process(Book(WORKSPACE, f"p{self._names}", clock), clock)
        process.book.set_budgets(self.budgets)
        self._tick(process)
        return process

    def _when_awake(self, process: _Process, happens: Callable[[], None]) -> None:
        """Now, or when the process goes on; never in a dead one."""
        if not process.alive:
            return
        if self.now < process.stands_until:
            self._at(process.stands_until, lambda: self._when_awake(process, happens))
        else:
            happens()

    def _kill(self) -> None:
        process = self.rng.choice(self.processes)
        self._say(f"kill {process.book.holder}")
        process.alive = False
        for hold in process.book.holds:
            key = (hold.counter.id, hold.window)
            self._untold[key] += hold.busy
        self.processes[self.processes.index(process)] = self._process()

    def _pause(self) -> None:
        process = self.rng.choice(self.processes)
        process.stands_until = self.now + self.rng.uniform(0.1, LEASE_S * 2)
        self._say(f"{process.book.holder} stands still until {process.stands_until:.3f}")

    def _lose(self) -> None:
        self._say("the counters are lost")
        self.counters.lose_everything()

    def _ledger_goes(self) -> None:
        self._away_until = self.now + self.rng.uniform(0.1, 8.0)

    # Calls

    def _arrive(self) -> None:
        rng = self.rng
        process = rng.choice(self.processes)
        amount = rng.choice((5, 40, 40, 200))
        call = _Call(
            key=rng.choice(("k1", "k2")),
            task=TASK if rng.random() < 0.3 else None,
            amount=amount,
            uses=rng.randint(0, amount),
            seconds=rng.expovariate(1 / rng.choice((0.1, 2.0))),
        )
        self._when_awake(process, lambda: self._try(process, call))

    def _try(self, process: _Process, call: _Call) -> None:
        call.tries += 1
        amounts = {"tokens": call.amount, "cost": call.amount * 2}
        try:
            found = process.book.reserve(call.key, call.task, amounts)  # type: ignore[arg-type]
        except (BudgetExceeded, Unavailable) as error:
            self.refused += 1
            self._say(f"{process.book.holder} refuses {call.amount}: {error.code}")
            return
        if isinstance(found, Short):
            if call.tries > 50:
                self.refused += 1
                return
            process.waiting.append(call)
            self._ask(process, process.book.ask_for(found) if not process.asking else [], found)
            return
        self.served += 1
        self._say(f"{process.book.holder} reserves {call.amount}")
        for hold, amount in found.parts:
            self._use(hold, amount)
        self._calls += 1
        number = self._calls
        process.running[number] = (found, call)
        self._at(
            self.now + call.seconds,
            lambda: self._when_awake(process, lambda: self._end(process, number)),
        )

    def _end(self, process: _Process, number: int) -> None:
        reservation, call = process.running.pop(number)
        for hold, amount in reservation.parts:
            self._use(hold, call.uses * amount // call.amount - amount)
        process.book.settle(reservation, {"tokens": call.uses, "cost": call.uses * 2})

    def _use(self, hold: Hold, amount: int) -> None:
        key = (hold.counter.id, hold.window)
        self._used[key] += amount
        most = hold.counter.budget.most + self._untold[key] + self._overhang[key]
        if self._used[key] > most:
            raise Broken(
                f"seed {self.seed}: {key} used {self._used[key]} of {hold.counter.budget.most} "
                f"(untold {self._untold[key]}, overhang {self._overhang[key]})"
            )

    # Exchanges with the counters

    def _ask(self, process: _Process, asks: list[tuple[Hold, Ask]], short: Short | None) -> None:
        """One at a time in each process, as the meter's lock has it."""
        if process.asking or not asks:
            return
        process.asking = True
        amounts = dict(short.holds) if short else {}
        self._send(process, asks, amounts, 0)

    def _send(
        self, process: _Process, asks: list[tuple[Hold, Ask]], amounts: dict[Hold, int], n: int
    ) -> None:
        rng = self.rng
        state = {"open": True}
        there = rng.expovariate(1 / 0.005)
        if self.plan.lossy and rng.random() < 0.05:
            there = rng.choice((rng.uniform(0.5, LEASE_S * 1.5), 1e9))
        copies = 2 if self.plan.lossy and rng.random() < 0.05 else 1
        for copy in range(copies):
            self._at(
                self.now + there + copy * rng.uniform(0.0, 0.2),
                lambda: self._decide(process, asks, amounts, n, state),
            )

        def give_up() -> None:
            if state["open"]:
                state["open"] = False
                self._when_awake(process, lambda: self._unanswered(process, asks))

        self._at(self.now + TIMEOUT_S, give_up)

    def _decide(
        self,
        process: _Process,
        asks: list[tuple[Hold, Ask]],
        amounts: dict[Hold, int],
        n: int,
        state: dict[str, bool],
    ) -> None:
        grants = self.counters.decide(WORKSPACE, process.book.holder, [ask for _, ask in asks])
        for (hold, ask), grant in zip(asks, grants, strict=True):
            if grant.status is Status.GRANTED and grant.held > ask.floor:
                self._note_overhang(process, hold)
        back = self.rng.expovariate(1 / 0.005)
        if self.plan.lossy and self.rng.random() < 0.03:
            return

        def answered() -> None:
            if state["open"]:
                state["open"] = False
                self._when_awake(process, take_in)

        def take_in() -> None:
            again = [
                hold
                for (hold, ask), grant in zip(asks, grants, strict=True)
                if process.book.answered(hold, ask, grant, amounts.get(hold, 0))
            ]
            if again and n < 2:
                for hold in again:
                    hold.seed = self._ledger[hold.counter.id, hold.window]
                short = Short(tuple((hold, amounts.get(hold, 0)) for hold in again))
                more = process.book.ask_for(short)
                self._at(
                    self.now + self.rng.uniform(0.001, 0.02),
                    lambda: self._when_awake(
                        process, lambda: self._send(process, more, amounts, n + 1)
                    ),
                )
            else:
                self._asked(process)

        self._at(self.now + back, answered)

    def _unanswered(self, process: _Process, asks: list[tuple[Hold, Ask]]) -> None:
        for hold, _ in asks:
            process.book.unanswered(hold)
        self.refused += len(process.waiting)  # Unavailable
        process.waiting.clear()
        self._asked(process)

    def _asked(self, process: _Process) -> None:
        process.asking = False
        waiting, process.waiting = process.waiting, []
        for call in waiting:
            self._try(process, call)

    def _note_overhang(self, asking: _Process, hold: Hold) -> None:
        """What others have in use that this counter does not know of, when it grants."""
        key = (hold.counter.id, hold.window)
        counter = self.counters.counters[WORKSPACE, hold.counter.id]
        unknown = 0
        for process in self.processes:
            if process is asking:
                continue
            held = counter.holders.get(process.book.holder)
            for other in process.book.holds:
                if (other.counter.id, other.window) == key:
                    unknown += max(0, other.busy - other.due - (held.held if held else 0))
        if unknown and not (self.plan.pauses or self.plan.lossy):
            raise Broken(
                f"seed {self.seed}: {key} granted while {unknown} in use are unknown to it"
            )
        self._overhang[key] = max(self._overhang[key], unknown)

    # The ledger, and what is told in passing

    def _tick(self, process: _Process) -> None:
        def tick() -> None:
            self._flush(process)
            self._at(self.now + FLUSH_S, lambda: self._when_awake(process, tick))

        self._at(self.now + self.rng.uniform(0.0, FLUSH_S), lambda: self._when_awake(process, tick))

    def _flush(self, process: _Process) -> None:
        if process.pending_batch is None:
            taken = process.book.take_fresh()
            if taken:
                self._names += 1
                process.pending_batch = (self._names, taken)
        if process.pending_batch is not None:
            number, taken = process.pending_batch
            if self.now >= self._away_until:
                if number not in self._batches:
                    self._batches.add(number)
                    for hold, amount in taken:
                        self._ledger[hold.counter.id, hold.window] += amount
                if not (self.plan.ledger_away and self.rng.random() < 0.1):  # else: no answer
                    process.book.committed(taken)
                    process.pending_batch = None
        beat = self.now - process.beat_at >= BEAT_S
        if beat:
            process.beat_at = self.now
        if not process.asking:
            self._ask(process, process.book.ask_in_passing(beat), None)

    # At rest

    def _at_rest(self) -> None:
        plan = self.plan
        calm = not (plan.lossy or plan.pauses or plan.loses_counters or plan.kills)
        for process in self.processes:
            if process.running or process.waiting:
                raise Broken(f"seed {self.seed}: calls are left in {process.book.holder}")
        for key, used in self._used.items():
            told = self._ledger[key]
            if not used - self._untold[key] <= told <= used:
                raise Broken(
                    f"seed {self.seed}: {key}: the ledger has {told}, used were {used}, "
                    f"{self._untold[key]} of them in killed processes"
                )
        for (_, name), counter in self.counters.counters.items():
            held = sum(h.held for h in counter.holders.values() if h.expires > self.now)
            if held:
                raise Broken(f"seed {self.seed}: {name} still holds {held} for somebody")
            if name.endswith(":minute") or any(h.held for h in counter.holders.values()):
                continue  # that minute is over; or the next ask brings it the ledger's sum
            told = self._ledger[name, counter.window]
            if counter.spent < told or (calm and counter.spent != told):
                raise Broken(f"seed {self.seed}: {name} counts {counter.spent}, the ledger {told}")


def simulate(seed: int, tell: Callable[[str], None] | None = None) -> World:
    """Raises Broken, with the seed that shows it again."""
    return World(seed, tell).run()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one alone, step by step")
    options = parser.parse_args()
    if options.seed is not None:
        world = simulate(options.seed, print)
        print(f"seed {options.seed}: {world.plan}: holds")
        return 0
    started = time.perf_counter()
    events = served = refused = 0
    for seed in range(options.first, options.first + options.seeds):
        world = simulate(seed)
        events += world.events
        served += world.served
        refused += world.refused
    seconds = time.perf_counter() - started
    print(
        f"{options.seeds} seeds hold: {events} events, {served} calls served, {refused} refused, "
        f"{seconds:.0f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
