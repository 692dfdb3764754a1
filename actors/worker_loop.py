"""What an agent worker does all day: claim, run, renew, report; drain at the end.

Plain asyncio without Ray, so that tests drive it with real databases in one process. One
``WorkerLoop`` is one incarnation: its owner id is its name and a random part, so leases of a
worker that was killed are never taken for those of its successor.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from actors.patience import PatienceOptions, pause
from actors.task_run import HANDED_OVER, RunParts, TaskRun
from mesh.agents.balancing.history import Learning
from mesh.agents.balancing.slots import Room, SlotOptions, SlotShares
from mesh.contracts.mesh import Advice, WorkerInfo
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core import metrics
from mesh.core.errors import MailyError
from mesh.core.logging import get_logger
from mesh.storage.tasks import ClaimFilter, TaskRow

log = get_logger("worker")

HeartbeatSink = Callable[[WorkerInfo], Awaitable[Advice | None]]
"""Reports to the coordinators; gives what they advise, if any answers."""
Nudge = Callable[[], Awaitable[None]]
"""Tells all workers that there is work. Never raises."""

_OFFERS_KEPT = 256
_NOT_THE_WORKERS = frozenset(
    {"invalid_input", "unknown_model", "deadline_exceeded", "forbidden", "not_found", "conflict"}
)
"""Codes of failures that say nothing about who ran the task."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker claims and reports."""

    slots: int = 8
    """Tasks that run at once."""
    lease_s: float = 3.0
    """Renewed every third of it."""
    heartbeat_s: float = 0.5
    poll_s: float = 0.5
    """An idle worker looks for work at least this often."""
    database_s: float = 10.0
    """Longest wait for one claim."""
    kinds: frozenset[TaskKind] | None = None
    """What it takes; None: every kind."""
    max_share: float = 0.75
    """Largest share of the slots for one workspace while others are about."""
    claim_batch: int = 4
    """Most tasks that one statement claims."""


class WorkerLoop:
    """One incarnation of an agent worker. ``await run()`` until cancelled."""

    def __init__(
        self,
        name: str,
        parts: RunParts,
        options: WorkerOptions,
        *,
        heartbeat: HeartbeatSink | None = None,
        nudge: Nudge | None = None,
        node: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.owner = f"{name}/{secrets.token_hex(6)}"
        self._parts = parts
        self._options = options
        self._heartbeat = heartbeat
        self._nudge = nudge
        self._node = node
        self._runs: dict[UUID, TaskRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._offers: dict[UUID, dict[str, Any]] = {}
        self._wake = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._advice = Advice()
        self._learning = Learning()
        self._shares = SlotShares(
            SlotOptions(options.slots, options.max_share, batch=options.claim_batch)
        )
        self._claimed = 0
        self._ended = 0
        self._dropped = 0
        self._handed_over = 0
        self._database_failures = 0
        self._alive_at = parts.clock.monotonic()

    # What others tell us (event loop of run() only)

    def work_is_there(self) -> None:
        """Somebody queued a task: look at once instead of at the next poll."""
        self._wake.set()

    def offer(self, task_id: UUID, decision: dict[str, Any] | None = None) -> None:
        """This task was chosen for us, by this decision. With no free slot the offer is
        forgotten: the task stays queued, in its turn."""
        room = self._options.slots - len(self._runs)
        if not self._draining and room > 0 and len(self._offers) < _OFFERS_KEPT:
            self._offers[task_id] = decision or {}
            self._wake.set()

    def cancel_requested(self, task_id: UUID) -> None:
        """A nudge only: the database is asked at once whether it is true."""
        if task_id in self._runs:
            self._renew_now.set()

    # What we tell others

    def info(self) -> WorkerInfo:
        kinds = self._options.kinds
        return WorkerInfo(
            name=self.name,
            actor_id=self.owner,
            node=self._node,
            slots=self._options.slots,
            active=min(len(self._runs), self._options.slots),
            ewma_latency_s=self._learning.latency_s,
            success=self._learning.success,
            heartbeat_at=self._parts.clock.now(),
            draining=self._draining,
            history=self._learning.history,
            specialisations=tuple(k for k in TaskKind if kinds is None or k in kinds),
        )

    def unhealthy(self) -> str | None:
        """Why not healthy; None: healthy. Safe to call from another thread."""
        age = self._parts.clock.monotonic() - self._alive_at
        if age > max(5.0, 2 * self._options.lease_s):
            return f"the worker's loop has not turned for {age:.0f} s"
        if self._database_failures >= 2:
            return "the database is not answering"
        return None

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": len(self._runs),
            "slots": self._options.slots,
            "claimed": self._claimed,
            "ended": self._ended,
            "dropped": self._dropped,
            "handed_over": self._handed_over,
            "database_failures": self._database_failures,
        }

    # Life

    async def run(self) -> None:
        """Claim and run tasks until cancelled; then whatever still runs is given back.

        Cancelling hands the leases back without waiting for the tasks; ``drain`` waits first.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._claim_loop())
                group.create_task(self._renew_loop())
                group.create_task(self._heartbeat_loop())
        finally:
            await self._give_back()

    async def drain(self, timeout_s: float, *, hand_over: bool | None = None) -> int:
        """Claim nothing more and let go of what runs. Gives how many tasks were left to others
        half-way: those end without a trace here and their leases end now.

        ``hand_over``: at its next finished step a task goes to another worker, which goes on
        from there; False: it may end here. None: hand over when the coordinators know of another
        worker with a free slot.
        """
        self._draining = True
        self._wake.set()
        self._changed.set()
        if self._advice.peers > 0 if hand_over is None else hand_over:
            for run in self._runs.values():
                run.hand_over()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        left = len(self._runs)
        await self._give_back()
        return left

    async def _give_back(self) -> None:
        self._draining = True
        for run in self._runs.values():
            run.drop("handed back")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._parts.options.settle_s + 1.0)
        for task in self._tasks:
            task.cancel()
        await self._release()

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(self._options.lease_s):
                freed = await self._parts.tasks.release_owner(self.owner, HANDED_OVER)
            if freed:
                await self._tell_others()
        except (MailyError, TimeoutError):
            pass  # the leases run out by themselves

    async def _tell_others(self) -> None:
        if self._nudge is not None:
            await self._nudge()

    async def _claim_loop(self) -> None:
        while not self._draining:
            self._wake.clear()
            room = self._shares.room(
                (run.task.workspace_id for run in self._runs.values()),
                self._parts.clock.monotonic(),
            )
            if room.n <= 0:
                self._offers.clear()
                await self._wake.wait()
                continue
            offers, self._offers = self._offers, {}
            since = self._parts.clock.monotonic()
            try:
                async with asyncio.timeout(self._options.database_s):
                    rows = await self._claim(room, offers)
                self._database_failures = 0
            except (MailyError, TimeoutError) as error:
                self._database_failures += 1
                if self._database_failures == 1:
                    log.warning("worker.claim_failed", error=type(error).__name__)
                await asyncio.sleep(pause(self._database_failures, PatienceOptions()))
                continue
            if rows and self._draining:
                await self._release()  # claimed while drain began
                continue
            for row in rows:
                self._start(row, since + self._options.lease_s)
            if not rows and not offers:
                await self._wait(self._wake, self._options.poll_s)

    async def _claim(self, room: Room, offers: dict[UUID, dict[str, Any]]) -> list[TaskRow]:
        """What was chosen for us, else whose turn it is."""
        tasks, lease_s = self._parts.tasks, self._options.lease_s
        take = ClaimFilter(self._options.kinds, room.full, self._parts.graphs)
        if offers:
            return await tasks.claim_offered(
                self.owner, lease_s, offers, room.n, take, slack=float(self._options.slots)
            )
        decision = {
            "worker": self.name,
            "reason": "its turn came, and a slot was free here",
            "free": self._options.slots - len(self._runs),
        }
        return await tasks.claim_many(self.owner, lease_s, room.n, take, decision)

    def _start(self, row: TaskRow, lease_until: float) -> None:
        if row.attempt > 1:
            metrics.LEASES_TAKEN_OVER.inc()
        stale = self._runs.get(row.id)
        if stale is not None:
            # Our own former lease ran out and we claimed it again: one run of a task at a time.
            stale.drop("claimed again")
        run = TaskRun(row, self._parts, lease_until)
        self._runs[row.id] = run
        self._claimed += 1
        self._shares.saw(row.workspace_id, self._parts.clock.monotonic())
        self._note_load()
        task = asyncio.create_task(self._run(run), name=f"run-{row.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, run: TaskRun) -> None:
        started = self._parts.clock.monotonic()
        try:
            await run.run()
            if run.dropped == HANDED_OVER:
                await self._hand_over(run)
        except Exception:
            # A defect of ours: the lease runs out and the task is tried again, up to its limit.
            log.exception("worker.run_crashed", task=str(run.task.id))
        finally:
            if self._runs.get(run.task.id) is run:
                del self._runs[run.task.id]
            self._learn(run, self._parts.clock.monotonic() - started)
            self._note_load()
            self._wake.set()

    async def _hand_over(self, run: TaskRun) -> None:
        self._handed_over += 1
        try:
            async with asyncio.timeout(self._options.lease_s):
                await self._parts.tasks.release(run.task.id, run.task.attempt, HANDED_OVER)
            await self._tell_others()
        except (MailyError, TimeoutError):
            pass  # the lease runs out by itself

    def _learn(self, run: TaskRun, seconds: float) -> None:
        if run.ending is None:
            self._dropped += 1
            return
        self._ended += 1
        ending = run.ending
        if ending.state is TaskState.CANCELLED or ending.outcome in _NOT_THE_WORKERS:
            return
        self._learning.observe(
            run.task.kind,
            seconds,
            succeeded=ending.state is TaskState.SUCCEEDED,
            degraded=ending.degraded,
            cost_micros=run.cost_micros,
        )

    def _note_load(self) -> None:
        metrics.TASKS_RUNNING.set(len(self._runs))
        self._changed.set()
        if self._runs:
            self._idle.clear()
        else:
            self._idle.set()

    async def _renew_loop(self) -> None:
        interval = self._options.lease_s / 3
        while True:
            await self._wait(self._renew_now, interval)
            self._renew_now.clear()
            self._alive_at = self._parts.clock.monotonic()
            await self._renew()

    async def _renew(self) -> None:
        """Renew every lease in one statement, and act on what the answers say."""
        held = {run.task.id: run for run in self._runs.values() if run.dropped is None}
        if not held:
            return
        clock, lease_s = self._parts.clock, self._options.lease_s
        since = clock.monotonic()
        try:
            async with asyncio.timeout(lease_s / 2):
                results = await self._parts.tasks.renew_many(
                    self.owner, [(run.task.id, run.task.attempt) for run in held.values()], lease_s
                )
        except (MailyError, TimeoutError):
            # Without an answer the lease is ours only until it runs out by our own clock.
            now = clock.monotonic()
            for run in held.values():
                if now >= run.lease_until:
                    run.drop("the lease ran out while the database was away")
            return
        for task_id, run in held.items():
            result = results[task_id]
            if not result.ok:
                # Also what ended a moment ago; ending it has set run.ending and drop() ignores it.
                run.drop("fenced")
                continue
            run.lease_until = since + lease_s
            if result.cancel_requested:
                run.cancel()

    async def _heartbeat_loop(self) -> None:
        while True:
            # A burst of changes makes one heartbeat, not one each; silence lasts no longer than
            # heartbeat_s.
            await self._wait(self._changed, self._options.heartbeat_s * 0.8)
            self._changed.clear()
            if self._heartbeat is not None:
                try:
                    async with asyncio.timeout(max(1.0, 2 * self._options.heartbeat_s)):
                        advice = await self._heartbeat(self.info())
                    if advice is not None:
                        self._advice = advice
                        self._shares.told(advice.crowded, self._parts.clock.monotonic())
                except (MailyError, TimeoutError) as error:
                    self._advice = Advice()
                    log.debug("worker.heartbeat_failed", error=type(error).__name__)
            await asyncio.sleep(self._options.heartbeat_s / 5)

    @staticmethod
    async def _wait(event: asyncio.Event, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
