"""What a budget is, which calls it binds, and when its period begins and ends.

A budget limits tokens or cost of a workspace, of a key or of one task's whole run, per minute,
day or month (of the calendar, UTC) or in total. A call counts in the period in which it began.
"""

from __future__ import annotations

import calendar
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Scope = Literal["workspace", "key", "task"]
Unit = Literal["tokens", "cost"]
Period = Literal["minute", "day", "month", "total"]

MOST = 2**52
"""Valkey's scripts count in doubles: up to here they are exact, with room to add."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit of one workspace."""

    scope: Scope
    unit: Unit
    period: Period
    most: int
    """Tokens, or millionths of the currency."""
    key_id: str = ""
    """Of the scope ``key``; empty: every key by itself, unless it has one of its own."""

    @property
    def id(self) -> str:
        subject = f"{self.scope}.{self.key_id}" if self.key_id else self.scope
        return f"{subject}.{self.unit}.{self.period}"


@dataclass(frozen=True, slots=True)
class Price:
    """Of a model, in units of the currency per million tokens: millionths per token."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Millionths of the currency, rounded up."""
        exact = self.prompt * prompt_tokens + self.completion * completion_tokens
        # What a float adds in its last places must not become a whole unit.
        return math.ceil(exact - 1e-6)


class Prices:
    """Prices by model. A name without one (a route) may be answered by any model: it is
    reserved at the highest, and settled at the price of the model that answered."""

    def __init__(self, prices: Mapping[str, Price] | None = None) -> None:
        self._prices = dict(prices or {})
        self._highest = Price(
            max((price.prompt for price in self._prices.values()), default=0.0),
            max((price.completion for price in self._prices.values()), default=0.0),
        )

    def highest(self, name: str) -> Price:
        return self._prices.get(name, self._highest)

    def of(self, answered: str, name: str) -> Price:
        """Of the model that answered; without a price of its own, of the name asked for."""
        return self._prices.get(answered) or self._prices.get(name) or Price()


@dataclass(frozen=True, slots=True)
class Counter:
    """What one budget counts for one subject."""

    id: str
    """Unique within the workspace: ``k:<key>:tokens:day``."""
    budget: Budget
    subject: str
    """The key's or the task's id; empty for the workspace."""


def counters_of(
    budgets: Iterable[Budget], key_id: str | None, task_id: UUID | None
) -> tuple[Counter, ...]:
    """Those that bind a call of this key (for this task). A key's own budget stands in for the
    one that every key has."""
    found: dict[str, Counter] = {}
    for budget in sorted(budgets, key=lambda budget: budget.id):
        if budget.scope == "workspace":
            subject, short = "", "w"
        elif budget.scope == "key":
            if key_id is None or budget.key_id not in ("", key_id):
                continue
            subject, short = key_id, "k"
        else:
            if task_id is None:
                continue
            subject, short = str(task_id), "t"
        name = f"{short}:{subject}:{budget.unit}:{budget.period}"
        if name not in found or budget.key_id:
            found[name] = Counter(name, budget, subject)
    return tuple(found.values())


def own_counter(budget: Budget) -> Counter | None:
    """The one counter of a budget; None: every key (or task) has one by itself."""
    if budget.scope == "task" or (budget.scope == "key" and not budget.key_id):
        return None
    return counters_of((budget,), budget.key_id or None, None)[0]


def window_of(period: Period, now: float) -> int:
    """Number of the period that ``now`` (Unix seconds) lies in; it only grows."""
    if period == "minute":
        return int(now // 60)
    if period == "day":
        return int(now // 86_400)
    if period == "month":
        moment = time.gmtime(now)
        return moment.tm_year * 12 + moment.tm_mon - 1
    return 0


def begins_at(period: Period, window: int) -> float:
    """Unix seconds; 0 for ``total``."""
    if period == "minute":
        return window * 60.0
    if period == "day":
        return window * 86_400.0
    if period == "month":
        return float(calendar.timegm((window // 12, window % 12 + 1, 1, 0, 0, 0)))
    return 0.0


def ends_at(period: Period, window: int) -> float | None:
    """Unix seconds; None: never."""
    return None if period == "total" else begins_at(period, window + 1)
