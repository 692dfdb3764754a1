"""What every section of the settings has in common."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Closed, frozen, its defaults checked like given values; docstrings describe the fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class LeasedSection(Section):
    """Of parts that own something by a lease: what a lost owner costs, and how often it is said
    that one lives."""

    lease_s: float = Field(default=2.0, gt=0.2)
    heartbeat_s: float = Field(default=0.4, gt=0.05)

    @model_validator(mode="after")
    def _heartbeats_fit_the_lease(self) -> Self:
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError("heartbeat_s must be at most half of lease_s")
        return self


class ShardedSection(LeasedSection):
    """A part whose hosts own shards."""

    settle_s: float = Field(default=5.0, ge=0, le=600)
    """A host must have lived for so long before others hand over to it what they hold."""
