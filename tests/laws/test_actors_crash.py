"""Whenever a worker dies, the task ends once, each step is kept once, the stream ends once.

A worker touches the world only through its repository and its stream. So "at any moment" is:
before or after any one of those calls. The law is checked for every call of a run, both ways, on
a real PostgreSQL and a real Valkey: the worker dies there, a successor and the sweep do the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from actors_support import (
    CLOCK,
    STEPS,
    EchoRunner,
    EngineClient,
    check_stream,
    events,
    new_task,
    workspace,
)

from actors.coordinator_loop import CoordinatorLoop, CoordinatorOptions, CoordinatorParts
from actors.ending import terminal_event
from actors.task_run import RunOptions, RunParts, TaskRun
from mesh.contracts.events import EventType
from mesh.contracts.tasks import TaskState
from mesh.core.errors import Fenced
from mesh.core.ids import uuid7
from mesh.llm.fake import FakeEngine
from mesh.storage.leases import Leases
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog

RUN = RunOptions(settle_s=0.0)


class Death:
    """Dies at the n-th call: before it has an effect, or after it but before the answer."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at = at
        self.after = after
        self.calls: list[str] = []
        self.happened = asyncio.Event()

    async def call(self, name: str, operation: Any) -> Any:
        if self.happened.is_set():
            raise asyncio.CancelledError  # the dead do nothing more
        self.calls.append(name)
        if len(self.calls) != self.at:
            return await operation()
        if self.after:
            await operation()
        self.happened.set()
        raise asyncio.CancelledError


class Mortal:
    """Any object whose async methods go through ``death``."""

    def __init__(self, inner: Any, death: Death) -> None:
        self._inner = inner
        self._death = death

    def writer(self, stream: str, attempt: int, **more: Any) -> Any:
        return Mortal(self._inner.writer(stream, attempt, **more), self._death)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        return lambda *args, **kwargs: self._death.call(name, lambda: method(*args, **kwargs))


class World:
    def __init__(self, db: Database, redis: Any, space: UUID) -> None:
        self.tasks = TaskRepository(db)
        self.streams = ValkeyStreamLog(redis)
        self.space = space
        self.sweeper = CoordinatorLoop(
            CoordinatorParts(
                tasks=self.tasks,
                leases=Leases(db),
                redis=redis,
                streams=self.streams,
                clock=CLOCK,
                options=CoordinatorOptions(owed_after_s=0.0),
            )
        )

    def parts(self, runner: EchoRunner, name: str) -> RunParts:
        client = EngineClient(FakeEngine(script=lambda _: "two words"))
        return RunParts(name, self.tasks, self.streams, client, runner, CLOCK, RUN)

    async def attempt(self, task_id: UUID, parts: RunParts, death: Death | None = None) -> bool:
        """Claim and run, until the end or until death. False: there is nothing to claim."""
        claimed = await self.tasks.claim(task_id, parts.worker, 60.0)
        if claimed is None:
            return False
        if death is not None:
            parts = replace(
                parts,
                tasks=Mortal(parts.tasks, death),
                streams=Mortal(parts.streams, death),
            )
        run = asyncio.create_task(TaskRun(claimed, parts, CLOCK.monotonic() + 60).run())
        if death is not None:
            dying = asyncio.create_task(death.happened.wait())
            await asyncio.wait({run, dying}, return_when=asyncio.FIRST_COMPLETED)
            dying.cancel()
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            await self.tasks.release_owner(parts.worker)  # as the expiry of its lease would
        else:
            await run
        return True


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(database: Database, valkey_url: str) -> AsyncIterator[World]:
    redis = connect(valkey_url)
    opened = World(database, redis, await workspace(database))
    yield opened
    await opened.streams.aclose()
    await redis.aclose()


async def calls_of_a_run(world: World) -> list[str]:
    """What a run that nothing disturbs calls, in order."""
    row, _ = await world.tasks.create(new_task(world.space))
    death = Death(10**6, after=False)
    await world.attempt(row.id, world.parts(EchoRunner(), "whole"), death)
    return death.calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_worker_may_die_at_any_call(world: World, after: bool) -> None:
    calls = await calls_of_a_run(world)
    assert {"steps", "append", "token", "finish_step", "finish", "mark_announced"} <= set(calls)
    for at in range(1, len(calls) + 1):
        where = f"{'after' if after else 'before'} call {at} ({calls[at - 1]})"
        runner = EchoRunner()
        row, _ = await world.tasks.create(new_task(world.space))
        death = Death(at, after=after)
        await world.attempt(row.id, world.parts(runner, "first"), death)
        assert death.happened.is_set(), where
        committed = {step.name: step for step in await world.tasks.steps(row.id)}
        resumed = await world.attempt(row.id, world.parts(runner, "second"))
        await world.sweeper._sweep()

        done = await world.tasks.get(row.id, world.space)
        assert done.state is TaskState.SUCCEEDED, where
        assert done.attempt == (2 if resumed else 1), where
        assert done.announced_at is not None, where
        steps = await world.tasks.steps(row.id)
        assert [step.name for step in steps] == list(STEPS), where
        for step in steps:
            if step.name in committed:  # never done again, never changed
                assert step == committed[step.name], where
        again = [s for s in STEPS if runner.ran.count((row.id, s)) > 1]
        assert len(again) <= 1, where  # at most the step that death interrupted
        assert not set(again) & set(committed), where
        found = await events(world.streams, row.id)
        check_stream(found)
        assert found[-1].type is EventType.TASK_SUCCEEDED, where


async def test_of_many_that_would_end_a_stream_one_does(world: World) -> None:
    row, _ = await world.tasks.create(new_task(world.space))
    writer = world.streams.writer(str(row.id), 0)
    await writer.append(EventType.TASK_ACCEPTED, {})
    cancelled = await world.tasks.request_cancel(row.id, world.space)
    end = (str(row.id), cancelled.attempt, *terminal_event(cancelled))
    sealed = await asyncio.gather(*(world.streams.seal(*end) for _ in range(8)))
    assert sum(event is not None for event in sealed) == 1
    assert await world.streams.seal(*end) is None
    found = await events(world.streams, row.id)
    assert [e.type for e in found] == [EventType.TASK_ACCEPTED, EventType.TASK_CANCELLED]
    assert [str(e.cursor) for e in found] == ["0-1", "0-2"]


async def test_a_stream_is_ended_under_a_writer_that_does_not_stop(world: World) -> None:
    """A former worker still streams under the task's last attempt: it is cut off."""
    stream = str(uuid7())
    writer = world.streams.writer(stream, 1)
    stopped: list[Fenced] = []

    async def babble() -> None:
        try:
            while True:
                await writer.append(EventType.STEP_STARTED, {})
        except Fenced as error:
            stopped.append(error)

    babbling = asyncio.create_task(babble())
    await writer.append(EventType.TASK_STARTED, {})
    assert await world.streams.seal(stream, 1, EventType.TASK_FAILED, {}) is not None
    await babbling
    assert stopped
    last = await world.streams.last(stream)
    assert last is not None
    assert last.type is EventType.TASK_FAILED
    with pytest.raises(ValueError, match="does not end"):
        await world.streams.seal(stream, 1, EventType.TOKENS, {})
    later = world.streams.writer(other := str(uuid7()), 3)
    await later.append(EventType.TASK_STARTED, {})
    with pytest.raises(Fenced):
        await world.streams.seal(other, 2, EventType.TASK_FAILED, {})
