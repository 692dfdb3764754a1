"""Networks that keep roots of batches, and how far a root is on each."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from mesh.contracts.base import Contract

VERSION = 1

NetworkName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class AnchorState(StrEnum):
    """How far a root is on one network."""

    WAITING = "waiting"
    """No transaction yet: its turn, the breaker, the budget or the fee has to come."""
    SUBMITTED = "submitted"
    CONFIRMED = "confirmed"
    FINAL = "final"
    ORPHANED = "orphaned"
    FAILED = "failed"
    """This network will not have it; ``reason`` says why."""


class AnchorView(Contract):
    """A root on one network."""

    network: str
    chain_id: int
    state: AnchorState
    tx: str | None = None
    """Hash of the transaction, ``0x`` and 64 hex digits."""
    block_number: int | None = None
    block_hash: str | None = None
    confirmations: int = 0
    """Blocks that have been seen on it, its own included."""
    gas_used: int | None = None
    fee_wei: int | None = None
    at: datetime | None = None
    """Of the last change."""
    reason: str | None = None
    """Why it waits or failed."""


class NetworkView(Contract):
    """How a network is doing."""

    name: str
    chain_id: int
    healthy: bool
    breaker: Literal["closed", "open", "half-open"] = "closed"
    head: int | None = None
    """Number of the newest block; None: not known."""
    finalized: int | None = None
    contract: str | None = None
    method: Literal["event", "calldata"] = "event"
    account: str | None = None
    """Whose balance pays."""
    balance_wei: int | None = None
    spent_today_wei: int = 0
    budget_wei: int = 0
    pending: int = 0
    """Roots on their way."""
    oldest_pending_s: float | None = None
    alarms: list[str] = Field(default_factory=list)
    statistics: dict[str, Any] = Field(default_factory=dict)


class NetworksView(Contract):
    """In order of preference."""

    networks: list[NetworkView]
    needed: int
    """How many of them make a root final."""
