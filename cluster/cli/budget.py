"""``maily budget``: limits of tokens and cost, and what was used. It speaks to the database, so
it works without the gateway, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cluster.cli.console import JsonFlag, answer, err, load_resolved, out

if TYPE_CHECKING:
    from mesh.core.settings import Settings
    from mesh.llm.budgets.limits import Budget
    from mesh.storage.budgets import BudgetRepository, UsageRow

app = typer.Typer(help="Budgets of tokens and cost, and what was used.", no_args_is_help=True)

Workspace = Annotated[str, typer.Option(help="Whose.")]


@app.command("list")
def list_budgets(workspace: Workspace = "default", json: JsonFlag = False) -> None:
    """The workspace's budgets and what is spent of each."""
    from rich.table import Table

    settings, _ = load_resolved()

    async def read() -> list[tuple[Budget, int | None]]:
        async with _budgets(settings, workspace) as (repository, workspace_id):
            return [
                (budget, await _spent(repository, workspace_id, budget))
                for budget in await repository.list(workspace_id)
            ]

    found = asyncio.run(read())
    if json:
        answer({"budgets": [_as_json(budget) | {"spent": spent} for budget, spent in found]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "limit", "spent", "unit", "per"):
        table.add_column(column, justify="right" if column in ("limit", "spent") else "left")
    for budget, spent in found:
        shown = "each its own" if spent is None else f"{spent:,}"
        table.add_row(budget.id, f"{budget.most:,}", shown, budget.unit, budget.period)
    out.print(table)


@app.command("set")
def set_budget(
    limit: Annotated[int, typer.Argument(help="Tokens, or millionths of the currency; 0: none.")],
    workspace: Workspace = "default",
    scope: Annotated[str, typer.Option(help="workspace, key or task.")] = "workspace",
    key: Annotated[
        str | None, typer.Option(help="A key's id; without it every key by itself.")
    ] = None,
    unit: Annotated[str, typer.Option(help="tokens or cost.")] = "tokens",
    period: Annotated[str, typer.Option(help="minute, day, month or total.")] = "day",
    json: JsonFlag = False,
) -> None:
    """Make a budget, or change its limit. It holds for calls that begin from now on."""
    from pydantic import ValidationError

    from cluster.failures import USAGE, Failure
    from mesh.contracts.budgets import BudgetRequest

    settings, _ = load_resolved()
    try:
        budget = BudgetRequest.model_validate(
            {"scope": scope, "key_id": key, "unit": unit, "period": period, "limit": limit}
        ).budget()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "budget"
        raise Failure(
            f"{name}: {first['msg'].removeprefix('Value error, ')}",
            "`maily budget set --help` says what it takes",
            USAGE,
        ) from None

    async def put() -> bool:
        async with _budgets(settings, workspace) as (repository, workspace_id):
            await repository.put(workspace_id, budget)
            return await _announce(settings, workspace_id)

    told = asyncio.run(put())
    if json:
        answer(_as_json(budget) | {"processesTold": told})
        return
    out.print(f"{budget.id}: at most {budget.most:,}.")
    _warn(told)


@app.command("remove")
def remove_budget(
    budget_id: Annotated[str, typer.Argument(help="Its id: `maily budget list`.")],
    workspace: Workspace = "default",
    json: JsonFlag = False,
) -> None:
    """From now on this limit binds nobody."""
    from mesh.core.errors import NotFound

    settings, _ = load_resolved()

    async def remove() -> bool:
        async with _budgets(settings, workspace) as (repository, workspace_id):
            if not await repository.delete(workspace_id, budget_id):
                raise NotFound("There is no such budget.", {"id": budget_id[:200]})
            return await _announce(settings, workspace_id)

    told = asyncio.run(remove())
    if json:
        answer({"id": budget_id, "removed": True, "processesTold": told})
        return
    out.print(f"{budget_id} is removed.")
    _warn(told)


@app.command("usage")
def usage(
    workspace: Workspace = "default",
    days: Annotated[int, typer.Option(min=1, max=366, help="Up to today (UTC).")] = 30,
    json: JsonFlag = False,
) -> None:
    """Tokens and cost by day, key and model."""
    from rich.table import Table

    settings, _ = load_resolved()
    today = datetime.now(UTC).date()

    async def read() -> list[UsageRow]:
        async with _budgets(settings, workspace) as (repository, workspace_id):
            return await repository.usage(
                workspace_id, today - timedelta(days - 1), today + timedelta(1)
            )

    rows = asyncio.run(read())
    if json:
        answer(
            {
                "usage": [
                    {
                        "day": row.day.isoformat(),
                        "keyId": row.key_id or None,
                        "model": row.model,
                        "calls": row.calls,
                        "promptTokens": row.prompt_tokens,
                        "completionTokens": row.completion_tokens,
                        "cost": row.cost,
                    }
                    for row in rows
                ]
            }
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("day", "key", "model", "calls", "prompt", "completion", "cost"):
        table.add_column(column, justify="left" if column in ("day", "key", "model") else "right")
    for row in rows:
        table.add_row(
            row.day.isoformat(),
            row.key_id or "-",
            row.model,
            f"{row.calls:,}",
            f"{row.prompt_tokens:,}",
            f"{row.completion_tokens:,}",
            f"{row.cost / 1e6:,.4f}",
        )
    out.print(table)


@asynccontextmanager
async def _budgets(
    settings: Settings, workspace: str
) -> AsyncIterator[tuple[BudgetRepository, UUID]]:
    """Failure when the database can't be reached, NotFound where there is no such workspace."""
    from cluster.cli.key import open_database
    from mesh.core.errors import NotFound
    from mesh.storage.budgets import BudgetRepository

    async with open_database(settings) as database:
        row = await database.fetchrow("SELECT id FROM workspaces WHERE name = $1", workspace)
        if row is None:
            raise NotFound("There is no such workspace.", {"name": workspace[:100]})
        yield BudgetRepository(database), row["id"]


async def _spent(repository: BudgetRepository, workspace_id: UUID, budget: Budget) -> int | None:
    from mesh.llm.budgets.limits import own_counter, window_of

    counter = own_counter(budget)
    if counter is None:
        return None
    now = datetime.now(UTC).timestamp()
    return await repository.spent(workspace_id, counter, window_of(budget.period, now))


async def _announce(settings: Settings, workspace_id: UUID) -> bool:
    from mesh.core.errors import Unavailable
    from mesh.llm.budgets.valkey import ValkeyCounters
    from mesh.streams.connect import connect

    client = connect(settings.redis_url, max_connections=1)
    try:
        await ValkeyCounters(client).announce(workspace_id)
    except Unavailable:
        return False
    finally:
        await client.aclose()
    return True


def _warn(told: bool) -> None:
    if not told:
        from mesh.llm.budgets.meter import FRESH_S

        err.print(
            "[yellow]The processes could not be told: "
            f"they may take up to {FRESH_S:g} s to notice.[/]"
        )


def _as_json(budget: Budget) -> dict[str, Any]:
    return {
        "id": budget.id,
        "scope": budget.scope,
        "keyId": budget.key_id or None,
        "unit": budget.unit,
        "period": budget.period,
        "limit": budget.most,
    }
