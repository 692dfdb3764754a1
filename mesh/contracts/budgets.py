"""Budgets and usage, as callers set and see them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Self

from pydantic import Field, model_validator

from mesh.contracts.base import Contract
from mesh.llm.budgets.limits import MOST, Budget, Period, Scope, Unit


class BudgetRequest(Contract):
    """Body of ``PUT /v1/budgets``. Scope, key, unit and period name the budget."""

    scope: Scope = Field(description="task: every task's whole run by itself")
    key_id: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9:_-]{1,64}$",
        description="For the scope key; without it every key has this budget by itself",
    )
    unit: Unit = Field(description="cost: millionths of the currency, by the prices set")
    period: Period = Field(description="Of the calendar in UTC; tasks have only total")
    limit: int = Field(ge=0, le=MOST)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.key_id is not None and self.scope != "key":
            raise ValueError("key_id belongs to the scope key")
        if self.scope == "task" and self.period != "total":
            raise ValueError("a task's budget is for its whole run: period total")
        return self

    def budget(self) -> Budget:
        return Budget(self.scope, self.unit, self.period, self.limit, self.key_id or "")


class BudgetView(Contract):
    id: str
    scope: Scope
    key_id: str | None
    unit: Unit
    period: Period
    limit: int
    spent: int | None = Field(
        description="In this period, by the ledger; null where every key or task has its own"
    )
    resets_at: datetime | None = Field(description="null: never")


class BudgetPage(Contract):
    items: list[BudgetView]


class UsageView(Contract):
    """What one key has used of one model on one day (UTC)."""

    day: date
    key_id: str | None = Field(description="null: the workspace's own work")
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: int = Field(description="Millionths of the currency")


class UsageTotal(Contract):
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: int


class UsagePage(Contract):
    """``complete`` false: there is more than one answer holds; ask for fewer days."""

    since: date
    until: date
    items: list[UsageView]
    total: UsageTotal
    complete: bool
