"""Budgets of the caller's workspace, and what was used of the models."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mesh.contracts.budgets import (
    BudgetPage,
    BudgetRequest,
    BudgetView,
    UsagePage,
    UsageTotal,
    UsageView,
)
from mesh.core.errors import NotFound, Unavailable
from mesh.core.logging import get_logger
from mesh.llm.budgets.limits import Budget, ends_at, own_counter, window_of
from serve_apps.gateway.answers import Json, invalid_field
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import BudgetAdmin, Gateway
from serve_apps.gateway.documented import good, problems, reads

MAX_DAYS = 366
MAX_ROWS = 10_000
MAX_ID = 200

_log = get_logger("gateway.budgets")


def _only_days(value: object) -> object:
    """Pydantic takes numbers as seconds since 1970, which the document does not promise."""
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise ValueError("must look like 2026-01-31")
    return value


_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
Day = Annotated[date, BeforeValidator(_only_days)]


class UsageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    since: Day | None = Field(default=None, description="First day (UTC); default: 30 days ago")
    until: Day | None = Field(default=None, description="Last day (UTC); default: today")
    key_id: str | None = Field(default=None, pattern="^[A-Za-z0-9:_-]{1,64}$")
    model: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[^\x00]+$")


def budgets_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["budgets"])
    limits = gateway.settings.gateway

    def admin() -> BudgetAdmin:
        if gateway.budgets is None:
            raise Unavailable("There are no budgets here")
        return gateway.budgets

    async def view(workspace_id: UUID, budget: Budget) -> BudgetView:
        now = gateway.clock.now()
        window = window_of(budget.period, now)
        end = ends_at(budget.period, window)
        counter = own_counter(budget)
        return BudgetView(
            id=budget.id,
            scope=budget.scope,
            key_id=budget.key_id or None,
            unit=budget.unit,
            period=budget.period,
            limit=budget.most,
            spent=None if counter is None else await admin().spent(workspace_id, counter, window),
            resets_at=None if end is None else datetime.fromtimestamp(end, UTC),
        )

    @router.get(
        "/budgets",
        summary="The workspace's budgets and what is spent of them",
        responses=good(BudgetPage, "All of them") | problems(),
        response_class=Json,
    )
    async def list_budgets(request: Request) -> Response:
        workspace_id = context_of(request).who.workspace_id
        found = await admin().list(workspace_id)
        page = BudgetPage(items=[await view(workspace_id, budget) for budget in found])
        return Json(page.model_dump(mode="json"))

    @router.put(
        "/budgets",
        summary="Set a budget: make it, or change its limit",
        responses=good(BudgetView, "It holds for calls that begin from now on")
        | problems(body=True),
        response_class=Json,
        openapi_extra=reads(BudgetRequest),
    )
    async def put_budget(request: Request) -> Response:
        context = context_of(request)
        budget = parse_body(BudgetRequest, context.body, limits.max_json_depth).budget()
        await admin().put(context.who.workspace_id, budget)
        await _announce(admin(), context.who.workspace_id)
        return Json((await view(context.who.workspace_id, budget)).model_dump(mode="json"))

    @router.delete(
        "/budgets/{budget_id}",
        summary="Remove a budget",
        responses=good(BudgetView, "It was this") | problems(404),
        response_class=Json,
    )
    async def delete_budget(request: Request, budget_id: str) -> Response:
        workspace_id = context_of(request).who.workspace_id
        found = [b for b in await admin().list(workspace_id) if b.id == budget_id]
        if not found or not await admin().delete(workspace_id, budget_id):
            raise NotFound("There is no such budget.", {"id": budget_id[:MAX_ID]})
        await _announce(admin(), workspace_id)
        return Json((await view(workspace_id, found[0])).model_dump(mode="json"))

    @router.get(
        "/usage",
        summary="Tokens and cost by day, key and model",
        responses=good(UsagePage, "What ended calls used, a second behind at most") | problems(),
        response_class=Json,
    )
    async def usage(request: Request, query: Annotated[UsageQuery, Query()]) -> Response:
        today = datetime.fromtimestamp(gateway.clock.now(), UTC).date()
        until = query.until or today
        since = query.since or max(date.min + timedelta(30), until) - timedelta(30)
        if since > until:
            raise invalid_field("since", "must not be after until")
        if (until - since).days >= MAX_DAYS:
            raise invalid_field("since", f"at most {MAX_DAYS} days at once")
        if until == date.max:
            raise invalid_field("until", "is too late")
        rows = await admin().usage(
            context_of(request).who.workspace_id,
            since,
            until + timedelta(1),
            key_id=query.key_id,
            model=query.model,
            limit=MAX_ROWS + 1,
        )
        shown = rows[:MAX_ROWS]
        page = UsagePage(
            since=since,
            until=until,
            items=[
                UsageView(
                    day=row.day,
                    key_id=row.key_id or None,
                    model=row.model,
                    calls=row.calls,
                    prompt_tokens=row.prompt_tokens,
                    completion_tokens=row.completion_tokens,
                    cost=row.cost,
                )
                for row in shown
            ],
            total=UsageTotal(
                calls=sum(row.calls for row in shown),
                prompt_tokens=sum(row.prompt_tokens for row in shown),
                completion_tokens=sum(row.completion_tokens for row in shown),
                cost=sum(row.cost for row in shown),
            ),
            complete=len(rows) <= MAX_ROWS,
        )
        return Json(page.model_dump(mode="json"))

    return router


async def _announce(admin: BudgetAdmin, workspace_id: UUID) -> None:
    """Every process hears of it; whom the news does not reach reads the limits anew by itself."""
    try:
        await admin.announce(workspace_id)
    except Unavailable as error:
        _log.warning("budgets.not_announced", code=error.code)
