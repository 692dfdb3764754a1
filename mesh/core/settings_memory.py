"""Settings of the memory: its hosts, how they search, and what they do in the background."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mesh.core.settings_section import ShardedSection


class MemorySettings(ShardedSection):
    hosts: int = Field(default=2, ge=0, le=64)
    """Processes that own the shards; each takes over another's within seconds. 0: nothing is
    remembered, and what was is read from the database."""
    threads: int = Field(default=2, ge=1, le=64)
    """That search at once in one host."""
    exact_up_to: int = Field(default=20_000, ge=1_000)
    """Vectors of a namespace up to which every search looks at all of them; above, a sketch says
    which."""
    max_text_chars: int = Field(default=8_000, ge=100, le=8_000)
    max_items_per_namespace: int = Field(default=2_000_000, ge=1)
    queue_limit: int = Field(default=4_096, ge=16)
    """Writes that wait in one host; more are refused."""
    idle_s: float = Field(default=900.0, gt=1)
    """A namespace that nobody used for so long leaves the host's memory."""
    snapshot_changes: int = Field(default=5_000, ge=1)
    """A namespace's snapshot is made anew after so many changes (and before it leaves memory)."""
    pass_s: float = Field(default=30.0, gt=0.1)
    """Between two passes that expire, consolidate and snapshot."""
    consolidate: bool = True
    """False: near duplicates are merged on demand alone."""
    snapshots: Path | None = None
    """Where snapshots lie; unset: ``home/data/memory``."""
    fallback_items: int = Field(default=5_000, ge=100)
    """Memories of a namespace, the newest, that are searched while its owner is away."""
