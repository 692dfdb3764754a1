"""What lies on which node: whoever holds a memory shard or a model says so, and tasks that want
it are rather given to workers beside it.

A hint with an expiry, like everything that the balancing reads: a place that is not said again
within ``STALE_S`` is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from actors.names import PLACES_KEY
from mesh.core.clock import Clock
from mesh.core.logging import get_logger

log = get_logger("places")

SAY_EVERY_S = 5.0
STALE_S = 20.0


def memory_place(shard: int) -> str:
    """Where this shard of the memory lies."""
    return f"memory:{shard}"


def model_place(model: str) -> str:
    """Where an engine serves this model."""
    return f"model:{model}"


async def say_places(
    client: redis_asyncio.Redis, places: Iterable[str], node: str, holder: str, clock: Clock
) -> None:
    """``places``: ``memory:<shard>`` or ``model:<name>``; ``holder``: who says so (two replicas of
    a model are two holders). Say it again every ``SAY_EVERY_S``. Raises RedisError."""
    said: dict[Any, Any] = {
        f"{place}|{holder}": orjson.dumps(
            {"place": place, "node": node, "at": clock.now()}
        ).decode()
        for place in places
    }
    if said:
        await client.hset(PLACES_KEY, mapping=said)


async def keep_saying(
    client: redis_asyncio.Redis,
    places: Callable[[], Iterable[str]],
    node: str,
    holder: str,
    clock: Clock,
) -> None:
    """``say_places`` again and again, until cancelled. ``places``: what is held at the moment."""
    while True:
        try:
            await say_places(client, places(), node, holder, clock)
        except (RedisError, OSError) as error:
            log.debug("places.unsaid", error=type(error).__name__)
        await clock.sleep(SAY_EVERY_S)


def read_places(raw: Mapping[Any, Any], now: float) -> tuple[dict[str, tuple[str, ...]], list[Any]]:
    """The hash as ``Snapshot.places`` has it, and the fields that are stale or no sense."""
    places: dict[str, set[str]] = {}
    stale: list[Any] = []
    for name, value in raw.items():
        try:
            said = orjson.loads(value)
            place, node, at = str(said["place"]), str(said["node"]), float(said["at"])
        except (ValueError, KeyError, TypeError):
            stale.append(name)
            continue
        if now - at > STALE_S:
            stale.append(name)
        else:
            places.setdefault(place, set()).add(node)
    return {place: tuple(sorted(nodes)) for place, nodes in sorted(places.items())}, stale
