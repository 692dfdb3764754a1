"""Where batches lie: their shard (who owns them) and their bucket (where their salts are)."""

from __future__ import annotations

from typing import Literal
from uuid import UUID, uuid5

from mesh.core.ring import Ring

SHARDS = 16
BUCKETS = 16
"""Partitions of the table of salts: each is rewritten whole when a salt in it is erased."""

RING = Ring("trust", SHARDS)
ANCHORING = "trust:anchoring"
"""Lease of the one host that speaks to the networks and tells what changed."""

Kind = Literal["campaign", "rolling", "revocations"]


def shard_of(batch: UUID) -> int:
    """Of a campaign by its own id; of what a workspace has one of, by the workspace's."""
    return batch.int % SHARDS


def bucket_of(batch: UUID) -> int:
    return (batch.int >> 64) % BUCKETS


def named_batch(workspace: UUID, key: str) -> UUID:
    """The id of the batch that a caller calls ``key``: the same each time it is asked for."""
    return uuid5(workspace, f"trust/{key}")
