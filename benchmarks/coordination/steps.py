"""What durability costs a step: a pipeline of steps that do nothing, through both servers.

Between the starts of two successive steps lies everything that makes one durable: its commit to
PostgreSQL under the epoch, its end and the next one's beginning appended to the stream, all synced.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

from actors.task_run import TaskRun
from benchmarks.coordination.house import CLOCK, House
from benchmarks.coordination.leases import new
from benchmarks.coordination.servers import Servers, workspaces
from mesh.agents import Pipeline, StepContext, StepResult


class _Nothing:
    name = "nothing"

    def __init__(self, step: str, began: list[float]) -> None:
        self.step = step
        self._began = began

    async def run(self, _context: StepContext) -> StepResult:
        self._began.append(time.perf_counter())
        return StepResult(output={"text": "nothing"})


async def step_overhead_ms(servers: Servers, tasks: int = 8, steps: int = 50) -> list[float]:
    """Milliseconds from the beginning of each step to that of the next."""
    seen: list[float] = []
    async with House.open(servers) as house:
        (space,) = await workspaces(house.db, 1)
        for _ in range(tasks):
            began: list[float] = []

            async def run(task_input: Any, *rest: Any, began: list[float] = began) -> Any:
                agents = [_Nothing(f"s{index}", began) for index in range(steps)]
                await Pipeline(agents).run(task_input, *rest)
                return {}

            await house.tasks.create(new(space))
            row = await house.tasks.claim(None, "bench", 600.0)
            assert row is not None
            parts = house.worker("bench", run)._parts
            await TaskRun(row, parts, CLOCK.monotonic() + 600.0).run()
            seen += [(b - a) * 1e3 for a, b in pairwise(began)]
    return seen
