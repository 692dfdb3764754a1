"""Seconds from a worker's death to the next claim of its task, by heartbeats and leases alone.

The worker falls silent as a killed process does: nothing is given back, nobody is told. The
leases are as long as the runtime's, so they end later than what is measured.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from uuid import UUID

from actors.worker_loop import WorkerLoop
from benchmarks.coordination.house import House
from benchmarks.coordination.leases import new
from benchmarks.coordination.servers import Servers, workspaces


async def recoveries_s(servers: Servers, kills: int = 5, seed: int = 1) -> list[float]:
    """One figure per kill, each at a random moment of the victim's rhythm."""
    rng = random.Random(seed)

    async def forever(*_: Any) -> Any:
        await asyncio.Event().wait()

    async with House.open(servers) as house:
        (space,) = await workspaces(house.db, 1)
        shards = [house.coordinator(shard, 2) for shard in range(2)]
        rows, victims = [], []
        for number in range(kills):
            rows.append((await house.tasks.create(new(space)))[0])
            victims.append(house.worker(f"victim-{number}", forever, slots=1))
        loops = [asyncio.create_task(victim.run()) for victim in victims]
        while any(victim.statistics()["active"] < 1 for victim in victims):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        heir = house.worker("heir", forever, slots=kills)
        seen = []
        async with house.running(*shards, heir):
            await asyncio.sleep(1.0)
            for victim, loop in zip(victims, loops, strict=True):
                await asyncio.sleep(rng.random())
                held = next(iter(victim._runs))
                began = time.monotonic()
                await _kill(house, victim, loop)
                await _claimed_again(house, held)
                seen.append(time.monotonic() - began)
        for row in rows:
            await house.tasks.request_cancel(row.id, space)
    return seen


async def _kill(house: House, victim: WorkerLoop, loop: asyncio.Task[None]) -> None:
    """As ``kill -9`` does it: without a goodbye."""

    async def nothing() -> None: ...

    house.deaf.add(victim.name)
    victim._give_back = nothing  # type: ignore[method-assign]
    loop.cancel()
    for task in victim._tasks:
        task.cancel()
    await asyncio.gather(loop, *victim._tasks, return_exceptions=True)


async def _claimed_again(house: House, task_id: UUID) -> None:
    async with asyncio.timeout(30.0):
        while len(await house.tasks.attempts(task_id)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
