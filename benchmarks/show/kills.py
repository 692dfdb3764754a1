"""``kill -9`` of each process of the runtime, one at a time, while tasks run.

A follower reads every task's events through the whole time, reconnecting by its cursor. At the
end each accepted task must have ended once, each follower must have seen exactly the events that
the log holds, and every part must be healthy again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import psutil

from benchmarks.instance import Instance
from benchmarks.show.mesh_client import TERMINAL, get_task, read_events, submit
from benchmarks.show.table import Claim

KINDS = {
    "agent worker": "ray::AgentWorker",
    "coordinator": "ray::Coordinator",
    "engine replica": "ray::ServeReplica:llm:LLM",
    "memory host": "ray::MemoryHost",
    "gateway replica": "ray::ServeReplica:gateway",
    "Valkey": "valkey-server",
    "PostgreSQL": "postgres",
}


@dataclass(slots=True)
class Outcome:
    """What became of the tasks of one kill."""

    kind: str
    accepted: int = 0
    states: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    recovery_s: float = 0.0
    seconds: float = 0.0


def find_processes(instance: Instance, kind: str) -> list[psutil.Process]:
    """Those of a kind, oldest first. PostgreSQL's oldest is its postmaster."""
    found = []
    for process in instance.processes():
        with contextlib.suppress(psutil.Error, IndexError):
            # Some write a whole title over their first argument.
            name = process.cmdline()[0].split()[0].rsplit("/", 1)[-1]
            if name.startswith(KINDS[kind]):
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


async def look_for(instance: Instance, kind: str) -> list[psutil.Process]:
    """``find_processes`` aside: it reads a hundred files of processes that fight for the
    processors, and whoever measures users meanwhile must not wait for it."""
    return await asyncio.to_thread(find_processes, instance, kind)


async def healed(instance: Instance, kind: str, victim: psutil.Process, count: int) -> bool:
    """The victim is gone, as many of its kind run as before, and every part is healthy."""
    running = await look_for(instance, kind)
    if victim in running:
        return False
    enough = len(running) >= (1 if kind == "PostgreSQL" else count)  # its backends come and go
    return enough and await instance.healthy()


async def follow(
    session: aiohttp.ClientSession, instance: Instance, task: str, until: float
) -> list[bytes]:
    """Every event frame of a task, over as many connections as it takes."""
    frames: list[bytes] = []
    cursor: str | None = None
    while time.monotonic() < until:
        try:
            got, cursor, ended = await read_events(session, instance, task, cursor)
            frames += got
            if ended:
                return frames
        except (aiohttp.ClientError, RuntimeError, TimeoutError):
            await asyncio.sleep(0.2)
    return frames


def terminal(frames: list[bytes]) -> list[bytes]:
    return [
        line[7:]
        for frame in frames
        for line in frame.split(b"\n")
        if line.startswith(b"event: ") and line[7:] in TERMINAL
    ]


async def one_kill(
    instance: Instance, kind: str, tasks: int, patience_s: float, delay_s: float = 2.0
) -> Outcome:
    outcome = Outcome(kind)
    started = time.monotonic()
    until = started + patience_s
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        ids = await asyncio.gather(
            *(submit(session, instance, f"{kind} {n}") for n in range(tasks))
        )
        outcome.accepted = len(set(ids))
        if outcome.accepted != tasks:
            outcome.problems.append(f"{tasks} submissions made {outcome.accepted} tasks")
        followers = [asyncio.create_task(follow(session, instance, t, until)) for t in ids]
        await asyncio.sleep(delay_s)
        before = await look_for(instance, kind)
        if not before:
            raise RuntimeError(f"no process of kind {kind!r} runs")
        victim = before[0]
        victim.kill()
        killed = time.monotonic()
        while not await healed(instance, kind, victim, len(before)):
            if time.monotonic() > until:
                outcome.problems.append("not healthy again in time")
                break
            await asyncio.sleep(0.2)
        outcome.recovery_s = time.monotonic() - killed
        seen = await asyncio.gather(*followers)
        for task, frames in zip(ids, seen, strict=True):
            view = await get_task(session, instance, task)
            outcome.states[view["state"]] += 1
            if view["state"] not in ("succeeded", "failed", "cancelled"):
                outcome.problems.append(f"{task} is {view['state']}")
                continue
            if len(terminal(frames)) != 1:
                outcome.problems.append(f"{task}: terminal events {terminal(frames)}")
            names = [step["name"] for step in view["steps"]]
            if len(names) != len(set(names)):
                outcome.problems.append(f"{task}: a step is there twice: {names}")
            log, _, _ = await read_events(session, instance, task, None)
            if log != frames:
                lost = len(set(log) - set(frames))
                gone = len(set(frames) - set(log))
                outcome.problems.append(
                    f"{task}: the follower missed {lost} events, the log lost {gone}"
                )
    outcome.seconds = time.monotonic() - started
    return outcome


async def run(
    instance: Instance,
    *,
    tasks: int = 20,
    kinds: tuple[str, ...] = tuple(KINDS),
    patience_s: float = 240.0,
) -> list[Claim]:
    claims = []
    for kind in kinds:
        outcome = await one_kill(instance, kind, tasks, patience_s)
        ended = sum(outcome.states[s] for s in ("succeeded", "failed", "cancelled"))
        states = ", ".join(f"{n} {state}" for state, n in sorted(outcome.states.items()))
        figure = f"{ended}/{outcome.accepted} ended ({states}); healthy after "
        figure += f"{outcome.recovery_s:.1f} s; {outcome.seconds:.0f} s in all"
        if outcome.problems:
            figure += "; " + "; ".join(outcome.problems[:4])
        claims.append(
            Claim(
                f"kill -9 {kind} during {outcome.accepted} running tasks",
                figure,
                "all succeed, none twice, no event lost, heals by itself",
                not outcome.problems and outcome.states["succeeded"] == outcome.accepted,
            )
        )
    return claims
