"""How much memory the parts of a running instance take, watched while something goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.instance import Instance

KINDS = {
    "trust host": ("ray::TrustHost",),
    "gateway": ("ray::ServeReplica:gateway", "ray::ProxyActor", "haproxy"),
    "EVM node": ("anvil",),
    "PostgreSQL": ("postgres",),
    "Valkey": ("valkey-server",),
}
"""By the beginning of a process's title; else ``Ray tasks`` and ``the rest``."""
TASKS, REST, ALL = "Ray tasks", "the rest", "all"
_OTHERS = ("ray::Serve", "ray::IDLE", "ray::Agent", "ray::Coordinator", "ray::Memory", "ray::Proxy")
EVERY_S = 1.0


@dataclass(slots=True)
class Watch:
    """Peaks in megabytes (10⁶ bytes) of proportional memory: what processes share counts once."""

    peaks: dict[str, float] = field(default_factory=dict)
    resident: dict[str, float] = field(default_factory=dict)
    """Of each kind, the most that one process ever had resident, as the kernel noted it: that
    misses nothing between two samples."""
    samples: int = 0

    def look(self, instance: Instance) -> None:
        now: dict[str, float] = {}
        for process in [psutil.Process(instance.supervisor), *instance.processes()]:
            with contextlib.suppress(psutil.Error, IndexError):
                title = (process.cmdline() or [process.name()])[0]
                kind = kind_of(title.split()[0].rsplit("/", 1)[-1])
                size = process.memory_full_info().pss / 1e6
                now[kind] = now.get(kind, 0.0) + size
                now[ALL] = now.get(ALL, 0.0) + size
                self.resident[kind] = max(self.resident.get(kind, 0.0), _most(process.pid))
        for kind, size in now.items():
            self.peaks[kind] = max(self.peaks.get(kind, 0.0), size)
        self.samples += 1

    def words(self, kinds: tuple[str, ...]) -> str:
        return ", ".join(
            f"{kind} {self.peaks[kind]:,.0f} MB" for kind in kinds if kind in self.peaks
        )


def _most(pid: int) -> float:
    """Megabytes that a process ever had resident; 0 where that is not known, or it ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1_024 / 1e6
    return 0.0


def kind_of(title: str) -> str:
    for kind, beginnings in KINDS.items():
        if title.startswith(beginnings):
            return kind
    if title.startswith("ray::") and not title.startswith(_OTHERS):
        return TASKS
    return REST


@asynccontextmanager
async def watched(instance: Instance) -> AsyncIterator[Watch]:
    watch = Watch()

    async def run() -> None:
        while True:
            await asyncio.to_thread(watch.look, instance)
            await asyncio.sleep(EVERY_S)

    task = asyncio.create_task(run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
