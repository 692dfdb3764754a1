"""Messages: they take time, and those that are only hints may be lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.sim.world import World
from mesh.agents.balancing.choice import Digest
from mesh.agents.balancing.shards import shard_of
from mesh.contracts.mesh import Snapshot, WorkerInfo
from mesh.contracts.tasks import TaskKind

if TYPE_CHECKING:
    from benchmarks.sim.coordinator import SimCoordinator
    from benchmarks.sim.worker import SimWorker

SNAPSHOT_TTL_S = 2.0


class Network:
    def __init__(self, world: World, loss: float) -> None:
        self._world = world
        self._loss = loss
        """Share of hints that never arrive."""
        self.workers: dict[str, SimWorker] = {}
        self.coordinators: dict[int, SimCoordinator] = {}
        self._board: dict[int, tuple[Digest, float]] = {}
        self.cut: set[tuple[str, int]] = set()
        """Workers and shards that don't reach each other."""
        self.hints_away_until = 0.0
        """Valkey is away: no snapshot, no nudge."""
        self.offers = 0

    def delay(self) -> float:
        rng = self._world.rng
        return 0.002 + rng.random() * 0.004 if rng.random() < 0.97 else rng.random() * 0.4

    @property
    def _hints(self) -> bool:
        return self._world.now >= self.hints_away_until

    def _hint(self, action: Callable[[], None]) -> None:
        if self._hints and self._world.rng.random() >= self._loss:
            self._world.after(self.delay(), action)

    def heartbeat(self, name: str, info: WorkerInfo) -> None:
        for shard in list(self.coordinators):
            if (name, shard) not in self.cut:
                self._world.after(self.delay(), partial(self._hear, shard, info))

    def _hear(self, shard: int, info: WorkerInfo) -> None:
        coordinator = self.coordinators[shard]
        if not coordinator.alive:
            return
        coordinator.later(0.0, lambda: self._advise(coordinator.hear(info), info.name))

    def _advise(self, crowded: bool, name: str) -> None:
        worker = self.workers[name]
        worker.later(self.delay(), lambda: worker.told(crowded))

    def publish(self, shard: int, snapshot: Snapshot) -> None:
        if self._hints:
            self._board[shard] = (Digest(snapshot), self._world.now + SNAPSHOT_TTL_S)

    def snapshots(self) -> dict[int, Digest]:
        if not self._hints:
            return {}
        now = self._world.now
        return {shard: digest for shard, (digest, until) in self._board.items() if until > now}

    def offer(self, space: int) -> None:
        """Choose a worker for a task of this workspace and wake it; without a snapshot, all."""
        from benchmarks.sim.worker import space_id

        found = self.snapshots()
        if found:
            digest = found[shard_of(space_id(space), found)]
            choice = digest.choose(TaskKind.GENERATE, self._world.rng, now=self._world.now)
            if choice.worker is not None:
                digest.note(choice.worker)
                self.offers += 1
                chosen = self.workers[choice.worker]
                self._hint(lambda: chosen.later(0.0, chosen.wake))
                return
        self.nudge_all()

    def nudge_all(self) -> None:
        for worker in list(self.workers.values()):
            self._hint(partial(worker.later, 0.0, worker.wake))

    def cancel_all(self) -> None:
        for worker in list(self.workers.values()):
            self._hint(partial(worker.later, 0.0, worker.renew_soon))
