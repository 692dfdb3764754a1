"""The layers over the router that every process of ours calls its models through.

From outside in: metering (budgets, the ledger of usage) → caching (only where a route is opted
in) → tracing (one span for each call that an engine is asked) → routing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from actors.context import ProcessContext
from mesh.agents.ledger import note_cost
from mesh.core.logging import get_logger
from mesh.core.settings import LLMSettings
from mesh.llm.budgets.client import MeteredClient
from mesh.llm.budgets.limits import Price
from mesh.llm.budgets.meter import Meter
from mesh.llm.budgets.valkey import ValkeyCounters
from mesh.llm.budgets.watch import hear_changes
from mesh.llm.cache.client import CachedClient
from mesh.llm.cache.store import PURPOSE, CacheStore
from mesh.llm.client import ModelClient
from mesh.llm.traced import TracedClient
from mesh.security.sealing import Sealer
from mesh.storage.budgets import BudgetRepository

_log = get_logger("models")


def with_layers(context: ProcessContext, router: ModelClient) -> ModelClient:
    """The router with its layers around it; they close with ``context``."""
    llm = context.settings.llm
    meter = Meter(BudgetRepository(context.db), ValkeyCounters(context.redis), context.clock)
    _beside(context, meter.run(), "budgets")
    _beside(context, hear_changes(context.redis, meter, context.clock), "budgets-changed")
    return MeteredClient(
        _cached(context, TracedClient(router)),
        meter,
        context.clock,
        embedding_model=llm.embedding_model,
        prices={name: Price(price.prompt, price.completion) for name, price in llm.prices.items()},
        context_tokens=context_tokens(llm),
        bytes_per_token=llm.bytes_per_token,
        note_cost=note_cost,
    )


def _cached(context: ProcessContext, inner: ModelClient) -> ModelClient:
    llm, secret = context.settings.llm, context.settings.security.secret
    if not llm.cache:
        return inner
    if secret is None:
        _log.warning("cache.off", why="security.secret is not set for this process")
        return inner
    store = CacheStore(context.redis, Sealer(secret.get_secret_value().encode(), PURPOSE))
    return CachedClient(inner, store, llm.cache, context.clock)


def context_tokens(llm: LLMSettings) -> dict[str, int]:
    """Tokens that an answer of each route (its widest engine's) has at most, with its prompt."""
    engines = llm.engine_table()
    return {
        route: max(engines[name].context_tokens for name in chain)
        for route, chain in llm.route_table().items()
    }


def _beside(context: ProcessContext, work: Coroutine[Any, Any, None], name: str) -> None:
    task = asyncio.create_task(work, name=name)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    context.closing.push_async_callback(end)
