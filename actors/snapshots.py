"""Read what the coordinator shards have published."""

from __future__ import annotations

import redis.asyncio as redis_asyncio
from pydantic import ValidationError

from actors.names import snapshot_key
from mesh.contracts.mesh import Snapshot


async def read_snapshots(client: redis_asyncio.Redis, shards: int) -> dict[int, Snapshot]:
    """The newest snapshot of each shard that lives, in one round trip.

    One that this release can't read counts as none. Raises RedisError and OSError.
    """
    raw = await client.mget([snapshot_key(shard) for shard in range(shards)])
    found = {}
    for shard, text in enumerate(raw):
        if text is not None:
            try:
                found[shard] = Snapshot.model_validate_json(text)
            except ValidationError:
                continue
    return found


def newest(snapshots: dict[int, Snapshot]) -> Snapshot | None:
    """The one that was taken last; None: no shard publishes."""
    return max(snapshots.values(), key=lambda snapshot: snapshot.at, default=None)
