"""The coordination's claims, measured on a running instance.

Figures that need no model are taken on the instance's own PostgreSQL and Valkey, in a database of
their own; losses are real: ``kill -9`` of the instance's agent workers and coordinators while it
writes emails, with the database's clock saying when each lost task was claimed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from typing import Any

import aiohttp
import psutil

from benchmarks.coordination.cancels import cancel_ms
from benchmarks.coordination.decision import decision_us
from benchmarks.coordination.fairness import measure_fairness
from benchmarks.coordination.leases import measure_leases
from benchmarks.coordination.servers import Servers, scratch
from benchmarks.coordination.steps import step_overhead_ms
from benchmarks.instance import Instance
from benchmarks.report import percentile
from benchmarks.show.kills import healed, look_for
from benchmarks.show.mesh_client import get_task, submit
from benchmarks.show.table import Claim
from benchmarks.sim_mesh import run_seeds
from mesh.core.logging import configure_logging
from mesh.storage.pool import Database

ENDED = ("succeeded", "failed", "cancelled")
EMAILS = 8
"""At once: fewer may all go to one worker."""
SPREADS = 4
"""So often they may all go to one worker."""

_BUSY = """
SELECT count(DISTINCT split_part(owner, '/', 1)) AS n FROM tasks
WHERE state = 'running' AND lease_until > now() AND id = ANY($1::uuid[])
"""
_TAKEN_OVER = """
SELECT next.claimed_at FROM attempts AS lost
JOIN attempts AS next ON next.task_id = lost.task_id AND next.attempt = lost.attempt + 1
WHERE lost.outcome = 'lost' AND lost.task_id = ANY($1::uuid[]) AND next.claimed_at > $2
"""


async def run(instance: Instance, full: bool) -> list[Claim]:
    configure_logging("show", "ERROR")
    claims = _decision()
    claims += await _figures(instance, full)
    claims += await _lost_workers(instance, kills=10 if full else 1)
    claims.append(await _dead_coordinators(instance, tasks=12 if full else 3))
    summary = await asyncio.to_thread(run_seeds, 0, 10_000 if full else 1_000)
    figure = (
        f"{summary.seeds - len(summary.broken):,} of {summary.seeds:,} seeds, "
        f"{summary.tasks:,} tasks, {summary.events:,} events, {summary.wall_s:.0f} s"
    )
    figure += "".join(f"; seed {v.seed}: {v.violations[0]}" for v in summary.broken[:2])
    goal = "no broken invariant" + ("" if full else " (FULL=1: 10,000 seeds)")
    claims.append(
        Claim("control logic in a deterministic simulation", figure, goal, not summary.broken)
    )
    return claims


def _decision() -> list[Claim]:
    mean, digest = decision_us()
    figure = f"{mean:.1f} µs with its record; a snapshot is digested in {digest:.0f} µs"
    return [Claim("routing decision at 64 workers", figure, "≤ 50 µs", mean <= 50)]


async def _figures(instance: Instance, full: bool) -> list[Claim]:
    settings = instance.settings
    async with scratch(settings.postgres_url) as url:
        leases = await measure_leases(url, 16_000 if full else 4_000)
    async with scratch(settings.postgres_url) as url:
        steps = await step_overhead_ms(Servers(url, settings.redis_url), 20 if full else 6)
    async with scratch(settings.postgres_url) as url:
        cancels = await cancel_ms(Servers(url, settings.redis_url), 200 if full else 40)
    async with scratch(settings.postgres_url) as url:
        servers = Servers(url, settings.redis_url)
        fair = await measure_fairness(servers, 60.0 if full else 12.0)
    p50, slowest = percentile(steps, 0.5), percentile(cancels, 0.99)
    return [
        Claim(
            "leases, fair over 8 workspaces, each synced",
            f"{leases.claimed:,.0f}/s ({leases.created:,.0f} accepted/s, "
            f"{leases.finished:,.0f} ended/s; a bare SKIP LOCKED table {leases.plain:,.0f}/s)",
            "≥ 1,500/s",
            leases.claimed >= 1_500,
        ),
        Claim(
            "step overhead with durability",
            f"p50 {p50:.2f} ms, p99 {percentile(steps, 0.99):.2f} ms over {len(steps)} steps",
            "p50 ≤ 5 ms",
            p50 <= 5,
        ),
        Claim(
            "a cancel reaches the running work",
            f"p50 {percentile(cancels, 0.5):.1f} ms, p99 {slowest:.1f} ms of {len(cancels)}",
            "≤ 100 ms",
            slowest <= 100,
        ),
        Claim(
            "one workspace at 20 × its share moves another's p95",
            f"{fair.calm_p95_s:.3f} s → {fair.flooded_p95_s:.3f} s: {fair.moved * 100:+.1f} % "
            f"({fair.samples} tasks; the flood sent {fair.flood_sent:,}, "
            f"{fair.flood_refused:,} refused)",
            "≤ 20 %",
            fair.moved <= 0.2,
        ),
    ]


async def _lost_workers(instance: Instance, kills: int) -> list[Claim]:
    taken: list[float] = []
    states: list[str] = []
    problems: list[str] = []
    async with instance.database() as db, aiohttp.ClientSession() as session:
        for number in range(kills):
            tasks: list[str] = []
            for _ in range(SPREADS):
                # As many as one worker has slots: more would have to wait for the killed one. So a
                # worker that was quicker and took them all is let finish, and others are sent.
                states += await _ends(session, instance, tasks)
                tasks = [
                    await submit(session, instance, f"kill {number}, email {n}")
                    for n in range(EMAILS)
                ]
                if await _both_busy(db, tasks):
                    break
            else:
                raise RuntimeError("the tasks did not spread over two workers")
            before = await look_for(instance, "agent worker")
            victim = before[number % len(before)]
            (row,) = await db.fetch("SELECT clock_timestamp() AS now")
            victim.kill()
            states += await _ends(session, instance, tasks)
            found = await db.fetch(_TAKEN_OVER, tasks, row["now"])
            killed: datetime = row["now"]
            taken += [(r["claimed_at"] - killed).total_seconds() for r in found]
            problems += await _heals(instance, "agent worker", victim, len(before))
    good = states.count("succeeded") == len(states) and not problems
    worst = max(taken, default=0.0)
    figure = f"worst {worst:.2f} s over {len(taken)} tasks, {kills} kills; "
    figure += f"{sum(state in ENDED for state in states)} of {len(states)} ended"
    return [
        Claim(
            "kill -9 of a worker: its tasks are claimed elsewhere",
            figure + "".join(f"; {problem}" for problem in problems),
            "≤ 2 s, every task ends once",
            bool(taken) and worst <= 2.0 and good,
        )
    ]


async def _dead_coordinators(instance: Instance, tasks: int) -> Claim:
    """Every coordinator is killed again and again, as soon as it is back, while tasks run."""
    before = await look_for(instance, "coordinator")
    killed = 0
    stop = asyncio.Event()

    async def keep_dead() -> None:
        nonlocal killed
        while not stop.is_set():
            for process in await look_for(instance, "coordinator"):
                with contextlib.suppress(psutil.Error):
                    process.kill()
                    killed += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await stop.wait()

    killer = asyncio.create_task(keep_dead())
    try:
        async with aiohttp.ClientSession() as session:
            await asyncio.sleep(2.5)  # their last snapshots are gone by now
            began = time.monotonic()
            ids = [
                await submit(session, instance, f"without coordinators {n}") for n in range(tasks)
            ]
            states = await _ends(session, instance, ids)
            seconds = time.monotonic() - began
            views: list[dict[str, Any]] = [await get_task(session, instance, i) for i in ids]
    finally:
        stop.set()
        await killer
    problems = await _heals(instance, "coordinator", before[0], len(before))
    first = sum(view["attempt"] == 1 for view in views)
    figure = (
        f"{states.count('succeeded')} of {tasks} succeeded, {first} at the first attempt, in "
        f"{seconds:.0f} s; coordinators were killed {killed} times meanwhile"
    )
    return Claim(
        "all goes on with every coordinator dead",
        figure + "".join(f"; {problem}" for problem in problems),
        "tasks are accepted and end at their first attempt",
        states.count("succeeded") == tasks == first and killed >= len(before) and not problems,
    )


async def _both_busy(db: Database, tasks: list[str], limit_s: float = 5.0) -> bool:
    """Whether more than one worker runs some of these, before long."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        (row,) = await db.fetch(_BUSY, tasks)
        if row["n"] > 1:
            return True
        await asyncio.sleep(0.02)
    return False


async def _ends(
    session: aiohttp.ClientSession, instance: Instance, tasks: list[str], limit_s: float = 120.0
) -> list[str]:
    """The state of each task once all have ended, or when the time is up."""
    until = time.monotonic() + limit_s
    while True:
        states = [(await get_task(session, instance, task))["state"] for task in tasks]
        if all(state in ENDED for state in states) or time.monotonic() > until:
            return states
        await asyncio.sleep(0.2)


async def _heals(
    instance: Instance, kind: str, victim: psutil.Process, count: int, limit_s: float = 60.0
) -> list[str]:
    until = time.monotonic() + limit_s
    while not await healed(instance, kind, victim, count):
        if time.monotonic() > until:
            return [f"{kind} was not back after {limit_s:.0f} s"]
        await asyncio.sleep(0.2)
    return []
