"""Load that goes on while processes are killed: tasks with their followers, and memories.

A client that behaves: it repeats what got no answer, with the same key, and reconnects event
streams by their cursor. What it was told ("accepted", "stored") it holds the runtime to.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import aiohttp

from benchmarks.instance import Instance
from benchmarks.show.kills import follow, terminal
from benchmarks.show.mesh_client import get_task, read_events, submit

ENDED = ("succeeded", "failed", "cancelled")
BATCH = 3
"""Memories a write."""
WRITE_PAUSE_S = 0.4
_WORDS = (
    *("amber", "basil", "cedar", "delta", "ember", "fable", "grove", "hazel", "ivory", "jolly"),
    *("karma", "linen", "maple", "noble", "olive", "pearl", "quartz", "river", "sable", "tulip"),
)


@dataclass(slots=True)
class Accepted:
    """A task that was accepted, and what its follower saw."""

    id: str
    frames: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Memories:
    """What the runtime said it has stored: text by id."""

    namespace: dict[str, str]
    stored: dict[str, str] = field(default_factory=dict)


class MeshLoad:
    """Start with ``run``; ``stop`` ends the submitting and writing, followers read on."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        instance: Instance,
        seed: int,
        tasks: int,
        *,
        memories: bool = True,
    ) -> None:
        """``tasks``: how many run at once; ``memories``: whether any are written."""
        self._remembers = memories
        self._session = session
        self._instance = instance
        self._rng = random.Random(seed)
        self._slots = tasks
        self._stopping = asyncio.Event()
        self._until = time.monotonic() + 3_600
        self.tasks: list[Accepted] = []
        self.memories = Memories({"kind": "campaign", "id": f"kills-{uuid4().hex[:8]}"})
        self.errors: Counter[str] = Counter()

    async def run(self) -> None:
        """Until ``stop``; then until every follower has seen the end of its task."""
        async with asyncio.TaskGroup() as group:
            for slot in range(self._slots):
                group.create_task(self._keep_a_task(slot))
            if self._remembers:
                group.create_task(self._remember())

    def stop(self, patience_s: float) -> None:
        """``patience_s``: how long followers may still read."""
        self._until = time.monotonic() + patience_s
        self._stopping.set()

    async def _keep_a_task(self, slot: int) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            accepted = Accepted(
                await submit(
                    self._session, self._instance, f"slot {slot}, {number}", patience_s=120
                )
            )
            self.tasks.append(accepted)
            accepted.frames = await self._follow(accepted.id)

    async def _follow(self, task: str) -> list[bytes]:
        frames: list[bytes] = []
        while time.monotonic() < self._until:
            until = min(self._until, time.monotonic() + 600)
            frames = await follow(self._session, self._instance, task, until)
            if terminal(frames):
                break
        return frames

    async def _remember(self) -> None:
        written = 0
        while not self._stopping.is_set():
            items = []
            for _ in range(BATCH):
                written += 1
                marker = " ".join(self._rng.sample(_WORDS, 3))
                items.append(
                    {
                        "namespace": self.memories.namespace,
                        "kind": "fact",
                        "text": f"Fact {written} of {uuid4().hex[:12]}: they like {marker}",
                        "client_id": uuid4().hex,
                    }
                )
            await self._write(items)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), WRITE_PAUSE_S)

    async def _write(self, items: list[dict[str, Any]]) -> None:
        """Again and again until it is acknowledged; a repeat stores nothing twice."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                stored = await remember(self._session, self._instance, items)
                for item in stored:
                    self.memories.stored[item["id"]] = item["text"]
                return
            except (aiohttp.ClientError, TimeoutError, RuntimeError) as caught:
                self.errors[type(caught).__name__] += 1
                await asyncio.sleep(0.2)
        raise RuntimeError("memories could not be written for two minutes")


async def call(
    session: aiohttp.ClientSession,
    instance: Instance,
    method: str,
    path: str,
    body: Any = None,
    timeout_s: float = 10.0,
) -> Any:
    """The JSON of a 2xx answer. Raises RuntimeError for any other."""
    async with session.request(
        method,
        f"{instance.url}{path}",
        json=body,
        headers={"Authorization": f"Bearer {instance.key}"},
        timeout=aiohttp.ClientTimeout(total=timeout_s),
    ) as answer:
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status}: {(await answer.text())[:200]}")
        return await answer.json()


async def remember(
    session: aiohttp.ClientSession, instance: Instance, items: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    page = await call(session, instance, "POST", "/v1/memory/items", {"items": items})
    return list(page["items"])


async def recall(
    session: aiohttp.ClientSession, instance: Instance, namespace: dict[str, str], text: str
) -> list[dict[str, Any]]:
    query = {"text": text, "namespaces": [namespace], "k": 20, "diversity": 0}
    answer = await call(session, instance, "POST", "/v1/memory/search", query)
    return [hit["item"] for hit in answer["hits"]]


async def check_tasks(
    session: aiohttp.ClientSession, instance: Instance, tasks: list[Accepted]
) -> tuple[Counter[str], list[str]]:
    """States of the accepted tasks, and what is wrong with them."""
    states: Counter[str] = Counter()
    problems: list[str] = []
    for task in tasks:
        view = await get_task(session, instance, task.id)
        states[view["state"]] += 1
        if view["state"] not in ENDED:
            problems.append(f"{task.id} is {view['state']}")
            continue
        log, _, _ = await read_events(session, instance, task.id, None)
        ends = terminal(log)
        if len(ends) != 1:
            problems.append(f"{task.id}: {len(ends)} terminal events")
        if log != task.frames:
            missed = len(set(log) - set(task.frames))
            gone = len(set(task.frames) - set(log))
            problems.append(f"{task.id}: its follower missed {missed} events, the log lost {gone}")
        names = [step["name"] for step in view["steps"]]
        if len(names) != len(set(names)):
            problems.append(f"{task.id}: a step is there twice")
    return states, problems


async def check_once(instance: Instance, tasks: list[str]) -> list[str]:
    """What the database has against it that each of these tasks ended, and once."""
    query = """
    SELECT tasks.id, tasks.state,
           count(*) FILTER (WHERE attempts.outcome IN ('succeeded', 'failed', 'cancelled')) AS ends
    FROM tasks LEFT JOIN attempts ON attempts.task_id = tasks.id
    WHERE tasks.id = ANY($1::uuid[])
    GROUP BY tasks.id, tasks.state
    """
    async with instance.database() as db:
        rows = await db.fetch(query, [UUID(task) for task in tasks])
    problems = [
        f"{row['id']} is {row['state']}, ended {row['ends']} times"
        for row in rows
        # One that was cancelled in the queue was nobody's: no attempt ended it.
        if row["state"] not in ENDED
        or row["ends"] > 1
        or (row["ends"] == 0 and row["state"] != "cancelled")
    ]
    if len(rows) != len(set(tasks)):
        problems.append(f"{len(set(tasks)) - len(rows)} accepted tasks are gone")
    return problems


async def check_memories(
    session: aiohttp.ClientSession, instance: Instance, memories: Memories, searched: int
) -> tuple[list[str], list[str]]:
    """Ids of stored memories that are not there by id, and of those not found by search."""
    by_id: list[str] = []
    for identity, text in memories.stored.items():
        try:
            item = await call(session, instance, "GET", f"/v1/memory/items/{identity}")
        except RuntimeError:
            by_id.append(identity)
            continue
        if item["text"] != text:
            by_id.append(identity)
    by_search = []
    for identity, text in list(memories.stored.items())[-searched:]:
        found = await recall(session, instance, memories.namespace, text)
        if identity not in [item["id"] for item in found]:
            by_search.append(identity)
    return by_id, by_search
