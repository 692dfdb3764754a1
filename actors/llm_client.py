"""The models as a process of ours calls them: routes over the engines' deployments.

``open_models`` builds the stack of layers; each speaks ``mesh.llm.client.ModelClient``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from actors.context import ProcessContext
from actors.llm_backend import ServeEmbedder, ServeEngine
from actors.model_layers import with_layers
from actors.names import engine_app, engine_deployment
from actors.near_engine import NearEngine, near_engine
from mesh.agents.ledger import collecting, note_call
from mesh.core.settings import EngineSettings, LLMSettings
from mesh.llm.client import ModelClient
from mesh.llm.routing import RoutedClient, RoutingOptions, Target
from mesh.llm.routing.client import EMBEDDER
from mesh.llm.routing.request import speaks_against
from mesh.llm.routing.target import PrefixStyle
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.hedging import HedgeOptions
from mesh.resilience.shared_breakers import SharedBreakers


async def open_models(context: ProcessContext) -> ModelClient:
    """The models as a gateway or a worker calls them. What it opens closes with ``context``."""
    return open_stack(context)[0]


def open_stack(context: ProcessContext) -> tuple[ModelClient, RoutedClient]:
    """The same, and its innermost layer for whoever wants to look at the engines."""
    router = open_router(context)
    return with_layers(context, router), router


def open_router(context: ProcessContext) -> RoutedClient:
    """The innermost layer: it finds an engine. Closes with ``context``."""
    llm = context.settings.llm
    options = routing_options(llm)
    breakers = SharedBreakers(
        (*llm.engine_table(), EMBEDDER),
        options.breaker,
        context.redis,
        clock=context.clock,
        is_failure=speaks_against,
    )
    table = routes(llm)
    backends = {target.backend for chain in table.values() for target in chain}
    for backend in backends:
        if isinstance(backend, NearEngine):
            context.closing.push_async_callback(backend.aclose)
    router = RoutedClient(
        table,
        default=llm.model,
        embed=ServeEmbedder(),
        options=options,
        breakers=breakers,
        note=note_call,
        noting=collecting,
        clock=context.clock,
    )
    context.closing.push_async_callback(router.aclose)
    breakers.start()
    return router


def routes(llm: LLMSettings) -> Mapping[str, tuple[Target, ...]]:
    """Every name for ``model`` → its engines."""
    engines = llm.engine_table()
    targets = {name: target_of(name, engine, llm.sockets) for name, engine in engines.items()}

    def named(route: str, name: str) -> Target:
        # An adapter is another model of the same engine, behind the same breaker.
        adapter = route in engines[name].vllm.adapters
        return replace(targets[name], model=route) if adapter else targets[name]

    return {
        route: tuple(named(route, name) for name in chain)
        for route, chain in llm.route_table().items()
    }


def target_of(name: str, engine: EngineSettings, sockets: Path | None = None) -> Target:
    """An engine of the settings as the router sees it: by the short way where there is one."""
    served = serve_engine(name, engine)
    return Target(
        name=name,
        backend=served if sockets is None else near_engine(name, engine, served, sockets),
        model=engine.model,
        context_tokens=engine.context_tokens,
        replicas=engine.replicas,
        prefix=_prefix_style(engine),
    )


def serve_engine(name: str, engine: EngineSettings) -> ServeEngine:
    """The deployment of an engine."""
    return ServeEngine(engine_deployment(name), engine_app(name, engine.kind))


def serve_engines(llm: LLMSettings) -> list[ServeEngine]:
    """Every engine's deployment, the default one first."""
    return [serve_engine(name, engine) for name, engine in llm.engine_table().items()]


def _prefix_style(engine: EngineSettings) -> PrefixStyle:
    if engine.prefix != "auto":
        return engine.prefix
    return "prefill" if engine.kind in ("llama.cpp", "fake") else "continue_final_message"


def routing_options(llm: LLMSettings) -> RoutingOptions:
    """What the settings say, in the router's terms."""
    return RoutingOptions(
        connect_s=llm.connect_timeout_s,
        first_token_s=llm.first_token_timeout_s,
        between_tokens_s=llm.between_tokens_timeout_s,
        retries=llm.retries,
        retry_ratio=llm.retry_budget,
        away_s=llm.away_s,
        breaker=BreakerOptions(
            failures=llm.breaker_failures,
            window=llm.breaker_window,
            min_calls=max(1, min(10, llm.breaker_window)),
            failure_ratio=llm.breaker_ratio,
            open_s=llm.breaker_open_s,
            open_max_s=llm.breaker_open_max_s,
            probes=llm.breaker_probes,
        ),
        hedge=HedgeOptions(
            budget=llm.hedge_budget, quantile=llm.hedge_quantile, min_s=llm.hedge_min_s
        ),
    )
