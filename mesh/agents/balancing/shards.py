"""Which coordinator shard looks after which workspaces.

Rendezvous hashing (Thaler and Ravishankar 1998): every bucket of workspaces goes to the living
shard with the highest hash of both. When a shard dies its buckets alone move, spread over the
rest; when it comes back it gets the same ones again. Two shards may for a moment both think a
bucket theirs: what they do to it is safe to do twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from uuid import UUID

from mesh.storage.task_rows import BUCKETS, bucket_of


@lru_cache(maxsize=4096)
def _weight(bucket: int, shard: int) -> bytes:
    return hashlib.blake2b(f"{bucket}/{shard}".encode(), digest_size=8).digest()


def shard_of_bucket(bucket: int, shards: Iterable[int]) -> int:
    """Raises ValueError when there is no shard."""
    return max(shards, key=lambda shard: (_weight(bucket, shard), shard))


def shard_of(workspace_id: UUID, shards: Iterable[int]) -> int:
    """The shard that looks after this workspace while all of these live."""
    return shard_of_bucket(bucket_of(workspace_id), shards)


def buckets_of(shard: int, living: Iterable[int]) -> frozenset[int]:
    """What falls to this shard while these live (itself always does)."""
    shards = sorted({shard, *living})
    return frozenset(b for b in range(BUCKETS) if shard_of_bucket(b, shards) == shard)
