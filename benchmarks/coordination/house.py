"""Workers and coordinators in this process, over a real PostgreSQL and Valkey: no Ray, no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from actors.coordinator_loop import CoordinatorLoop, CoordinatorOptions, CoordinatorParts
from actors.dispatch import Dispatcher
from actors.nudges import NudgeListener
from actors.run_parts import RunParts
from actors.worker_loop import WorkerLoop, WorkerOptions
from benchmarks.coordination.servers import Servers
from mesh.contracts.mesh import Advice, WorkerInfo
from mesh.core.clock import SystemClock
from mesh.llm.fake import FakeEngine
from mesh.storage.leases import Leases
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository
from mesh.streams.connect import connect
from mesh.streams.valkey import ValkeyStreamLog

CLOCK = SystemClock()
Runner = Callable[..., Awaitable[Any]]


class House:
    """Open with ``House.open``."""

    def __init__(self, db: Database, redis: Any, streams: ValkeyStreamLog) -> None:
        self.db = db
        self.redis = redis
        self.streams = streams
        self.tasks = TaskRepository(db)
        self.coordinators: list[CoordinatorLoop] = []
        self.deaf: set[str] = set()
        """Workers whose heartbeats arrive nowhere."""

    @classmethod
    @asynccontextmanager
    async def open(cls, servers: Servers, connections: int = 16) -> AsyncIterator[House]:
        db = await Database.open(servers.postgres_url, max_size=connections)
        redis = connect(servers.redis_url)
        streams = ValkeyStreamLog(redis)
        try:
            yield cls(db, redis, streams)
        finally:
            await streams.aclose()
            await redis.aclose()
            await db.aclose()

    def coordinator(self, shard: int, shards: int) -> CoordinatorLoop:
        options = CoordinatorOptions(shard=shard, shards=shards)
        made = CoordinatorLoop(
            CoordinatorParts(self.tasks, Leases(self.db), self.redis, self.streams, CLOCK, options)
        )
        self.coordinators.append(made)
        return made

    def worker(self, name: str, runner: Runner, slots: int = 8) -> WorkerLoop:
        async def heartbeat(info: WorkerInfo) -> Advice | None:
            if info.name in self.deaf:
                return None
            answers = [coordinator.heartbeat(info) for coordinator in self.coordinators]
            return answers[0] if answers else None

        parts = RunParts(
            worker=name,
            tasks=self.tasks,
            streams=self.streams,
            llm=FakeEngine(),
            runner=runner,  # type: ignore[arg-type]
            clock=CLOCK,
        )
        nudge = Dispatcher(self.redis, shards=2).nudge
        return WorkerLoop(name, parts, WorkerOptions(slots=slots), heartbeat=heartbeat, nudge=nudge)

    @asynccontextmanager
    async def running(self, *loops: WorkerLoop | CoordinatorLoop) -> AsyncIterator[None]:
        """The loops, and for each worker the listener that wakes it."""
        tasks: list[asyncio.Task[None]] = []
        for loop in loops:
            tasks.append(asyncio.create_task(loop.run()))
            if isinstance(loop, WorkerLoop):
                listener = NudgeListener(
                    self.redis,
                    loop.name,
                    on_work=loop.work_is_there,
                    on_offer=loop.offer,
                    on_cancel=loop.cancel_requested,
                    clock=CLOCK,
                )
                tasks.append(asyncio.create_task(listener.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
