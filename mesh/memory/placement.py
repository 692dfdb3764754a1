"""Which shard a namespace lies in, and which host should own a shard.

The number of shards is fixed for ever: it is part of every row. Hosts come and go; rendezvous
hashing moves only the shards of the host that came or went.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from uuid import UUID

SHARDS = 64
BUCKETS = 16
"""Partitions of the table of keys: each is rewritten whole when a key in it is erased."""

SHARD_KEY_PREFIX = "memory-shard/"
"""Of the shards' rows in ``leases``."""
HOST_KEY_PREFIX = "memory-host/"
"""Of the hosts' own rows in ``leases``: who is alive."""


def shard_of(namespace: UUID) -> int:
    """``namespace``: its blind id (``Vault.namespace_id``)."""
    return namespace.int % SHARDS


def bucket_of(shard: int) -> int:
    return shard % BUCKETS


def shard_key(shard: int) -> str:
    return f"{SHARD_KEY_PREFIX}{shard}"


def host_key(name: str) -> str:
    return f"{HOST_KEY_PREFIX}{name}"


def owner_of(shard: int, hosts: Iterable[str]) -> str | None:
    """The host that should own it; None: there is none."""
    return max(hosts, key=lambda host: (_weight(shard, host), host), default=None)


def shards_of(host: str, hosts: Iterable[str]) -> frozenset[int]:
    """What this host should own among those alive."""
    alive = list(hosts)
    return frozenset(shard for shard in range(SHARDS) if owner_of(shard, alive) == host)


def _weight(shard: int, host: str) -> bytes:
    return hashlib.blake2b(f"{shard}/{host}".encode(), digest_size=8).digest()
