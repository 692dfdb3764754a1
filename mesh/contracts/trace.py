"""What a step asked the models and what it read: the records that explain a task afterwards.

A record never holds what was read, only where it is (``ref``): a memory that is forgotten later
is gone from the trace, too.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from mesh.contracts.base import Contract

VERSION = 1


class TryKind(StrEnum):
    """Why an engine was asked."""

    FIRST = "first"
    RETRY = "retry"
    FALLBACK = "fallback"
    HEDGE = "hedge"
    RESUME = "resume"
    """The answer broke off and was continued by its prefix."""


class CallTry(Contract):
    """One engine that was asked for one call."""

    engine: str
    kind: TryKind = TryKind.FIRST
    outcome: Literal["ok", "failed", "cancelled"] = "ok"
    error: str = Field(default="", description="Code of the error, where it failed")
    seconds: float = Field(default=0.0, ge=0)
    ttft_s: float | None = Field(default=None, ge=0, description="Seconds to the first token")


class CallRecord(Contract):
    """One call of a model, as the step that made it sees it."""

    operation: Literal["chat", "completion", "embeddings"] = "chat"
    requested: str = Field(default="", description="Route or model that was asked for")
    route: str = ""
    engine: str = Field(default="", description="Which one answered; empty: none did")
    model: str = Field(default="", description="Which model answered")
    outcome: Literal["ok", "failed", "cancelled", "cached"] = "ok"
    error: str = Field(default="", description="Code of the error, where it failed")
    started_at: datetime
    seconds: float = Field(default=0.0, ge=0)
    ttft_s: float | None = Field(default=None, ge=0, description="Seconds to the first token")
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    cost_micros: int | None = Field(
        default=None, ge=0, description="Millionths of the budgets' currency; null: no price known"
    )
    finish_reason: str = ""
    tries: list[CallTry] = Field(default_factory=list)
    folded: int = Field(default=1, ge=1, description="Calls that this record stands for")


class ReadKind(StrEnum):
    """What a step can read."""

    MEMORY = "memory"
    """``ref`` is the item's id."""
    TOOL = "tool"
    """``ref`` is the tool's name; what it gave is the step's own to keep."""
    STEP = "step"
    """``ref`` is the name of an earlier step."""


class ReadRecord(Contract):
    """One thing that a step read. ``label`` says what for, never what it said."""

    kind: ReadKind
    ref: str = Field(max_length=200)
    label: str = Field(default="", max_length=200)
    outcome: Literal["ok", "failed", "refused"] = "ok"
    error: str = ""
    score: float | None = None
    seconds: float | None = Field(default=None, ge=0)
    at: datetime | None = None
    details: dict[str, Any] = Field(default_factory=dict, description="Small and never personal")
    folded: int = Field(default=1, ge=1, description="Reads that this record stands for")
