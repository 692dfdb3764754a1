"""What an agent worker does all day: claim, run, renew, report; drain at the end.

Plain asyncio without Ray, so that tests drive it with real databases in one process. One
``WorkerLoop`` is one incarnation: its owner id is its name and a random part, so leases of a
worker that was killed are never taken for those of its successor.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from actors.patience import PatienceOptions, pause
from actors.task_run import RunParts, TaskRun
from mesh.contracts.mesh import WorkerInfo
from mesh.contracts.tasks import TaskState
from mesh.core import metrics
from mesh.core.errors import MailyError
from mesh.core.logging import get_logger
from mesh.storage.tasks import TaskRow

log = get_logger("worker")

HeartbeatSink = Callable[[WorkerInfo], Awaitable[None]]

_OFFERS_KEPT = 256
_SMOOTHING = 0.3
"""Weight of the newest task in the moving averages of latency and success."""


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


class WorkerLoop:
    """One incarnation of an agent worker. ``await run()`` until cancelled."""

    def __init__(
        self,
        name: str,
        parts: RunParts,
        options: WorkerOptions,
        *,
        heartbeat: HeartbeatSink | None = None,
        node: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.owner = f"{name}/{secrets.token_hex(6)}"
        self._parts = parts
        self._options = options
        self._heartbeat = heartbeat
        self._node = node
        self._runs: dict[UUID, TaskRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._offers: deque[UUID] = deque(maxlen=_OFFERS_KEPT)
        self._wake = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._ewma_latency_s = 0.0
        self._success = 1.0
        self._claimed = 0
        self._ended = 0
        self._dropped = 0
        self._database_failures = 0
        self._alive_at = parts.clock.monotonic()

    # What others tell us (event loop of run() only)

    def work_is_there(self) -> None:
        """Somebody queued a task: look at once instead of at the next poll."""
        self._wake.set()

    def offer(self, task_id: UUID) -> None:
        """This task was chosen for us. With no free slot the offer is forgotten: the task stays
        queued, in the order of its priority."""
        if not self._draining and len(self._runs) < self._options.slots:
            self._offers.append(task_id)
            self._wake.set()

    def cancel_requested(self, task_id: UUID) -> None:
        """A nudge only: the database is asked at once whether it is true."""
        if task_id in self._runs:
            self._renew_now.set()

    # What we tell others

    def info(self) -> WorkerInfo:
        return WorkerInfo(
            name=self.name,
            actor_id=self.owner,
            node=self._node,
            slots=self._options.slots,
            active=min(len(self._runs), self._options.slots),
            ewma_latency_s=self._ewma_latency_s,
            success=self._success,
            heartbeat_at=self._parts.clock.now(),
            draining=self._draining,
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

    async def drain(self, timeout_s: float) -> int:
        """Claim nothing more and wait for what runs. Gives how many tasks were left to others.

        Those end without a trace here; their leases end now, so another worker goes on at once.
        """
        self._draining = True
        self._wake.set()
        self._changed.set()
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
                await self._parts.tasks.release_owner(self.owner)
        except (MailyError, TimeoutError):
            pass  # the leases run out by themselves

    async def _claim_loop(self) -> None:
        while not self._draining:
            self._wake.clear()
            if len(self._runs) >= self._options.slots:
                await self._wake.wait()
                continue
            offered = self._offers.popleft() if self._offers else None
            since = self._parts.clock.monotonic()
            try:
                async with asyncio.timeout(self._options.database_s):
                    row = await self._parts.tasks.claim(offered, self.owner, self._options.lease_s)
                self._database_failures = 0
            except (MailyError, TimeoutError) as error:
                self._database_failures += 1
                if self._database_failures == 1:
                    log.warning("worker.claim_failed", error=type(error).__name__)
                await asyncio.sleep(pause(self._database_failures, PatienceOptions()))
                continue
            if row is not None and self._draining:
                await self._release()  # claimed while drain began
            elif row is not None:
                self._start(row, since + self._options.lease_s)
            elif offered is None:
                await self._wait(self._wake, self._options.poll_s)

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
        self._note_load()
        task = asyncio.create_task(self._run(run), name=f"run-{row.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, run: TaskRun) -> None:
        started = self._parts.clock.monotonic()
        try:
            await run.run()
        except Exception:
            # A defect of ours: the lease runs out and the task is tried again, up to its limit.
            log.exception("worker.run_crashed", task=str(run.task.id))
        finally:
            if self._runs.get(run.task.id) is run:
                del self._runs[run.task.id]
            self._learn(run, self._parts.clock.monotonic() - started)
            self._note_load()
            self._wake.set()

    def _learn(self, run: TaskRun, seconds: float) -> None:
        if run.ending is None:
            self._dropped += 1
            return
        self._ended += 1
        if run.ending.state is TaskState.CANCELLED:
            return
        success = 1.0 if run.ending.state is TaskState.SUCCEEDED else 0.0
        self._success += _SMOOTHING * (success - self._success)
        if self._ewma_latency_s == 0.0:
            self._ewma_latency_s = seconds
        else:
            self._ewma_latency_s += _SMOOTHING * (seconds - self._ewma_latency_s)

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
            await self._wait(self._changed, self._options.heartbeat_s)
            self._changed.clear()
            if self._heartbeat is not None:
                try:
                    async with asyncio.timeout(max(1.0, 2 * self._options.heartbeat_s)):
                        await self._heartbeat(self.info())
                except (MailyError, TimeoutError) as error:
                    log.debug("worker.heartbeat_failed", error=type(error).__name__)
            # A burst of changes makes one heartbeat, not one each.
            await asyncio.sleep(self._options.heartbeat_s / 5)

    @staticmethod
    async def _wait(event: asyncio.Event, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
