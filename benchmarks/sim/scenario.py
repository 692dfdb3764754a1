"""One seed: a mesh, its load and its faults, run to the end and judged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from benchmarks.sim.audit import Audit
from benchmarks.sim.coordinator import SimCoordinator
from benchmarks.sim.network import Network
from benchmarks.sim.store import SimTask, Store
from benchmarks.sim.worker import SimWorker
from benchmarks.sim.world import World

LOAD_S = 6.0
LIMIT_S = 90.0
"""Virtual seconds by which everything must have ended."""
FAULTS = ("kill", "kill", "pause", "pause", "drain", "coordinator", "sleepy", "cut", "valkey")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one seed came to."""

    seed: int
    violations: tuple[str, ...]
    tasks: int
    events: int
    seconds: float
    """Virtual."""
    recoveries: tuple[float, ...]
    takeovers: int
    fenced: int
    handovers: int
    faults: tuple[str, ...]


class Scenario:
    def __init__(self, seed: int, *, fenced: bool = True) -> None:
        self.seed = seed
        self.world = World(seed)
        rng = self.world.rng
        self.audit = Audit()
        self.store = Store(self.world, self.audit, fenced=fenced)
        self.network = Network(self.world, loss=rng.choice([0.0, 0.05, 0.3]))
        self.shards = rng.randint(1, 3)
        self.slots = rng.randint(2, 6)
        self.spaces = rng.randint(2, 4)
        self.faults: list[str] = []
        for index in range(rng.randint(2, 4)):
            self._start_worker(f"w{index}")
        for shard in range(self.shards):
            self._start_coordinator(shard)
        self._load()
        for _ in range(rng.choice((0, 1, 1, 2, 4, 6))):
            kind = rng.choice(FAULTS)
            self.world.at(1.0 + rng.random() * (LOAD_S + 2.0), partial(self._fault, kind))

    def run(self) -> Verdict:
        self.world.run(LIMIT_S, lambda: self.world.now > LOAD_S and self.store.all_ended)
        self.audit.close(self.world.now)
        audit = self.audit
        return Verdict(
            self.seed,
            tuple(audit.violations),
            len(self.store.tasks),
            self.world.ran,
            self.world.now,
            tuple(audit.recoveries),
            audit.takeovers,
            audit.fenced,
            audit.handovers,
            tuple(self.faults),
        )

    def _start_worker(self, name: str) -> None:
        self.network.workers[name] = SimWorker(
            self.world, self.store, self.network, self.audit, name, self.slots
        )

    def _start_coordinator(self, shard: int) -> None:
        self.network.coordinators[shard] = SimCoordinator(
            self.world, self.store, self.network, shard, self.shards
        )

    def _load(self) -> None:
        """One workspace floods at the start and goes on; the others come now and then."""
        rng, number = self.world.rng, 0
        for space in range(self.spaces):
            count = rng.randint(15, 35) if space == 0 else rng.randint(2, 10)
            for _ in range(count):
                at = rng.random() * (1.0 if space == 0 else LOAD_S)
                priority = rng.choice((0, 0, 0, 3, -3)) if space == 0 else 0
                task = SimTask(number, space, rng.randint(1, 4), priority)
                self.world.at(at, partial(self._create, task))
                if rng.random() < 0.04:
                    later = at + rng.random() * 3.0
                    self.world.at(later, partial(self._cancel, number))
                number += 1

    def _create(self, task: SimTask) -> None:
        self.store.create(task)
        self.network.offer(task.space)

    def _cancel(self, number: int) -> None:
        self.store.request_cancel(number)
        self.network.cancel_all()

    def _fault(self, kind: str) -> None:
        rng, world = self.world.rng, self.world
        self.faults.append(f"{kind}@{world.now:.2f}")
        worker = rng.choice(sorted(self.network.workers.values(), key=lambda w: w.name))
        coordinator = self.network.coordinators[rng.randrange(self.shards)]
        seconds = 0.0
        if kind == "kill":
            self._kill(worker)
        elif kind == "pause":
            seconds = 0.3 + rng.random() * 8.0
            worker.pause(seconds)
        elif kind == "drain":
            seconds = 2.0
            worker.drain()
            world.after(seconds, lambda: self._replace(worker))
        elif kind == "coordinator":
            seconds = rng.choice((1.0, 3.0, 60.0))
            coordinator.kill()
            world.after(seconds, lambda: self._start_coordinator(coordinator.shard))
        elif kind == "sleepy":
            seconds = 0.5 + rng.random() * 5.0
            coordinator.pause(seconds)
        elif kind == "cut":
            seconds = 1.0 + rng.random() * 3.0
            pair = (worker.name, coordinator.shard)
            self.network.cut.add(pair)
            world.after(seconds, lambda: self.network.cut.discard(pair))
        elif kind == "valkey":
            seconds = rng.random() * 4.0
            self.network.hints_away_until = world.now + seconds
        self.audit.fault(world.now, seconds)

    def _kill(self, worker: SimWorker) -> None:
        if not worker.alive:
            return
        room = sum(
            other.slots - other.busy
            for other in self.network.workers.values()
            if other is not worker and other.awake and not other.draining
        )
        listening = any(c.alive for c in self.network.coordinators.values())
        waiting = len(self.store.turns) > 0  # then nobody's slot is free for long
        worker.kill()
        self.audit.worker_died(
            worker.owner, room >= worker.busy and listening and not waiting, self.world.now
        )
        self.world.after(1.0, lambda: self._start_worker(worker.name))

    def _replace(self, worker: SimWorker) -> None:
        """The drained process ends, with what it couldn't hand over."""
        if worker.alive and self.network.workers[worker.name] is worker:
            worker.kill()
            self.store.release_owner(worker.owner)
            self._start_worker(worker.name)


def simulate(seed: int, *, fenced: bool = True) -> Verdict:
    """Run one seed. The same seed gives the same verdict, event by event."""
    return Scenario(seed, fenced=fenced).run()
