"""Milliseconds from a cancel's commit to the cancellation inside the running work.

The way is the runtime's: the row is marked, a nudge goes over Valkey, the worker asks the database
with its next renewal (at once), and the work is cancelled wherever it waits, in a unary model call
too.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

from actors.dispatch import Dispatcher
from benchmarks.coordination.house import House
from benchmarks.coordination.leases import new
from benchmarks.coordination.servers import Servers, workspaces


async def cancel_ms(servers: Servers, tasks: int = 40) -> list[float]:
    """One figure per task, one after the other."""
    reached: dict[UUID, float] = {}
    runs: set[UUID] = set()

    async def hangs(task_input: Any, *_: Any) -> Any:
        runs.add(task_input.task_id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            reached[task_input.task_id] = time.perf_counter()
            raise

    seen = []
    async with House.open(servers) as house:
        (space,) = await workspaces(house.db, 1)
        worker = house.worker("agent-worker-0", hangs, slots=tasks)
        dispatcher = Dispatcher(house.redis, shards=1)
        async with house.running(worker):
            rows = [(await house.tasks.create(new(space)))[0] for _ in range(tasks)]
            while len(runs) < tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            for row in rows:
                await house.tasks.request_cancel(row.id, space)
                began = time.perf_counter()
                await dispatcher.cancel(row.id)
                async with asyncio.timeout(5.0):
                    while row.id not in reached:  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                seen.append((reached[row.id] - began) * 1e3)
    return seen
