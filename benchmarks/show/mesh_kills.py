"""``kill -9`` of any worker, coordinator shard, engine replica, memory host, gateway replica and
Valkey, by a seeded schedule, under load that never pauses.

**Load**: tasks are submitted, followed over SSE and replaced by new ones; memories are written.
Clients repeat what got no answer, by the same idempotency key.

**Recovery** of a kill: seconds from the kill until both hold:

- the killed kind serves again: a process of that kind other than the victim runs and, where the
  victim was the only one, has come up; and
- every function that users see is served again for good: a chat answered, a task accepted and
  begun, a memory written and found by search, an event stream read (``benchmarks.show.probes``
  says how strictly). Probes try once and are cut off after 5 s.

The next kill waits until as many of the kind run as before and all parts are healthy, so that
each kill meets a whole runtime. That time, too, is shown (``whole again``); no goal is set on it.

A seed gives the same kinds, victims and pauses again: ``python -m benchmarks.show.mesh_kills
--seed 7 --kills 20``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import uuid4

import aiohttp
import psutil
import uvloop

from benchmarks.instance import Instance, find_instance
from benchmarks.report import percentile
from benchmarks.show.kills import KINDS, look_for
from benchmarks.show.mesh_client import brief, read_events
from benchmarks.show.mesh_load import (
    MeshLoad,
    call,
    check_memories,
    check_once,
    check_tasks,
    recall,
    remember,
)
from benchmarks.show.probes import LIMIT_S, Prober, Stalls, recovery_s, slowest
from benchmarks.show.table import Claim, show

VICTIMS = tuple(kind for kind in KINDS if kind != "PostgreSQL")
GOAL_S = 5.0
QUICK_KILLS, FULL_KILLS = 8, 102
QUICK_LEAST = 6
"""Kills below which a quick run says nothing."""
QUICK_S, FULL_S = 120.0, 1_500.0
"""No further kill begins after so long."""
PAUSE_S = (0.3, 1.2)
WHOLE_S = 45.0
"""A runtime that is not whole again after so long is a problem of its own."""
TASKS = 6
POLL_S = 0.05
WATCH_S = 0.2
"""Between two looks at the processes: looking costs the machine something, too."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One kill of the schedule."""

    kind: str
    victim: float
    """Share of the kind's processes, oldest first: 0 is the oldest."""
    pause_s: float


@dataclass(slots=True)
class Kill:
    """One kill as it went. Monotonic seconds."""

    kind: str
    at: float
    serving: float | None = None
    whole: float | None = None
    until: float = 0.0
    recovery_s: float | None = None
    parts: dict[str, float | None] = field(default_factory=dict)
    """Seconds until each function was back; ``its own kind``: until a process of it served."""

    def last_back(self) -> str:
        """What came back last."""
        return max(self.parts, key=lambda name: self.parts[name] or 0.0)


def schedule(seed: int, kills: int, kinds: tuple[str, ...] = VICTIMS) -> list[Planned]:
    """Every kind as often as any other, in an order by chance."""
    rng = random.Random(seed)
    planned: list[Planned] = []
    while len(planned) < kills:
        turn = list(kinds)
        rng.shuffle(turn)
        planned += [Planned(kind, rng.random(), rng.uniform(*PAUSE_S)) for kind in turn]
    return planned[:kills]


def probers(
    session: aiohttp.ClientSession,
    instance: Instance,
    accepted: list[str],
    *,
    with_memory: bool,
) -> list[Prober]:
    """One for each function that users see. ``accepted``: gets the ids of the probes' tasks."""
    namespace = {"kind": "campaign", "id": f"probe-{uuid4().hex[:8]}"}
    count = 0

    async def chat() -> None:
        body = {
            "model": instance.model,
            "messages": [{"role": "user", "content": "Say hello"}],
            "max_tokens": 4,
        }
        answer = await call(session, instance, "POST", "/v1/chat/completions", body)
        if not answer["choices"]:
            raise RuntimeError("no choice")

    async def task() -> None:
        body = {"kind": "write_email", "brief": brief("probe"), "deadline_s": 120, "priority": 10}
        made = await call(session, instance, "POST", "/v1/mesh/tasks", body)
        accepted.append(made["id"])
        try:
            async for type_ in event_types(session, instance, made["id"]):
                if type_ == "step.started":
                    return
            raise RuntimeError("it ended before a step began")
        finally:
            with contextlib.suppress(Exception):  # it has served its purpose
                path = f"/v1/mesh/tasks/{made['id']}"
                await call(session, instance, "DELETE", path, timeout_s=1.0)

    async def memory() -> None:
        nonlocal count
        count += 1
        text = f"Probe {count} at {time.monotonic():.3f}"
        item = {"namespace": namespace, "kind": "fact", "text": text}
        (stored,) = await remember(session, instance, [item])
        found = await recall(session, instance, namespace, text)
        if stored["id"] not in [hit["id"] for hit in found]:
            raise RuntimeError("what was stored is not found")

    found = [Prober("chat", chat), Prober("task and its events", task)]
    return [*found, Prober("memory", memory)] if with_memory else found


async def has_memory(session: aiohttp.ClientSession, instance: Instance) -> bool:
    document = await call(session, instance, "GET", "/openapi.json")
    return "/v1/memory/items" in document["paths"]


async def event_types(
    session: aiohttp.ClientSession, instance: Instance, task: str
) -> AsyncIterator[str]:
    """Types of the task's events as one connection gives them."""
    cursor: str | None = None
    while True:
        frames, cursor, ended = await read_events(session, instance, task, cursor, limit=1)
        for frame in frames:
            yield frame.partition(b"event: ")[2].partition(b"\n")[0].decode()
        if ended or not frames:
            return


class Butcher:
    """Kills by the schedule and times what follows."""

    def __init__(self, instance: Instance, watch: list[Prober]) -> None:
        self._instance = instance
        self._watch = watch
        self.kills: list[Kill] = []
        self.problems: list[str] = []

    async def run(self, planned: list[Planned], limit_s: float) -> None:
        ends = time.monotonic() + limit_s
        for plan in planned:
            if time.monotonic() > ends:
                break
            await self._kill(plan)
            await asyncio.sleep(plan.pause_s)
            self.kills[-1].until = time.monotonic()
        for kill in self.kills:
            whole = kill.whole or kill.until
            kill.parts = {
                prober.name: recovery_s(prober.probes, kill.at, whole, kill.until)
                for prober in self._watch
            }
            kill.parts["its own kind"] = None if kill.serving is None else kill.serving - kill.at
            kill.recovery_s = slowest([*kill.parts.values()])
            if kill.recovery_s is None:
                self.problems.append(f"{kill.kind}: not back before the next kill: {kill.parts}")

    async def _kill(self, plan: Planned) -> None:
        before = await self._found(plan.kind)
        victim = before[min(len(before) - 1, int(plan.victim * len(before)))]
        victim.kill()
        kill = Kill(plan.kind, time.monotonic())
        self.kills.append(kill)
        limit = kill.at + WHOLE_S
        while time.monotonic() < limit:
            running = [p for p in await look_for(self._instance, plan.kind) if p != victim]
            if kill.serving is None and running:
                kill.serving = time.monotonic()
            back = all(prober.served(kill.at) for prober in self._watch)
            if back and len(running) >= len(before) and await self._instance.healthy():
                kill.whole = time.monotonic()
                await self._served_since(kill.whole)
                return
            await asyncio.sleep(WATCH_S)
        kill.until = time.monotonic()
        sick = [p.probes[-1].problem for p in self._watch if p.probes and p.probes[-1].problem]
        self.problems.append(f"{plan.kind}: not whole again after {WHOLE_S:.0f} s {sick}")

    async def _served_since(self, whole: float) -> None:
        """What was under way is through: whatever fails from now on, the next kill has done."""
        while time.monotonic() < whole + 2 * LIMIT_S:
            if all(prober.served(whole) for prober in self._watch):
                return
            await asyncio.sleep(POLL_S)

    async def _found(self, kind: str) -> list[psutil.Process]:
        limit = time.monotonic() + WHOLE_S
        while not (running := await look_for(self._instance, kind)):
            if time.monotonic() > limit:
                raise RuntimeError(f"no process of kind {kind!r} runs")
            await asyncio.sleep(WATCH_S)
        return running


async def run(
    instance: Instance,
    full: bool,
    *,
    seed: int = 1,
    kills: int | None = None,
    victims: tuple[str, ...] = VICTIMS,
) -> list[Claim]:
    """``kills``: None: as many as the size asks for. ``victims``: kinds that are killed."""
    wanted = kills or (FULL_KILLS if full else QUICK_KILLS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        memory = await has_memory(session, instance)
        probed: list[str] = []
        watch = probers(session, instance, probed, with_memory=memory)
        load = MeshLoad(session, instance, seed, TASKS, memories=memory)
        stalls = Stalls()
        probing = [asyncio.create_task(one.run()) for one in (*watch, stalls)]
        loading = asyncio.create_task(load.run())
        butcher = Butcher(instance, watch)
        try:
            await _settled(watch)
            kinds = tuple(k for k in victims if memory or k != "memory host")
            limit_s = FULL_S if full or kills else QUICK_S
            await butcher.run(schedule(seed, wanted, kinds), limit_s)
            load.stop(patience_s=180.0)
            await loading
        finally:
            for task in (*probing, loading):
                task.cancel()
            await asyncio.gather(*probing, loading, return_exceptions=True)
        states, problems = await check_tasks(session, instance, load.tasks)
        problems += await _all_ended(instance, [*probed, *(task.id for task in load.tasks)])
        searched = 10_000 if full else 100
        lost = await check_memories(session, instance, load.memories, searched)
    stored = len(load.memories.stored)
    done = butcher.kills
    return [
        _tasks_claim(
            f"{len(done)} kills, seed {seed}", len(load.tasks), len(probed), states, problems
        ),
        Claim(
            f"acknowledged memories lost after {len(done)} kills",
            f"by id {len(lost[0])} of {stored}, "
            f"by search {len(lost[1])} of {min(stored, searched)}",
            "0",
            stored > 0 and not lost[0] and not lost[1] if memory else None,
        ),
        _recovery_claim(done, butcher.problems, len(done) >= (100 if full else QUICK_LEAST)),
        _failures_claim(watch, done, stalls),
    ]


async def _all_ended(instance: Instance, tasks: list[str], limit_s: float = 60.0) -> list[str]:
    """Probes cancel their tasks as they leave: the last may take a moment to end."""
    until = time.monotonic() + limit_s
    while True:
        problems = await check_once(instance, tasks)
        if not problems or time.monotonic() > until:
            return problems
        await asyncio.sleep(0.5)


async def _settled(watch: list[Prober], limit_s: float = 60.0) -> None:
    """Every function works before the first kill. Raises RuntimeError."""
    started = time.monotonic()
    while not all(prober.served(started) for prober in watch):
        if time.monotonic() > started + limit_s:
            sick = {p.name: p.probes[-1].problem for p in watch if p.probes}
            raise RuntimeError(f"not served even before the first kill: {sick}")
        await asyncio.sleep(POLL_S)


def _tasks_claim(
    what: str, accepted: int, probed: int, states: dict[str, int], problems: list[str]
) -> Claim:
    ended = sum(states.get(state, 0) for state in ("succeeded", "failed", "cancelled"))
    figure = f"{ended}/{accepted} ended: "
    figure += ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    figure += f"; and {probed} of the probes"
    if problems:
        figure += f"; {len(problems)} problems: " + "; ".join(problems[:3])
    return Claim(
        f"tasks under load through {what}",
        figure,
        "every accepted task ends once, no event lost or twice",
        accepted > 0 and not problems and ended == accepted,
    )


def _recovery_claim(done: list[Kill], problems: list[str], enough: bool) -> Claim:
    times = [kill.recovery_s for kill in done if kill.recovery_s is not None]
    if not times:
        return Claim(
            "recovery from a kill", "; ".join(problems)[:300], f"p99 ≤ {GOAL_S:g} s", False
        )
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    whole = [kill.whole - kill.at for kill in done if kill.whole is not None]
    by_kind = []
    for kind in VICTIMS:
        of_kind = [k for k in done if k.kind == kind and k.recovery_s is not None]
        if of_kind:
            worst = max(of_kind, key=lambda kill: kill.recovery_s or 0.0)
            by_kind.append(f"{kind} {worst.recovery_s:.1f} ({worst.last_back()})")
    figure = f"p50 {p50:.1f} s, p99 {p99:.1f} s of {len(times)}; slowest by kind: "
    figure += ", ".join(by_kind)
    if whole:
        figure += f"; whole again: p50 {percentile(whole, 0.5):.1f}, max {max(whole):.1f} s"
    if problems:
        figure += f"; {len(problems)} problems: " + "; ".join(problems[:3])
    return Claim(
        "recovery: the kind serves again and users are served for good",
        figure,
        f"p99 ≤ {GOAL_S:g} s",
        enough and not problems and p99 <= GOAL_S,
    )


def _failures_claim(watch: list[Prober], done: list[Kill], stalls: Stalls) -> Claim:
    """For the record: what a client that tries once saw."""
    figures = []
    for prober in watch:
        failed = [probe for probe in prober.probes if probe.problem is not None]
        words = f" ({failed[0].problem})" if failed else ""
        figures.append(f"{prober.name} {len(failed)} of {len(prober.probes)}{words}")
    return Claim(
        "probes that try once and failed meanwhile",
        ", ".join(figures)
        + f"; {len(done)} kills; the measuring process itself stood still for at most "
        f"{stalls.longest_s:.2f} s",
        "(for the record)",
        True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--kind", action="append", choices=VICTIMS, help="only these; repeatable")
    options = parser.parse_args()
    victims = tuple(options.kind or VICTIMS)
    claims = uvloop.run(
        run(
            find_instance(),
            options.full,
            seed=options.seed,
            kills=options.kills,
            victims=victims,
        )
    )
    return show("Kills under load", claims)


if __name__ == "__main__":
    raise SystemExit(main())
