"""Budgets and the ledger of what was spent: PostgreSQL is where both are true.

Usage comes in batches, each under an id of its own, so that a batch which is sent again after a
lost answer is not added twice. Rows are per minute; ``sweep`` adds old ones up to days, which
changes no sum over whole days.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from mesh.core.errors import InvalidInput
from mesh.llm.budgets.limits import Budget, Counter, begins_at
from mesh.storage.pool import Connection, Database

MAX_BUDGETS = 1_000
"""Of one workspace."""
MINUTES_KEPT_S = 3 * 86_400
BATCHES_KEPT_S = 86_400

_LIST = """
SELECT scope, unit, period, most, key_id FROM budgets WHERE workspace_id = $1 ORDER BY id
"""
_PUT = """
INSERT INTO budgets AS kept (workspace_id, id, scope, key_id, unit, period, most)
SELECT $1, $2, $3, $4, $5, $6, $7
WHERE EXISTS (SELECT FROM budgets WHERE workspace_id = $1 AND id = $2)
   OR (SELECT count(*) FROM budgets WHERE workspace_id = $1) < $8
ON CONFLICT (workspace_id, id) DO UPDATE SET most = excluded.most, updated_at = now()
RETURNING id
"""
_DELETE = "DELETE FROM budgets WHERE workspace_id = $1 AND id = $2 RETURNING id"
_SPENT = """
SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS tokens,
       coalesce(sum(cost), 0)::bigint AS cost
FROM usage WHERE workspace_id = $1 AND slot >= $2 AND ($3 = '' OR key_id = $3)
"""
_SPENT_TASK = """
SELECT prompt_tokens + completion_tokens AS tokens, cost FROM usage_tasks
WHERE workspace_id = $1 AND task_id = $2
"""
_BATCH = "INSERT INTO usage_batches (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id"
# In the order of the key: two processes that add to the same rows never wait in a circle.
_ADD = """
INSERT INTO usage AS kept
  (workspace_id, slot, key_id, model, calls, prompt_tokens, completion_tokens, cost)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[],
                     $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
  AS new (workspace_id, slot, key_id, model, calls, prompt_tokens, completion_tokens, cost)
ORDER BY 1, 2, 3, 4
ON CONFLICT (workspace_id, slot, key_id, model) DO UPDATE
SET calls = kept.calls + excluded.calls,
    prompt_tokens = kept.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = kept.completion_tokens + excluded.completion_tokens,
    cost = kept.cost + excluded.cost
"""
_ADD_TASKS = """
INSERT INTO usage_tasks AS kept
  (workspace_id, task_id, calls, prompt_tokens, completion_tokens, cost)
SELECT * FROM unnest($1::uuid[], $2::uuid[],
                     $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
  AS new (workspace_id, task_id, calls, prompt_tokens, completion_tokens, cost)
ORDER BY 1, 2
ON CONFLICT (workspace_id, task_id) DO UPDATE
SET calls = kept.calls + excluded.calls,
    prompt_tokens = kept.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = kept.completion_tokens + excluded.completion_tokens,
    cost = kept.cost + excluded.cost,
    updated_at = now()
"""
_USAGE = """
SELECT (slot AT TIME ZONE 'UTC')::date AS day, key_id, model, sum(calls)::bigint AS calls,
       sum(prompt_tokens)::bigint AS prompt_tokens,
       sum(completion_tokens)::bigint AS completion_tokens, sum(cost)::bigint AS cost
FROM usage
WHERE workspace_id = $1 AND slot >= $2 AND slot < $3
  AND ($4::text IS NULL OR key_id = $4) AND ($5::text IS NULL OR model = $5)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT $6
"""
# Deleting and adding in one statement: no reader sees a call twice or not at all.
_TO_DAYS = """
WITH old AS (
  DELETE FROM usage WHERE slot < date_trunc('day', now() - make_interval(secs => $1), 'UTC')
    AND slot <> date_trunc('day', slot, 'UTC') RETURNING *
)
INSERT INTO usage AS kept
  (workspace_id, slot, key_id, model, calls, prompt_tokens, completion_tokens, cost)
SELECT workspace_id, date_trunc('day', slot, 'UTC'), key_id, model,
       sum(calls), sum(prompt_tokens), sum(completion_tokens), sum(cost)
FROM old GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
ON CONFLICT (workspace_id, slot, key_id, model) DO UPDATE
SET calls = kept.calls + excluded.calls,
    prompt_tokens = kept.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = kept.completion_tokens + excluded.completion_tokens,
    cost = kept.cost + excluded.cost
"""
_SWEEP_BATCHES = "DELETE FROM usage_batches WHERE created_at < now() - make_interval(secs => $1)"


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls of one minute, key and model have used."""

    workspace_id: UUID
    minute: int
    """Unix minutes in which they began."""
    key_id: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: int


@dataclass(frozen=True, slots=True)
class SpentTask:
    workspace_id: UUID
    task_id: UUID
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    day: date
    key_id: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: int


class BudgetRepository:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def list(self, workspace_id: UUID) -> list[Budget]:
        return [Budget(**row) for row in await self._db.fetch(_LIST, workspace_id)]

    async def put(self, workspace_id: UUID, budget: Budget) -> None:
        """Make it, or change its limit. Raises InvalidInput beyond ``MAX_BUDGETS``."""
        row = await self._db.fetchrow(
            _PUT,
            workspace_id,
            budget.id,
            budget.scope,
            budget.key_id,
            budget.unit,
            budget.period,
            budget.most,
            MAX_BUDGETS,
        )
        if row is None:
            raise InvalidInput(f"A workspace has at most {MAX_BUDGETS} budgets.", {"field": "body"})

    async def delete(self, workspace_id: UUID, budget_id: str) -> bool:
        """False: there was none."""
        return await self._db.fetchrow(_DELETE, workspace_id, budget_id) is not None

    async def spent(self, workspace_id: UUID, counter: Counter, window: int) -> int:
        """What the ledger says of this counter's period."""
        budget = counter.budget
        if budget.scope == "task":
            row = await self._db.fetchrow(_SPENT_TASK, workspace_id, UUID(counter.subject))
        else:
            since = datetime.fromtimestamp(begins_at(budget.period, window), UTC)
            row = await self._db.fetchrow(_SPENT, workspace_id, since, counter.subject)
        return 0 if row is None else int(row[budget.unit])

    async def add(self, batch: UUID, spent: Sequence[Spent], tasks: Sequence[SpentTask]) -> None:
        """Add a batch to the ledger, once, however often it is sent."""

        async def work(connection: Connection) -> None:
            if await connection.fetchrow(_BATCH, batch) is None:
                return
            if spent:
                await connection.execute(
                    _ADD,
                    [s.workspace_id for s in spent],
                    [datetime.fromtimestamp(s.minute * 60, UTC) for s in spent],
                    [s.key_id for s in spent],
                    [s.model for s in spent],
                    [s.calls for s in spent],
                    [s.prompt_tokens for s in spent],
                    [s.completion_tokens for s in spent],
                    [s.cost for s in spent],
                )
            if tasks:
                await connection.execute(
                    _ADD_TASKS,
                    [t.workspace_id for t in tasks],
                    [t.task_id for t in tasks],
                    [t.calls for t in tasks],
                    [t.prompt_tokens for t in tasks],
                    [t.completion_tokens for t in tasks],
                    [t.cost for t in tasks],
                )

        await self._db.transact(work)

    async def usage(
        self,
        workspace_id: UUID,
        since: date,
        until: date,
        *,
        key_id: str | None = None,
        model: str | None = None,
        limit: int = 10_000,
    ) -> builtins.list[UsageRow]:
        """By day, key and model; ``until`` is not included."""
        rows = await self._db.fetch(
            _USAGE, workspace_id, _midnight(since), _midnight(until), key_id, model, limit
        )
        return [UsageRow(**row) for row in rows]

    async def sweep(self) -> None:
        """Add minutes of days long past up to days; forget old batches."""
        await self._db.fetch(_TO_DAYS, MINUTES_KEPT_S)
        await self._db.fetch(_SWEEP_BATCHES, BATCHES_KEPT_S)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
