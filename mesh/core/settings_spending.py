"""Settings of what answers cost and which of them may be given again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.core.settings_section import Section


class PriceSettings(Section):
    """Of one model, in units of your currency per million tokens."""

    prompt: float = Field(default=0.0, ge=0, le=1_000_000)
    completion: float = Field(default=0.0, ge=0, le=1_000_000)


class CacheSettings(Section):
    """Of one route (or model) in ``llm.cache``: a route without an entry caches nothing."""

    mode: Literal["exact", "semantic"] = "exact"
    """exact: the same request gets the same answer. semantic: so does one that means the same."""
    ttl_s: int = Field(default=3_600, ge=1, le=2_592_000)
    """How long an answer is given again."""
    max_temperature: float = Field(default=0.0, ge=0, le=2)
    """Answers of a higher temperature are kept only when the request has a seed."""
    similarity: float = Field(default=0.95, ge=0.5, le=1)
    """Cosine of the two questions' embeddings, at least; for ``semantic``."""
    max_entries: int = Field(default=1_000, ge=1, le=1_000_000)
    """Answers kept of one workspace; the oldest go first."""
    max_bytes: int = Field(default=65_536, ge=1_024, le=4_194_304)
    """A longer answer is not kept."""
