"""Holdings of several processes never add up to more than the budget, whatever they do when."""

from __future__ import annotations

import time
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.core.clock import VirtualClock
from mesh.core.errors import BudgetExceeded, Unavailable
from mesh.llm.budgets.book import Book, Hold, Reservation, Short
from mesh.llm.budgets.counters import MemoryCounters
from mesh.llm.budgets.estimate import prompt_most
from mesh.llm.budgets.limits import (
    Budget,
    Period,
    Price,
    Prices,
    begins_at,
    counters_of,
    ends_at,
    own_counter,
    window_of,
)

WORKSPACE = UUID(int=1)
PERIODS: tuple[Period, ...] = ("minute", "day", "month", "total")


class Spending(RuleBasedStateMachine):
    """Two processes and one counter; calls end when and how hypothesis likes."""

    @initialize(limit=st.integers(0, 500))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.clock = VirtualClock(1_700_000_000.0)
        self.counters = MemoryCounters(self.clock.monotonic)
        self.counters._marks[WORKSPACE] = 0.0
        self.ledger = 0
        self.used = 0
        self.running: list[tuple[Book, Reservation, int]] = []
        self.books = [Book(WORKSPACE, name, self.clock) for name in "ab"]
        for book in self.books:
            book.set_budgets([Budget("workspace", "tokens", "total", limit)])

    @rule(which=st.integers(0, 1), amount=st.integers(1, 200))
    def call(self, which: int, amount: int) -> None:
        book = self.books[which]
        for _ in range(4):
            try:
                found = book.reserve(None, None, {"tokens": amount, "cost": 0})
            except (BudgetExceeded, Unavailable):
                return
            if isinstance(found, Reservation):
                self.running.append((book, found, amount))
                return
            self.exchange(book, found)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 10**6), share=st.floats(0, 1))
    def end(self, which: int, share: float) -> None:
        book, reservation, amount = self.running.pop(which % len(self.running))
        spent = int(amount * share)
        self.used += spent
        book.settle(reservation, {"tokens": spent, "cost": 0})
        book.settle(reservation, {"tokens": amount, "cost": 0})  # a second time: nothing

    @rule(which=st.integers(0, 1), beat=st.booleans(), fails=st.booleans())
    def tell(self, which: int, beat: bool, fails: bool) -> None:
        book = self.books[which]
        taken = book.take_fresh()
        if fails:
            book.not_committed(taken)
        else:
            self.ledger += sum(amount for _, amount in taken)
            book.committed(taken)
        for hold, ask in book.ask_in_passing(beat):
            grant = self.counters.decide(WORKSPACE, book.holder, [ask])[0]
            if book.answered(hold, ask, grant, 0):
                self.exchange(book, Short(((hold, 0),)))

    @rule(seconds=st.floats(0.01, 5.0))
    def wait(self, seconds: float) -> None:
        # Beside the loop: nobody sleeps on this clock. Both come again well within their lease.
        self.clock._now += seconds
        for which in (0, 1):
            self.tell(which, beat=True, fails=False)

    @rule()
    def nobody_comes_for_long(self) -> None:
        """Every lease ends; all was told before."""
        if self.running:
            return
        for which in (0, 1):
            self.tell(which, beat=True, fails=False)
        self.clock._now += 30.0

    def exchange(self, book: Book, short: Short) -> None:
        amounts = dict(short.holds)
        asks = book.ask_for(short)
        for _ in range(3):
            again: list[Hold] = []
            for hold, ask in asks:
                grant = self.counters.decide(WORKSPACE, book.holder, [ask])[0]
                if book.answered(hold, ask, grant, amounts[hold]):
                    hold.seed = self.ledger
                    again.append(hold)
            if not again:
                return
            asks = book.ask_for(Short(tuple((hold, amounts[hold]) for hold in again)))

    @invariant()
    def nobody_uses_more_than_there_is(self) -> None:
        if hasattr(self, "limit"):
            reserved = sum(amount for _, _, amount in self.running)
            assert self.used + reserved <= self.limit

    @invariant()
    def what_is_held_is_there(self) -> None:
        for counter in getattr(self, "counters", MemoryCounters(time.monotonic)).counters.values():
            held = sum(h.held for h in counter.holders.values())
            assert counter.spent + held <= self.limit


# Leases are left to the simulation: here processes come again before they end.
Spending.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSpending = Spending.TestCase


@given(now=st.floats(0, 4e9), period=st.sampled_from(PERIODS))
def test_every_moment_lies_in_its_period(now: float, period: Period) -> None:
    window = window_of(period, now)
    assert begins_at(period, window) <= now
    end = ends_at(period, window)
    if end is not None:
        assert now < end
        assert window_of(period, end) == window + 1


def test_a_keys_own_budget_stands_in_for_everybodys() -> None:
    everybody = Budget("key", "tokens", "day", 10)
    own = Budget("key", "tokens", "day", 99, "k1")
    task = Budget("task", "cost", "total", 5)
    budgets = [own, everybody, task, Budget("workspace", "tokens", "day", 1_000)]
    assert {c.budget.most for c in counters_of(budgets, "k1", None)} == {99, 1_000}
    assert {c.budget.most for c in counters_of(budgets, "k2", None)} == {10, 1_000}
    assert {c.budget.most for c in counters_of(budgets, None, UUID(int=3))} == {5, 1_000}
    assert own_counter(everybody) is None
    assert own_counter(own) is not None


def test_a_route_is_reserved_at_the_highest_price_and_settled_at_the_answers() -> None:
    prices = Prices({"small": Price(0.1, 0.2), "large": Price(1.0, 0.1)})
    assert prices.highest("fast") == Price(1.0, 0.2)
    assert prices.highest("small") == Price(0.1, 0.2)
    assert prices.of("large", "fast") == Price(1.0, 0.1)
    assert prices.of("?", "small") == Price(0.1, 0.2)
    assert Price(0.1, 0.2).cost(10, 5) == 2
    assert Price(0.1, 0.2).cost(11, 5) == 3  # rounded up


@pytest.mark.parametrize("text", ["", "hello", "Grüße 🎉", "x" * 5_000])
def test_a_prompt_is_never_estimated_below_its_bytes(text: str) -> None:
    body = {
        "messages": [
            {"role": "user", "content": text},
            {"role": "user", "content": [{"type": "text", "text": text}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": text}}],
    }
    assert prompt_most(body) >= 3 * len(text.encode())
    assert prompt_most({"prompt": text}) >= len(text.encode())
    assert prompt_most(body, 4.0) < prompt_most(body) or not text


async def test_what_others_take_while_the_counter_is_asked_is_no_refusal() -> None:
    clock = VirtualClock()
    counters = MemoryCounters(clock.monotonic)
    counters._marks[WORKSPACE] = 0.0
    book = Book(WORKSPACE, "a", clock)
    book.set_budgets([Budget("workspace", "tokens", "total", 10_000)])

    def reserve(amount: int) -> Reservation | Short:
        return book.reserve(None, None, {"tokens": amount, "cost": 0})

    async def ask(short: Short) -> None:
        amounts = dict(short.holds)
        asks = book.ask_for(short)
        while asks:
            grants = await counters.exchange(WORKSPACE, "a", [ask for _, ask in asks])
            again = [
                hold
                for (hold, ask), grant in zip(asks, grants, strict=True)
                if book.answered(hold, ask, grant, amounts[hold])
            ]
            for hold in again:
                hold.seed = 0
            asks = book.ask_for(Short(tuple((hold, amounts[hold]) for hold in again)))

    short = reserve(10)
    assert isinstance(short, Short)
    await ask(short)
    first = reserve(10)
    assert isinstance(first, Reservation)
    book.settle(first, {"tokens": 4, "cost": 0})
    await clock.advance(1.0)  # so that nothing is asked for beyond the need
    second = reserve(18)
    assert isinstance(second, Short)
    ((hold, asked),) = book.ask_for(second)
    (grant,) = await counters.exchange(WORKSPACE, "a", [asked])
    assert isinstance(reserve(5), Reservation)  # of what was free already
    book.answered(hold, asked, grant, 18)
    third = reserve(18)  # it asks again
    assert isinstance(third, Short)
    await ask(third)
    assert isinstance(reserve(18), Reservation)
