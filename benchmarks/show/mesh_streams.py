"""Streams, measured on a running instance: readers by the thousand, and one cursor for everything
that may break.

*Readers*: 1,000 event-stream readers and 1,000 WebSocket subscriptions while all of them are cut
at once, three times (``benchmarks.streams``). Needs no setting.

*One cursor*: tasks of the kind ``generate`` whose readers are cut five times each, over event
streams and WebSockets by turns, while engine replicas are killed under them. A late, unbroken
reader then says what the stream holds, and the task's result what the text is. Needs
``MAILY_LLM__REPLICAS=2`` (a warm peer takes over); the figure is about the protocol, so the fake
engine will do, slowed so that streams are alive when the engine dies:
``MAILY_LLM__ENGINE=fake MAILY_LLM__FAULTS='{"token_delay_s": 0.03}'``.

*Hand-over*: a gateway replica goes away under its readers (``benchmarks.show.drain``).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.instance import Instance
from benchmarks.report import percentile
from benchmarks.show import drain
from benchmarks.show.kills import look_for
from benchmarks.show.mesh_client import get_task, read_events
from benchmarks.show.table import Claim
from benchmarks.streams import Size, gateways, log_of, own_tasks
from benchmarks.streams import end_tasks as end_own
from benchmarks.streams import run as run_readers

CUTS = 5
ABREAST = 10
"""Streams that run at once: each kill finds them in the middle."""
FULL_KILLS = 20
TOKENS = 160
PROMPT = "Write a long letter to our customers about running shoes for the spring."


async def run(instance: Instance, full: bool = False) -> list[Claim]:
    claims = await _readers(instance, full)
    claims += await _one_cursor(instance, FULL_KILLS if full else 4)
    return claims + await drain.run(instance)


async def _readers(instance: Instance, full: bool) -> list[Claim]:
    size = Size(rate=4.0 if full else 2.0, seconds=10.0 if full else 3.0, per_socket=4)
    tasks = await own_tasks(instance, size.streams)
    try:
        async with log_of(instance) as log:
            seen = await run_readers(
                instance.url, instance.key, log, tasks, gateways(instance), size
            )
    finally:
        await end_own(instance, tasks)
    storms = ", ".join(f"{seconds:.1f}" for seconds in seen.storms_s)
    p50, p99 = (percentile(seen.latencies_s or [float("nan")], share) for share in (0.5, 0.99))
    readers = f"{size.sse:,} SSE readers and {size.subscriptions:,} WebSocket subscriptions"
    return [
        Claim(
            f"{readers}, cut all at once {size.storms} times",
            f"{seen.lost} lost, {seen.doubled} doubled, {seen.unfinished} without their end, of "
            f"{seen.pieces:,} tokens; caught up after {storms} s",
            "0 lost, 0 doubled",
            seen.lost + seen.doubled + seen.unfinished == 0
            and len(seen.storms_s) == size.storms
            and seen.readers == 2_000,
        ),
        Claim(
            "… their cost",
            f"{seen.bytes_per_reader / 1_024:.0f} KiB a reader; {seen.events_per_s:,.0f} events/s, "
            f"append to reader p50 {p50 * 1_000:.0f} ms, p99 {p99 * 1_000:.0f} ms",
            "stated",
            True if seen.latencies_s else None,
        ),
    ]


@dataclass(slots=True)
class Broken:
    """A reader that is cut; what it saw, and when."""

    task: str
    over: str
    frames: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """Cursor, type, data."""
    at: list[float] = field(default_factory=list)
    """When each of its tokens was written, by the writer's clock."""
    cuts: int = 0

    @property
    def cursor(self) -> str | None:
        return self.frames[-1][0] if self.frames else None

    def take(self, cursor: str, event: dict[str, Any]) -> bool:
        """True: this was the end."""
        self.frames.append((cursor, event["type"], event["data"]))
        if event["type"] == "tokens":
            self.at.append(event["at"])
        return event["type"] in ("task.succeeded", "task.failed", "task.cancelled")


async def _one_cursor(instance: Instance, kills: int) -> list[Claim]:
    streams = kills * ABREAST
    readers: list[Broken] = []
    problems: list[str] = []
    struck: list[float] = []
    if len(await look_for(instance, "engine replica")) < 2:
        problems.append("llm.replicas is below 2: there is no warm peer")
    async with aiohttp.ClientSession() as session:
        for number in range(kills):
            rng = random.Random(number)
            tasks = [await _generate(session, instance) for _ in range(ABREAST)]
            some = [
                Broken(task, ("events", "websocket")[index % 2]) for index, task in enumerate(tasks)
            ]
            readers += some
            reading = [asyncio.create_task(_follow(session, instance, one, rng)) for one in some]
            struck.append(await _kill(instance, some))
            await asyncio.gather(*reading)
            await _healthy_again(instance)
        for one in readers:
            problems += await _check(session, instance, one)
    stalls = [stall for one in readers for stall in [_stall(one, struck)] if stall is not None]
    again = sum(kind == "step.retried" for one in readers for _, kind, _ in one.frames)
    cuts = min(one.cuts for one in readers)
    worst = max(stalls, default=float("nan"))
    return [
        Claim(
            f"one cursor: {streams} streams, each cut {cuts} times, {kills} engine kills",
            "every token once, in order"
            if not problems
            else f"{len(problems)} problems: " + "; ".join(problems[:3]),
            f"every token once, in order, over {CUTS} cuts each"
            + ("" if kills >= FULL_KILLS else f" (FULL=1: {FULL_KILLS * ABREAST} streams)"),
            not problems and cuts >= CUTS,
        ),
        Claim(
            "… stall of a stream whose engine is killed",
            f"{worst:.2f} s at most over {len(stalls)} streams alive at a kill; "
            f"{again} steps began again",
            "≤ 1 s with a warm peer",
            worst <= 1.0 if stalls else None,
        ),
    ]


async def _generate(session: aiohttp.ClientSession, instance: Instance) -> str:
    body = {
        "kind": "generate",
        "input": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS},
        "use_memory": False,
    }
    async with session.post(
        f"{instance.url}/v1/mesh/tasks",
        json=body,
        headers={"Authorization": f"Bearer {instance.key}"},
    ) as answer:
        if answer.status != 202:
            raise RuntimeError(f"{answer.status}: {(await answer.text())[:300]}")
        return str((await answer.json())["id"])


async def _follow(
    session: aiohttp.ClientSession, instance: Instance, one: Broken, rng: random.Random
) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        limit = rng.randint(1, 3) if one.cuts < CUTS else None
        with suppress(aiohttp.ClientError, RuntimeError, TimeoutError):
            read = _over_events if one.over == "events" else _over_socket
            if await read(session, instance, one, limit):
                return
            one.cuts += 1
        await asyncio.sleep(0.02)


async def _over_events(
    session: aiohttp.ClientSession, instance: Instance, one: Broken, limit: int | None
) -> bool:
    frames, _, ended = await read_events(session, instance, one.task, one.cursor, limit)
    for frame in frames:
        parts = dict(line.split(b": ", 1) for line in frame.split(b"\n"))
        one.take(parts[b"id"].decode(), json.loads(parts[b"data"]))
    return ended


async def _over_socket(
    session: aiohttp.ClientSession, instance: Instance, one: Broken, limit: int | None
) -> bool:
    """True at the end; False when the connection was dropped after ``limit`` events, however many
    more were on their way."""
    url = f"{instance.url.replace('http', 'ws', 1)}/v1/mesh/ws"
    headers = {"Authorization": f"Bearer {instance.key}"}
    taken = 0
    async with session.ws_connect(url, headers=headers, protocols=("maily.v1",)) as socket:
        subscribe = {"type": "subscribe", "id": "a", "topic": f"task:{one.task}"}
        after = {"after": one.cursor} if one.cursor else {}
        await socket.send_json(subscribe | after)
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            said = json.loads(message.data)
            if said["type"] == "ping":
                await socket.send_json({"type": "pong"})
            elif said["type"] == "error":
                raise RuntimeError(said["message"])
            elif said["type"] == "ended":
                return True
            for event in said.get("events", ()):
                taken += 1
                if one.take(event["cursor"], event):
                    return True
                if limit is not None and taken >= limit:
                    return False
    return False


async def _kill(instance: Instance, some: list[Broken]) -> float:
    """Kill an engine replica once most of the streams have begun; gives when (Unix seconds)."""
    until = time.monotonic() + 60
    while sum(len(one.at) >= 3 for one in some) < len(some) * 0.6 and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    replicas = await look_for(instance, "engine replica")
    replicas[0].kill()
    return time.time()


async def _healthy_again(instance: Instance) -> None:
    until = time.monotonic() + 60
    while len(await look_for(instance, "engine replica")) < 2 and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    await instance.wait_healthy(60)


async def _check(session: aiohttp.ClientSession, instance: Instance, one: Broken) -> list[str]:
    """What is wrong with what a broken reader saw."""
    late = Broken(one.task, "events")
    await _over_events(session, instance, late, None)
    view = await get_task(session, instance, one.task)
    problems = []
    if not one.frames or one.frames[-1][1] != "task.succeeded":
        problems.append(f"{one.task}: ended with {one.frames[-1][1] if one.frames else 'nothing'}")
    if len({cursor for cursor, _, _ in one.frames}) != len(one.frames):
        problems.append(f"{one.task}: an event came twice")
    if _text(one) != _text(late):
        problems.append(f"{one.task}: not the text that the log holds")
    result = view.get("result") or {}
    if result.get("text") is not None and result["text"] != _text(one):
        problems.append(f"{one.task}: not the text of the result")
    return problems


def _text(one: Broken) -> str:
    """The text as a client shows it: a step that begins again begins empty."""
    text = ""
    for _, kind, data in one.frames:
        if kind == "tokens":
            text += data["text"]
        elif kind in ("step.retried", "step.started"):
            text = ""
    return text


def _stall(one: Broken, struck: list[float]) -> float | None:
    """The longest wait between two tokens around a kill; None: none was alive then."""
    waits = [
        after - before
        for before, after in zip(one.at, one.at[1:], strict=False)
        if any(before <= kill + 0.5 and after >= kill for kill in struck)
    ]
    return max(waits, default=None)
