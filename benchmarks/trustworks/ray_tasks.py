"""The tree as the runtime builds it: ranges of leaves to Ray tasks, nodes back, one root."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

TASK_S = 60.0
START_S = 120.0


def trees(size: int, at_once: tuple[int, ...], rounds: int = 3) -> dict[int, float]:
    """Leaves a second of wall time by how many tasks are out at once, over a Ray of its own in a
    process of its own. Every tree has the root that one core gives; raises RuntimeError else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_trees, size, at_once, rounds).result()


def _trees(size: int, at_once: tuple[int, ...], rounds: int) -> dict[int, float]:
    # Ray reads these when it is first imported.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=max(at_once), include_dashboard=False, log_to_driver=False)
    try:
        return asyncio.run(_measured(size, at_once, rounds))
    finally:
        ray.shutdown()


async def _measured(size: int, at_once: tuple[int, ...], rounds: int) -> dict[int, float]:
    from actors.trust_sealer import RANGE
    from actors.trust_work import RayWork
    from mesh.trust.merkle import HASH_BYTES, Tree
    from mesh.trust.stored import StoredTree, fold_units

    leaves = secrets.token_bytes(HASH_BYTES * size)
    step = RANGE * HASH_BYTES
    parts = [leaves[at : at + step] for at in range(0, len(leaves), step)]
    root = Tree(leaves).root
    found = {}
    for tasks in at_once:
        work = RayWork(tasks)

        async def build(work: RayWork = work) -> bytes:
            runs = [work.run(fold_units, part, timeout_s=TASK_S) for part in parts]
            return StoredTree.build(size, b"".join(await asyncio.gather(*runs))).root

        times = []
        async with asyncio.timeout(START_S):
            for _ in range(rounds + 1):  # the first starts the workers
                began = time.perf_counter()
                if await build() != root:
                    raise RuntimeError(f"{tasks} tasks at once gave another root")
                times.append(time.perf_counter() - began)
        found[tasks] = size / median(times[1:])
    return found
