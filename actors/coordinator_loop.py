"""What a coordinator shard does: gather heartbeats, publish snapshots, bury lost workers, sweep.

It is off the hot path: whoever has work decides from the newest snapshot, and workers claim from
the database alone. All that it holds comes back with the workers' next heartbeats, so it may die
at any moment and no running task notices. A lease of its own keeps two incarnations of a shard,
after a partition, from publishing against each other; its epoch leads the snapshots' version.

Every shard hears every worker, so each can bury the lost. Sweeps are shared out by workspace;
those of a shard whose lease has run out are done by the others.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from actors.names import PLACES_KEY, TASKS_CHANNEL, coordinator, snapshot_key
from actors.places import read_places
from actors.snapshots import read_snapshots
from actors.task_run import RunOptions, announce
from mesh.agents.balancing.estimates import Rates
from mesh.agents.balancing.roster import Roster
from mesh.agents.balancing.shards import buckets_of
from mesh.contracts.mesh import Advice, QueueInfo, Snapshot, WorkerInfo
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import Fenced, MailyError
from mesh.core.logging import get_logger
from mesh.storage.leases import Lease, Leases
from mesh.storage.tasks import TaskRepository
from mesh.streams.log import StreamLog

log = get_logger("coordinator")

_VERSIONS_PER_EPOCH = 10**9
_NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """Rhythms, in seconds."""

    shard: int = 0
    shards: int = 1
    """How many there are, dead or alive."""
    heartbeat_s: float = 0.5
    """What workers were told; also the slowest pace of snapshots."""
    publish_s: float = 0.25
    """Snapshots are at least this far apart."""
    lost_after_s: float = 1.5
    """A worker that was silent for so long is lost: its tasks are free at once."""
    bury_s: float = 0.1
    """Between two looks for lost workers."""
    snapshot_ttl_s: float = 3.0
    """A snapshot older than this is gone from Valkey: callers then leave tasks to the polls."""
    lease_s: float = 2.0
    """The shard's own. When it has run out, the others adopt the shard's sweeps."""
    sweep_s: float = 1.0
    """Between two looks for ended tasks whose stream lacks its terminal event."""
    owed_after_s: float = 2.0
    """Only tasks that ended longer ago: their worker is normally about to append it."""
    sweep_batch: int = 200
    tenants_s: float = 60.0
    """A workspace is about for so long after it queued a task."""
    queues_published: int = 256
    """The longest queues alone are worth a caller's estimate."""


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
    """One incarnation of one shard. ``await run()`` until cancelled."""

    def __init__(self, parts: CoordinatorParts) -> None:
        options = parts.options
        self.key = coordinator(options.shard)
        self.owner = f"{self.key}/{secrets.token_hex(6)}"
        self._parts = parts
        self._options = options
        self._roster = Roster(options.lost_after_s, parts.clock.monotonic())
        self._rates = Rates()
        self._living = frozenset({options.shard})
        self._queues: dict[UUID, QueueInfo] = {}
        self._tenants = 0
        self._places: dict[str, tuple[str, ...]] = {}
        self._lease: Lease | None = None
        self._lease_until = 0.0
        """Monotonic time until which it is surely ours."""
        self._number = 0
        self._changed = asyncio.Event()
        self._published_at: float | None = None
        self._failures: dict[str, str] = {}
        """What failed at its last try, by duty."""
        self._announced = 0

    def heartbeat(self, info: WorkerInfo) -> Advice:
        """A worker reports, or registers: the first report of an incarnation is both."""
        now = self._parts.clock.monotonic()
        heard = self._roster.hear(info, now)
        self._rates.hear(info, now)
        if heard.registered:
            log.info("worker.registered", worker=info.name, owner=info.actor_id)
        if heard.changed:
            self._changed.set()
        peers = sum(
            1 for w in self._roster.workers if w.name != info.name and not w.draining and w.free
        )
        return Advice(peers=peers, crowded=self._tenants > 1)

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
            **self._roster.statistics(),
            "epoch": self._lease.epoch if self._lease else 0,
            "snapshots": self._number,
            "announced": self._announced,
            "shards_living": len(self._living),
            "buckets": len(self._buckets()),
        }

    def snapshot(self) -> Snapshot:
        """The workers as they are known now."""
        clock = self._parts.clock
        epoch = self._lease.epoch if self._lease else 0
        return Snapshot(
            shard=self._options.shard,
            version=epoch * _VERSIONS_PER_EPOCH + self._number,
            at=clock.now(),
            workers=self._roster.workers,
            places=self._places,
            rates=self._rates.per_s(clock.monotonic()),
            tenants=self._tenants,
            queues=self._queues,
        )

    async def run(self) -> None:
        """Until cancelled; then the lease is given up, so that a successor need not wait."""
        options = self._options
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publish_loop())
                group.create_task(self._every(options.lease_s / 3, "lease", self._keep_lease))
                group.create_task(self._every(options.lease_s / 6, "shards", self._look_around))
                group.create_task(self._every(options.heartbeat_s, "gossip", self._listen))
                group.create_task(self._every(options.bury_s, "workers", self._bury))
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
                log.warning("coordinator.fenced", shard=self.key, epoch=self._lease.epoch)
                metrics.FENCED.labels(what="coordinator").inc()
                self._lease = None
        if self._lease is None:
            self._lease = await leases.acquire(self.key, self.owner, ttl_s)
            if self._lease is not None:
                self._number = 0
                log.info("coordinator.leads", shard=self.key, epoch=self._lease.epoch)
                self._changed.set()
        if self._lease is not None:
            self._lease_until = since + ttl_s

    async def _look_around(self) -> None:
        """Which shards live, by their leases: the sweeps of the others are ours to share."""
        names = {coordinator(shard): shard for shard in range(self._options.shards)}
        held = await self._parts.leases.living(names)
        living = frozenset({self._options.shard} | {names[name] for name in held})
        if living != self._living:
            log.info("coordinator.shards", shard=self.key, living=sorted(living))
            self._living = living

    def _leads(self) -> bool:
        return self._lease is not None and self._parts.clock.monotonic() <= self._lease_until

    def _buckets(self) -> frozenset[int]:
        return buckets_of(self._options.shard, self._living)

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
        if not self._leads():
            return  # another incarnation may lead
        self._number += 1
        async with asyncio.timeout(self._options.snapshot_ttl_s):
            await self._parts.redis.set(
                snapshot_key(self._options.shard),
                self.snapshot().model_dump_json(),
                px=int(self._options.snapshot_ttl_s * 1000),
            )
        self._published_at = self._parts.clock.monotonic()

    async def _listen(self) -> None:
        """What the other shards have heard, and what lies where."""
        clock, redis = self._parts.clock, self._parts.redis
        async with asyncio.timeout(self._options.snapshot_ttl_s):
            found = await read_snapshots(redis, self._options.shards)
            raw = await redis.hgetall(PLACES_KEY)
            places, stale = read_places(raw, clock.now())
            if stale:
                await redis.hdel(PLACES_KEY, *stale)
        changed = places != self._places
        self._places = places
        for shard, snapshot in found.items():
            if shard != self._options.shard:
                changed = self._roster.hear_of(snapshot.workers, clock.monotonic()) or changed
        if changed:
            self._changed.set()

    async def _bury(self) -> None:
        """Forget workers that fell silent, and free what they and their like held."""
        for info in self._roster.bury(self._parts.clock.monotonic()):
            self._rates.forget(info.actor_id)
            self._changed.set()
            log.warning("worker.lost", worker=info.name, owner=info.actor_id)
        if self._options.shard == min(self._living):  # one of us counts them
            for state, count in _count(self._roster.workers).items():
                metrics.WORKERS.labels(state=state).set(count)
        for owner in self._roster.owners_to_free:
            freed = await self._parts.tasks.release_owner(owner)
            self._roster.freed(owner)
            log.info("worker.released", owner=owner, tasks=freed)
            if freed:
                async with asyncio.timeout(self._options.snapshot_ttl_s):
                    await self._parts.redis.publish(TASKS_CHANNEL, str(_NOBODY))

    async def _sweep(self) -> None:
        """Append the terminal events that ended tasks are owed; measure the queues."""
        parts, options = self._parts, self._options
        buckets = self._buckets()
        depths = await parts.tasks.queues(buckets)
        queued = sum(depth.queued for depth in depths.values())
        running = sum(depth.running for depth in depths.values())
        metrics.QUEUE_DEPTH.labels(queue="tasks_queued").set(queued)
        metrics.QUEUE_DEPTH.labels(queue="tasks_running").set(running)
        longest = sorted(depths.items(), key=lambda item: -item[1].queued)
        self._queues = {
            workspace: QueueInfo(queued=depth.queued, running=depth.running)
            for workspace, depth in longest[: options.queues_published]
        }
        self._tenants = await parts.tasks.active_workspaces(options.tenants_s)
        owed = await parts.tasks.unannounced(
            older_than_s=options.owed_after_s, limit=options.sweep_batch, buckets=buckets
        )
        # Short patience: when the stream log is away, the next round tries again.
        limits = RunOptions(announce_s=options.sweep_s)
        for row in owed:
            if not await announce(parts.tasks, parts.streams, row, parts.clock, limits):
                break
            self._announced += 1


def _count(workers: tuple[WorkerInfo, ...]) -> dict[str, int]:
    draining = sum(1 for worker in workers if worker.draining)
    return {"ready": len(workers) - draining, "draining": draining}
