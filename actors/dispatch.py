"""Send a task to a worker: a decision in the caller's own process, and a nudge.

The decision rests on the newest snapshot of the workspace's coordinator shard, or of any other
while that one is dead; without one nobody in particular is chosen and every worker is told.
Either way the task lies in PostgreSQL already and workers poll, so a failure here costs half a
second and never a task. The decision travels with the offer and is kept with the attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from uuid import UUID

import orjson
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from actors.names import CANCEL_CHANNEL, TASKS_CHANNEL, offers
from actors.snapshots import newest, read_snapshots
from mesh.agents.balancing import Choice, Digest
from mesh.agents.balancing.estimates import least_wait_s, relative_cost, retry_after_s
from mesh.agents.balancing.shards import shard_of
from mesh.contracts.mesh import Snapshot
from mesh.contracts.tasks import TaskKind
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import Overloaded
from mesh.core.logging import get_logger

log = get_logger("dispatch")

_NO_TASK = UUID(int=0)
_CACHE_S = 0.25
_TIMEOUT_S = 1.0


class Dispatcher:
    """One per process that accepts tasks. ``shards``: how many coordinators there are."""

    def __init__(
        self,
        client: redis_asyncio.Redis,
        rng: random.Random | None = None,
        clock: Clock | None = None,
        shards: int = 2,
    ) -> None:
        self._client = client
        self._rng = rng or random.Random()  # noqa: S311 (balancing, not a secret)
        self._clock = clock or SystemClock()
        self._shards = shards
        self._digests: dict[int, Digest] = {}
        self._costs: dict[TaskKind, float] = {}
        self._cached_at = float("-inf")
        self._offered = 0
        self._broadcast = 0
        self._failed = 0
        self._refused = 0

    async def offer(
        self,
        task_id: UUID,
        kind: TaskKind = TaskKind.WRITE_EMAIL,
        *,
        workspace_id: UUID | None = None,
        wants: Collection[str] = (),
    ) -> Choice:
        """Tell the chosen worker of a queued task, or all of them; says what was decided and why.
        Never raises.

        ``wants``: places that it would like to be near, as ``memory:0`` or ``model:name``. A
        worker that does not listen (it is starting again) is passed over for all of them.
        """
        digest = await self._digest(workspace_id)
        if digest is None:
            choice = Choice(None, "no snapshot: every worker was told")
        else:
            choice = digest.choose(kind, self._rng, now=self._clock.now(), wants=wants)
        if digest is not None and choice.worker is not None:
            decision = orjson.dumps(choice.record()).decode()
            if await self._publish(offers(choice.worker), f"{task_id} {decision}"):
                digest.note(choice.worker)
                self._offered += 1
                return choice
            choice = Choice(
                None,
                f"{choice.worker} does not listen: every worker was told",
                choice.candidates,
                choice.version,
            )
        await self._publish(TASKS_CHANNEL, str(task_id))
        self._broadcast += 1
        return choice

    async def admit(
        self, workspace_id: UUID, kind: TaskKind, *, deadline_s: float, priority: int = 0
    ) -> None:
        """Raises Overloaded, with Retry-After, when the task surely can't end by its deadline:
        not even if every slot worked for its workspace alone, as quickly as was ever seen."""
        snapshot = await self.snapshot(workspace_id)
        if snapshot is None:
            return
        least = least_wait_s(snapshot, workspace_id, kind, ahead=priority <= 0)
        if least is not None and least > deadline_s:
            self._refused += 1
            raise Overloaded(
                "The task can't be done within its deadline.",
                {"deadline_s": deadline_s, "at_least_s": round(least, 3)},
                max(1.0, least - deadline_s),
            )

    async def retry_after_s(self, workspace_id: UUID, queue_limit: int, default_s: float) -> float:
        """When a caller whose queue is full should come back, by the measured drain."""
        return retry_after_s(await self.snapshot(workspace_id), queue_limit, default_s)

    async def cost(self, kind: TaskKind) -> float:
        """What a task of this kind takes of its workspace's share; 1: as much as any."""
        snapshot = await self.snapshot()
        if kind not in self._costs:  # the same for all callers until the next look
            self._costs[kind] = relative_cost(snapshot, kind)
        return self._costs[kind]

    async def cancel(self, task_id: UUID) -> None:
        """Tell the workers that a cancel was requested; whoever runs the task asks the database."""
        await self._publish(CANCEL_CHANNEL, str(task_id))

    async def nudge(self) -> None:
        """Tell every worker that there is work. Never raises."""
        await self._publish(TASKS_CHANNEL, str(_NO_TASK))

    async def snapshot(self, workspace_id: UUID | None = None) -> Snapshot | None:
        """The newest of the workspace's shard, or of any; at most 250 ms old here. None: nobody
        publishes, or Valkey is away."""
        digest = await self._digest(workspace_id)
        return None if digest is None else digest.snapshot

    async def _digest(self, workspace_id: UUID | None) -> Digest | None:
        await self._refresh()
        if not self._digests:
            return None
        if workspace_id is not None:
            return self._digests[shard_of(workspace_id, self._digests)]
        last = newest({shard: digest.snapshot for shard, digest in self._digests.items()})
        return None if last is None else self._digests[last.shard]

    async def _refresh(self) -> None:
        now = self._clock.monotonic()
        if now - self._cached_at < _CACHE_S:
            return
        # Set before the await: of many callers at once one fetches, the others take the old ones.
        self._cached_at = now
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await read_snapshots(self._client, self._shards)
        except (RedisError, OSError) as error:
            self._note("snapshot", error)
            found = {}
        self._costs = {}
        kept = self._digests
        self._digests = {
            # What was offered since the snapshot counts until a newer one shows it.
            shard: kept[shard]
            if shard in kept and kept[shard].snapshot.version == snapshot.version
            else Digest(snapshot)
            for shard, snapshot in found.items()
        }

    def statistics(self) -> dict[str, int | float]:
        return {
            "offered": self._offered,
            "broadcast": self._broadcast,
            "failed": self._failed,
            "refused": self._refused,
        }

    async def _publish(self, channel: str, message: str) -> int:
        """How many heard it."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return int(await self._client.publish(channel, message))
        except (RedisError, OSError) as error:
            self._note("publish", error)
            return 0

    def _note(self, what: str, error: Exception) -> None:
        self._failed += 1
        log.debug("dispatch.failed", what=what, error=type(error).__name__)
