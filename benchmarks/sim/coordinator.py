"""A coordinator shard, as ``actors.coordinator_loop`` is one."""

from __future__ import annotations

from functools import partial

from benchmarks.sim.network import Network
from benchmarks.sim.store import Store
from benchmarks.sim.worker import HEARTBEAT_S, space_id
from benchmarks.sim.world import Process, World
from mesh.agents.balancing.roster import Roster
from mesh.agents.balancing.shards import buckets_of
from mesh.contracts.mesh import Snapshot, WorkerInfo
from mesh.storage.task_rows import bucket_of

LOST_AFTER_S = 1.5
BURY_S = 0.1
COORDINATOR_LEASE_S = 2.0
SWEEP_S = 1.0


def lease_key(shard: int) -> str:
    return f"coordinator-{shard}"


class SimCoordinator(Process):
    def __init__(
        self, world: World, store: Store, network: Network, shard: int, shards: int
    ) -> None:
        super().__init__(world)
        self._store = store
        self._network = network
        self.shard = shard
        self._shards = shards
        self._owner = f"{lease_key(shard)}/{world.rng.getrandbits(32):08x}"
        self._roster = Roster(LOST_AFTER_S, world.now)
        self._leads_until = 0.0
        self._living = frozenset({shard})
        self._version = 0
        self._freeing: set[str] = set()
        self.every(COORDINATOR_LEASE_S / 3, self._keep_lease)
        self.every(COORDINATOR_LEASE_S / 6, self._look_around)
        self.every(HEARTBEAT_S, self._listen)
        self.every(HEARTBEAT_S, self._publish)
        self.every(BURY_S, self._bury)
        self.every(SWEEP_S, self._sweep)

    def hear(self, info: WorkerInfo) -> bool:
        """Whether several workspaces are about."""
        if self._roster.hear(info, self.world.now).registered:
            self._publish()
        return len({task.space for task in self._store.tasks.values()}) > 1

    def _keep_lease(self) -> None:
        since = self.world.now
        if self._store.acquire_lease(lease_key(self.shard), self._owner, COORDINATOR_LEASE_S):
            self._leads_until = since + COORDINATOR_LEASE_S

    def _look_around(self) -> None:
        keys = {lease_key(shard): shard for shard in range(self._shards)}
        held = self._store.living(keys)
        self._living = frozenset({self.shard} | {keys[key] for key in held})

    def _publish(self) -> None:
        if self.world.now > self._leads_until:
            return
        self._version += 1
        self._network.publish(
            self.shard,
            Snapshot(
                shard=self.shard,
                version=self._version,
                at=self.world.now,
                workers=self._roster.workers,
            ),
        )

    def _listen(self) -> None:
        for shard, digest in self._network.snapshots().items():
            if shard != self.shard:
                self._roster.hear_of(digest.snapshot.workers, self.world.now)

    def _bury(self) -> None:
        self._roster.bury(self.world.now)
        for owner in self._roster.owners_to_free:
            if owner not in self._freeing:
                self._freeing.add(owner)
                self.world.after(self._network.delay(), partial(self._free, owner))

    def _free(self, owner: str) -> None:
        """The statement arrives at the store, whatever became of us."""
        freed = self._store.release_owner(owner)
        if self.alive:
            self._freeing.discard(owner)
            self._roster.freed(owner)
            if freed:
                self._network.nudge_all()

    def _sweep(self) -> None:
        mine = buckets_of(self.shard, self._living)
        for number in sorted(self._store.unannounced):
            if bucket_of(space_id(self._store.tasks[number].space)) in mine:
                self._store.announce(number)
