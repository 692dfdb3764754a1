"""Microseconds for one routing decision, with its explaining record, at so many workers."""

from __future__ import annotations

import random
import time

from mesh.agents.balancing import Digest
from mesh.contracts.mesh import KindHistory, Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind

WANTS = ("memory:0", "model:m")


def snapshot(workers: int, rng: random.Random) -> Snapshot:
    return Snapshot(
        version=1,
        at=100.0,
        places={"memory:0": ("n1",), "model:m": ("n1", "n2")},
        workers=tuple(
            WorkerInfo(
                name=f"agent-worker-{index}",
                actor_id=f"agent-worker-{index}/x",
                node=f"n{index % 4}",
                slots=8,
                active=rng.randrange(8),
                heartbeat_at=100.0,
                history={
                    kind: KindHistory(
                        count=9,
                        success=rng.random(),
                        latency_s=rng.random() * 5,
                        fastest_s=0.1,
                        cost_micros=rng.random() * 50,
                        quality=rng.random(),
                    )
                    for kind in TaskKind
                },
            )
            for index in range(workers)
        ),
    )


def decision_us(workers: int = 64, decisions: int = 20_000) -> tuple[float, float]:
    """Mean microseconds of a decision, and of one digest of the snapshot (once per snapshot)."""
    rng = random.Random(1)
    taken = snapshot(workers, rng)
    began = time.perf_counter()
    digest = Digest(taken)
    for kind in TaskKind:
        digest.choose(kind, rng)
    digest_us = (time.perf_counter() - began) * 1e6
    kinds = list(TaskKind)
    began = time.perf_counter()
    for index in range(decisions):
        digest.choose(kinds[index % len(kinds)], rng, now=100.5, wants=WANTS).record()
    return (time.perf_counter() - began) / decisions * 1e6, digest_us
