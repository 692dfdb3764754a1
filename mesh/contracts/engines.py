"""The engines behind the routes, as operators see them."""

from __future__ import annotations

from pydantic import Field

from mesh.contracts.base import Contract

VERSION = 1


class BreakerView(Contract):
    """Of the process that answers; processes tell each other when theirs open and close."""

    state: str = Field(description="closed, open or half_open")
    in_a_row: int = Field(description="Failures since the last call that went well")
    failures: int
    opened: int = Field(description="Times that it opened by itself")
    retry_after_s: float = Field(description="Until the next probe; 0 unless open")


class EngineView(Contract):
    """One engine. ``figures`` are those of each replica that answered just now."""

    name: str
    kind: str
    model: str
    routes: list[str] = Field(description="Names for `model` that lead here, as first or later")
    context_tokens: int
    replicas: int
    breaker: BreakerView
    calls: dict[str, int] = Field(description="Calls of this process: ok, failed, cancelled")
    hedges: int
    retries: int
    figures: list[dict[str, int | float]]


class EngineList(Contract):
    data: list[EngineView]


class FaultsRequest(Contract):
    """Body of ``PUT /v1/mesh/engines/{engine}/faults``: what goes wrong from now on, until it is
    put again or a replica restarts. Fields that are missing: nothing of that kind."""

    refuse_first: int = Field(default=0, ge=0, description="Requests that get 503 (queue full)")
    limit_first: int = Field(default=0, ge=0, description="Requests that get 429")
    fail_first: int = Field(default=0, ge=0, description="Requests that fail at once")
    die_at_token: int | None = Field(default=None, ge=1)
    hang_at_token: int | None = Field(default=None, ge=1)
    malformed_at_token: int | None = Field(default=None, ge=1)
    first_token_delay_s: float = Field(default=0.0, ge=0, le=3_600)
    token_delay_s: float = Field(default=0.0, ge=0, le=3_600)
    every: int = Field(default=1, ge=1, description="Each so manyth stream alone")
    unavailable: bool = False


class FaultsAnswer(Contract):
    engine: str
    replicas: int = Field(description="That have been told")
