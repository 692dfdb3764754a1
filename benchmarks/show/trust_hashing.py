"""Salt, leaf and tree on one core, and the same root whatever the number of workers."""

from __future__ import annotations

import asyncio

from benchmarks.instance import Instance
from benchmarks.show.table import Claim
from benchmarks.trustworks.hashing import one_core, same_root

QUICK, FULL = 200_000, 1_000_000
GOAL = 500_000
WORKERS = (1, 2, 3, 7, 16)


async def run(instance: Instance | None, full: bool) -> list[Claim]:
    """Needs no instance."""
    size = FULL if full else QUICK
    speed = await asyncio.to_thread(one_core, size)
    same = await asyncio.to_thread(same_root, size, WORKERS)
    return [
        Claim(
            f"salt, leaf and tree of {size:,} messages on one core",
            f"{speed:,.0f} leaves/s of CPU",
            f"≥ {GOAL:,}",
            speed >= GOAL,
        ),
        Claim(
            "… root by " + ", ".join(map(str, WORKERS)) + " workers",
            "the same" if same else "not the same",
            "the same",
            same,
        ),
    ]
