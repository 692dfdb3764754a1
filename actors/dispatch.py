"""Send a task to a worker: a decision in the caller's own process, and a nudge.

The decision rests on the coordinator's newest snapshot; without one nobody in particular is
chosen and every worker is told. Either way the task lies in PostgreSQL already and workers poll,
so a failure here costs half a second and never a task: nothing in this module raises.
"""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

import redis.asyncio as redis_asyncio
from pydantic import ValidationError
from redis.exceptions import RedisError

from actors.names import CANCEL_CHANNEL, SNAPSHOT_KEY, TASKS_CHANNEL, offers
from mesh.agents.balancing import Choice, choose
from mesh.contracts.mesh import Snapshot
from mesh.contracts.tasks import TaskKind
from mesh.core.clock import Clock, SystemClock
from mesh.core.logging import get_logger

log = get_logger("dispatch")

_CACHE_S = 0.25
_TIMEOUT_S = 1.0


class Dispatcher:
    """One per process that accepts tasks."""

    def __init__(
        self,
        client: redis_asyncio.Redis,
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._rng = rng or random.Random()  # noqa: S311 (balancing, not a secret)
        self._clock = clock or SystemClock()
        self._cached: Snapshot | None = None
        self._cached_at = float("-inf")
        self._offered = 0
        self._broadcast = 0
        self._failed = 0

    async def offer(self, task_id: UUID, kind: TaskKind = TaskKind.WRITE_EMAIL) -> Choice:
        """Tell the chosen worker of a queued task, or all of them; says what was decided and why.

        A worker that does not listen (it is starting again) is passed over for all of them.
        """
        snapshot = await self.snapshot()
        if snapshot is None:
            choice = Choice(None, "no snapshot: every worker was told")
        else:
            choice = choose(snapshot, kind, self._rng, now=self._clock.now())
        if choice.worker is not None:
            if await self._publish(offers(choice.worker), task_id):
                self._offered += 1
                return choice
            choice = Choice(
                None, f"{choice.worker} does not listen: every worker was told", choice.candidates
            )
        await self._publish(TASKS_CHANNEL, task_id)
        self._broadcast += 1
        return choice

    async def cancel(self, task_id: UUID) -> None:
        """Tell the workers that a cancel was requested; whoever runs the task asks the database."""
        await self._publish(CANCEL_CHANNEL, task_id)

    async def snapshot(self) -> Snapshot | None:
        """The newest snapshot, at most 250 ms old here; None: nobody publishes, or Valkey is
        away."""
        now = self._clock.monotonic()
        if now - self._cached_at < _CACHE_S:
            return self._cached
        # Set before the await: of many callers at once one fetches, the others take the old one.
        self._cached_at = now
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                raw = await self._client.get(SNAPSHOT_KEY)
            self._cached = None if raw is None else Snapshot.model_validate_json(raw)
        except (RedisError, OSError, ValidationError) as error:
            self._note("snapshot", error)
            self._cached = None
        return self._cached

    def statistics(self) -> dict[str, int | float]:
        return {"offered": self._offered, "broadcast": self._broadcast, "failed": self._failed}

    async def _publish(self, channel: str, task_id: UUID) -> int:
        """How many heard it."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return int(await self._client.publish(channel, str(task_id)))
        except (RedisError, OSError) as error:
            self._note("publish", error)
            return 0

    def _note(self, what: str, error: Exception) -> None:
        self._failed += 1
        log.debug("dispatch.failed", what=what, error=type(error).__name__)
