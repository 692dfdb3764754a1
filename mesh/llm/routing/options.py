"""How patiently engines are called."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.hedging import HedgeOptions


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """Every wait is capped by the caller's deadline as well."""

    connect_s: float = 10.0
    """Until an engine has taken the request; it may queue there for as long as the deadline
    lets it."""
    first_token_s: float = 60.0
    """From a slot, or the last report of progress, to the first token."""
    between_tokens_s: float = 30.0
    """Silence in the middle of an answer."""
    retries: int = 1
    """Further calls of one engine before the next is asked."""
    retry_ratio: float = 0.1
    """Retries as a share of an engine's calls …"""
    retry_reserve: float = 10.0
    """… and so many to begin with."""
    pause_s: float = 0.05
    """The longest pause before the first retry; doubles with each, random below that."""
    pause_max_s: float = 1.0
    away_s: float = 15.0
    """How long a request whose whole route is away waits for it."""
    cool_max_s: float = 30.0
    """An engine that says "too many requests" is passed over for as long as it asks, at most."""
    resumes: int = 4
    """Times that one answer may be gone on with elsewhere."""
    journal_bytes: int = 2_097_152
    """Of one answer; a longer one can't be gone on with when it breaks off."""
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    hedge: HedgeOptions = field(default_factory=HedgeOptions)
