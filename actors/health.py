"""How the actors are: for ``/readyz`` and ``maily status``.

``check_actors`` asks each of them (a few milliseconds, needs Ray). ``check_snapshot`` reads only
what the coordinator has published (one Valkey round trip), for whoever asks often.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from actors.lookup import describe, find_actor
from actors.names import NAMESPACE, coordinator, worker
from mesh.contracts.mesh import Snapshot


@dataclass(frozen=True, slots=True)
class PartHealth:
    """One part. ``reason``: why it is not healthy, None when it is."""

    name: str
    healthy: bool
    reason: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


async def check_actors(
    workers: int, *, coordinators: int = 2, timeout_s: float = 2.0, namespace: str = NAMESPACE
) -> list[PartHealth]:
    """So many coordinator shards and workers, each asked at once. Never raises, never takes much
    longer than ``timeout_s``."""
    names = [
        *(coordinator(shard) for shard in range(coordinators)),
        *(worker(index) for index in range(workers)),
    ]
    return list(
        await asyncio.gather(
            *(check_actor(name, timeout_s=timeout_s, namespace=namespace) for name in names)
        )
    )


async def check_actor(
    name: str, *, timeout_s: float = 2.0, namespace: str = NAMESPACE
) -> PartHealth:
    """One named actor. Never raises."""
    if not ray.is_initialized():
        return PartHealth(name, False, "this process is not connected to Ray")
    try:
        async with asyncio.timeout(timeout_s):
            handle = await find_actor(name, namespace)
    except TimeoutError:
        return PartHealth(name, False, f"Ray did not answer within {timeout_s:g} s")
    except (RayError, RuntimeError) as error:
        return PartHealth(name, False, f"Ray can't be asked ({type(error).__name__})")
    if handle is None:
        return PartHealth(name, False, "there is no such actor")
    info = await describe(handle, timeout_s)
    said = ("pid", "incarnation", "statistics")
    details: dict[str, Any] = {key: info[key] for key in said if key in info}
    return PartHealth(name, bool(info.get("healthy")), info.get("reason"), details)


def check_snapshot(
    snapshot: Snapshot | None, workers: int, now: float, *, oldest_s: float = 3.0
) -> list[PartHealth]:
    """The same parts, as far as the newest snapshot tells. ``now``: Unix seconds."""
    if snapshot is None:
        return [PartHealth("coordinator", False, "no shard has published a snapshot lately")]
    found = {info.name: info for info in snapshot.workers}
    parts = [PartHealth("coordinator", True, details={"version": snapshot.version})]
    for index in range(workers):
        name = worker(index)
        info = found.get(name)
        if info is None:
            parts.append(PartHealth(name, False, "the coordinator does not hear it"))
            continue
        age = now - info.heartbeat_at
        healthy = age <= oldest_s
        reason = None if healthy else f"its last heartbeat is {age:.1f} s old"
        details = {"active": info.active, "slots": info.slots, "draining": info.draining}
        parts.append(PartHealth(name, healthy, reason, details))
    return parts
