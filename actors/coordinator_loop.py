"""What the coordinator does: gather heartbeats, publish snapshots, bury lost workers, sweep.

It is off the hot path: whoever has work decides from the newest snapshot, and workers claim from
the database alone. All that it holds comes back with the workers' next heartbeats, so it may die
at any moment and no running task notices. A lease (`coordinator`) keeps two of them, after a
partition, from publishing against each other; its epoch leads the snapshots' version.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from actors.names import COORDINATOR, SNAPSHOT_KEY
from actors.task_run import RunOptions, announce
from mesh.contracts.mesh import Snapshot, WorkerInfo
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Fenced, MailyError
from mesh.core.logging import get_logger
from mesh.storage.leases import Lease, Leases
from mesh.storage.tasks import TaskRepository
from mesh.streams.log import StreamLog

log = get_logger("coordinator")

_VERSIONS_PER_EPOCH = 10**9


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """Rhythms, in seconds."""

    heartbeat_s: float = 0.5
    """What workers were told; also the slowest pace of snapshots."""
    publish_s: float = 0.25
    """Snapshots are at least this far apart."""
    lost_after_s: float = 2.0
    """A worker that was silent for so long is lost: its tasks are free at once."""
    snapshot_ttl_s: float = 3.0
    """A snapshot older than this is gone from Valkey: callers then leave tasks to the polls."""
    lease_s: float = 3.0
    sweep_s: float = 1.0
    """Between two looks for ended tasks whose stream lacks its terminal event."""
    owed_after_s: float = 2.0
    """Only tasks that ended longer ago: their worker is normally about to append it."""
    sweep_batch: int = 200


@dataclass(frozen=True, slots=True)
class CoordinatorParts:
    """What the coordinator works with."""

    tasks: TaskRepository
    leases: Leases
    redis: redis_asyncio.Redis
    streams: StreamLog
    clock: Clock
    options: CoordinatorOptions = field(default_factory=CoordinatorOptions)


class CoordinatorLoop:
    """One incarnation of the coordinator. ``await run()`` until cancelled."""

    def __init__(self, parts: CoordinatorParts) -> None:
        self.owner = f"{COORDINATOR}/{secrets.token_hex(6)}"
        self._parts = parts
        self._options = parts.options
        self._workers: dict[str, WorkerInfo] = {}
        self._seen: dict[str, float] = {}
        """Monotonic time of each worker's last heartbeat, by our own clock."""
        self._lost: set[str] = set()
        """Owners whose leases are still to be released."""
        self._lease: Lease | None = None
        self._lease_until = 0.0
        """Monotonic time until which it is surely ours."""
        self._number = 0
        self._changed = asyncio.Event()
        self._published_at: float | None = None
        self._turned_at = parts.clock.monotonic()
        self._failures: dict[str, str] = {}
        """What failed at its last try, by duty."""
        self._announced = 0

    def heartbeat(self, info: WorkerInfo) -> None:
        """A worker reports, or registers: the first report of an incarnation is both."""
        known = self._workers.get(info.name)
        if known is not None and known.actor_id != info.actor_id:
            # The same name with another incarnation: the process before it is dead.
            self._lost.add(known.actor_id)
        if known is None or known.actor_id != info.actor_id:
            log.info("worker.registered", worker=info.name, owner=info.actor_id)
        if known is None or _differs(known, info):
            self._changed.set()
        self._workers[info.name] = info
        self._seen[info.name] = self._parts.clock.monotonic()

    def unhealthy(self) -> str | None:
        """Why not healthy; None: healthy. Safe to call from another thread."""
        if self._failures:
            return "; ".join(f"{duty}: {why}" for duty, why in sorted(self._failures.items()))
        if self._published_at is None:
            return "no snapshot has been published yet"
        age = self._parts.clock.monotonic() - self._published_at
        if age > max(5.0, 4 * self._options.heartbeat_s):
            return f"the last snapshot was published {age:.0f} s ago"
        return None

    def statistics(self) -> dict[str, int | float]:
        return {
            "workers": len(self._workers),
            "epoch": self._lease.epoch if self._lease else 0,
            "snapshots": self._number,
            "announced": self._announced,
        }

    def snapshot(self) -> Snapshot:
        """The workers as they are known now."""
        epoch = self._lease.epoch if self._lease else 0
        return Snapshot(
            version=epoch * _VERSIONS_PER_EPOCH + self._number,
            at=self._parts.clock.now(),
            workers=tuple(self._workers[name] for name in sorted(self._workers)),
        )

    async def run(self) -> None:
        """Until cancelled; then the lease is given up, so that a successor need not wait."""
        options = self._options
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publish_loop())
                group.create_task(self._every(options.lease_s / 3, "lease", self._keep_lease))
                group.create_task(self._every(options.heartbeat_s, "workers", self._bury))
                group.create_task(self._every(options.sweep_s, "sweep", self._sweep))
        finally:
            if self._lease is not None:
                try:
                    async with asyncio.timeout(1.0):
                        await self._parts.leases.release(self._lease)
                except (MailyError, TimeoutError):
                    pass  # it runs out by itself

    async def _every(
        self, interval_s: float, duty: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do a duty again and again; what it depends on may be away."""
        while True:
            await self._attempt(duty, work)
            await asyncio.sleep(interval_s)

    async def _attempt(self, duty: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (MailyError, RedisError, OSError) as error:
            if duty not in self._failures:
                log.warning("coordinator.duty_failed", duty=duty, error=type(error).__name__)
            self._failures[duty] = str(error) or type(error).__name__
        else:
            self._failures.pop(duty, None)

    async def _keep_lease(self) -> None:
        leases, ttl_s = self._parts.leases, self._options.lease_s
        since = self._parts.clock.monotonic()
        if self._lease is not None:
            try:
                self._lease = await leases.renew(self._lease, ttl_s)
            except Fenced:
                log.warning("coordinator.fenced", epoch=self._lease.epoch)
                metrics.FENCED.labels(what="coordinator").inc()
                self._lease = None
        if self._lease is None:
            self._lease = await leases.acquire(COORDINATOR, self.owner, ttl_s)
            if self._lease is not None:
                self._number = 0
                log.info("coordinator.leads", epoch=self._lease.epoch)
                self._changed.set()
        if self._lease is not None:
            self._lease_until = since + ttl_s

    async def _publish_loop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._options.heartbeat_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._attempt("publish", self._publish)
            await asyncio.sleep(self._options.publish_s)

    async def _publish(self) -> None:
        if self._lease is None or self._parts.clock.monotonic() > self._lease_until:
            return  # another coordinator may lead
        self._number += 1
        async with asyncio.timeout(self._options.snapshot_ttl_s):
            await self._parts.redis.set(
                SNAPSHOT_KEY,
                self.snapshot().model_dump_json(),
                px=int(self._options.snapshot_ttl_s * 1000),
            )
        self._published_at = self._parts.clock.monotonic()

    async def _bury(self) -> None:
        """Forget workers that fell silent, and free what they and their like held."""
        now, limit = self._parts.clock.monotonic(), self._options.lost_after_s
        pause = now - self._turned_at
        self._turned_at = now
        if pause > limit / 2:
            # It was we who slept (a paused process, a starved machine): nobody could be heard.
            for name in self._seen:
                self._seen[name] += pause
        for name, seen in list(self._seen.items()):
            if now - seen > limit:
                info = self._workers.pop(name)
                del self._seen[name]
                self._lost.add(info.actor_id)
                self._changed.set()
                log.warning("worker.lost", worker=name, owner=info.actor_id)
        for state, count in _count(self._workers).items():
            metrics.WORKERS.labels(state=state).set(count)
        for owner in list(self._lost):
            freed = await self._parts.tasks.release_owner(owner)
            self._lost.discard(owner)
            log.info("worker.released", owner=owner, tasks=freed)

    async def _sweep(self) -> None:
        """Append the terminal events that ended tasks are owed; measure the queue."""
        parts, options = self._parts, self._options
        depth = await parts.tasks.queue_depth()
        for state, count in depth.items():
            metrics.QUEUE_DEPTH.labels(queue=f"tasks_{state.value}").set(count)
        owed = await parts.tasks.unannounced(
            older_than_s=options.owed_after_s, limit=options.sweep_batch
        )
        # Short patience: when the stream log is away, the next round tries again.
        limits = RunOptions(announce_s=options.sweep_s)
        for row in owed:
            if not await announce(parts.tasks, parts.streams, row, parts.clock, limits):
                break
            self._announced += 1


def _differs(a: WorkerInfo, b: WorkerInfo) -> bool:
    """Whether callers would choose otherwise: all but the time of the heartbeat."""
    return a.model_copy(update={"heartbeat_at": b.heartbeat_at}) != b


def _count(workers: dict[str, WorkerInfo]) -> dict[str, int]:
    draining = sum(1 for worker in workers.values() if worker.draining)
    return {"ready": len(workers) - draining, "draining": draining}
