"""Durable tasks per second that do nothing: claimed, run, ended and announced by one worker.

The peer is Procrastinate, a durable task queue on PostgreSQL, with the same server, concurrency
and number of no-op jobs; in an environment of its own, made when it is first wanted. Its jobs have
no steps, no stream and no shares.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.coordination.house import House
from benchmarks.coordination.leases import new
from benchmarks.coordination.servers import Servers, workspaces

PEER = Path(__file__).resolve().parents[2] / ".cache" / "peers" / "procrastinate"
CONCURRENCY = 16

_PEER_SCRIPT = """
import asyncio, logging, sys, time
import procrastinate
logging.disable(logging.CRITICAL)
url, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, max_size=16))

@app.task(name="nothing")
async def nothing():
    pass

async def main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        begin = time.perf_counter()
        await nothing.batch_defer_async(*({} for _ in range(count)))
        deferred = time.perf_counter() - begin
        begin = time.perf_counter()
        await app.run_worker_async(wait=False, concurrency=concurrency, listen_notify=False,
                                   install_signal_handlers=False)
        print(count / (time.perf_counter() - begin))

asyncio.run(main())
"""


async def tasks_per_s(servers: Servers, tasks: int = 1_500) -> float:
    async def nothing(*_: Any) -> Any:
        return {}

    async with House.open(servers) as house:
        (space,) = await workspaces(house.db, 1)
        numbers = iter(range(tasks))

        async def create() -> None:
            for _ in numbers:
                await house.tasks.create(new(space))

        await asyncio.gather(*(create() for _ in range(8)))
        worker = house.worker("agent-worker-0", nothing, slots=CONCURRENCY)
        begin = time.perf_counter()
        async with house.running(worker):
            while worker.statistics()["ended"] < tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            seconds = time.perf_counter() - begin
    return tasks / seconds


def install_peer() -> Path:
    """Its interpreter. Raises CalledProcessError when it can't be had."""
    python = PEER / "bin" / "python"
    if not (PEER / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        packages = ["procrastinate==3.10.0", "psycopg[binary,pool]"]
        subprocess.run([str(python), "-m", "pip", "-q", "install", *packages], check=True)
        (PEER / "ready").touch()
    return python


def peer_tasks_per_s(postgres_url: str, tasks: int = 1_500) -> float:
    """Call it in a thread."""
    python = install_peer()
    done = subprocess.run(
        [str(python), "-c", _PEER_SCRIPT, postgres_url, str(tasks), str(CONCURRENCY)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return float(done.stdout.split()[-1])
