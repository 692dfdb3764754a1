"""Which shard a namespace lies in, and which host should own a shard.

The number of shards is fixed for ever: it is part of every row.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from mesh.core.ring import Ring

SHARDS = 64
BUCKETS = 16
"""Partitions of the table of keys: each is rewritten whole when a key in it is erased."""

RING = Ring("memory", SHARDS)


def shard_of(namespace: UUID) -> int:
    """``namespace``: its blind id (``Vault.namespace_id``)."""
    return namespace.int % SHARDS


def bucket_of(shard: int) -> int:
    return shard % BUCKETS


def owner_of(shard: int, hosts: Iterable[str]) -> str | None:
    """The host that should own it; None: there is none."""
    return RING.owner_of(shard, hosts)


def shards_of(host: str, hosts: Iterable[str]) -> frozenset[int]:
    """What this host should own among those alive."""
    return RING.shards_of(host, hosts)
