"""What a flood does to others: one workspace's latencies while another sends 20 times its share.

Two workers, two coordinator shards, tasks that take a fixed time in a slot. The victim sends
at random moments, well within its share; the other sends its share first, then twenty times as
much (what its queue has no room for is refused, and costs what refusing costs). Compared are the
victim's p95 from accepted to ended, by the database's clock.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from benchmarks.coordination.house import CLOCK, House
from benchmarks.coordination.leases import new
from benchmarks.coordination.servers import Servers, workspaces
from benchmarks.report import percentile
from mesh.core.errors import Overloaded

WORKERS = 2
SLOTS = 8
QUEUE_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Fairness:
    """p95 in seconds of the victim's tasks."""

    calm_p95_s: float
    flooded_p95_s: float
    samples: int
    """Of the victim, in each phase."""
    flood_sent: int
    flood_refused: int

    @property
    def moved(self) -> float:
        """Share by which the flood moved the victim's p95."""
        return self.flooded_p95_s / self.calm_p95_s - 1.0


async def measure_fairness(
    servers: Servers, phase_s: float = 20.0, task_s: float = 0.5, factor: float = 20.0
) -> Fairness:
    rng = random.Random(7)
    capacity = WORKERS * SLOTS / task_s
    share = capacity / 2

    async def work(*_: Any) -> Any:
        await asyncio.sleep(task_s)
        return {}

    async with House.open(servers) as house:
        shards = [house.coordinator(shard, 2) for shard in range(2)]
        workers = [house.worker(f"agent-worker-{i}", work, SLOTS) for i in range(WORKERS)]
        victim, other = await workspaces(house.db, 2)
        async with house.running(*shards, *workers):
            phases = []
            for rate in (share, share * factor):
                began = CLOCK.now()
                sent: list[int] = [0, 0]
                await asyncio.gather(
                    _send(house, victim, share * 0.4, phase_s, rng, [0, 0]),
                    _send(house, other, rate, phase_s, rng, sent),
                )
                latencies = await _latencies(house, victim, began + 1.0)
                phases.append((latencies, sent))
                await _clear(house, other)
    (calm, _), (flooded, flood) = phases
    return Fairness(
        percentile(calm, 0.95),
        percentile(flooded, 0.95),
        min(len(calm), len(flooded)),
        flood[0],
        flood[1],
    )


async def _send(
    house: House, space: UUID, rate: float, seconds: float, rng: random.Random, sent: list[int]
) -> None:
    """``sent``: how many were sent, and refused."""
    until = time.monotonic() + seconds
    at = time.monotonic()
    pending: set[asyncio.Task[None]] = set()

    async def one() -> None:
        sent[0] += 1
        try:
            await house.tasks.create(new(space), queue_limit=QUEUE_LIMIT)
        except Overloaded:
            sent[1] += 1
            return
        await nudge()

    nudge: Callable[[], Awaitable[Any]] = lambda: house.redis.publish(  # noqa: E731
        "maily:tasks", str(UUID(int=0))
    )
    while at < until:
        at += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        task = asyncio.create_task(one())
        pending.add(task)
        task.add_done_callback(pending.discard)
        if len(pending) > 64:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        await asyncio.wait(pending)


async def _latencies(house: House, space: UUID, since: float) -> list[float]:
    """Of the victim's tasks that were accepted since then, once all have ended."""
    async with asyncio.timeout(60.0):
        while True:
            rows = await house.db.fetch(
                "SELECT created_at, finished_at FROM tasks WHERE workspace_id = $1"
                " ORDER BY created_at",
                space,
            )
            if all(row["finished_at"] is not None for row in rows):
                break
            await asyncio.sleep(0.2)
    return [
        (row["finished_at"] - row["created_at"]).total_seconds()
        for row in rows
        if row["created_at"].timestamp() > since
    ]


async def _clear(house: House, space: UUID) -> None:
    """What still waits of the flood goes, so that the next phase begins with empty queues."""
    await house.db.fetch(
        "DELETE FROM tasks WHERE workspace_id = $1 AND state = 'queued' RETURNING id", space
    )
