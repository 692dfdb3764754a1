"""A worker, as ``actors.worker_loop`` is one: claim, run step by step, renew, report, hand over."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.sim.audit import Audit
from benchmarks.sim.network import Network
from benchmarks.sim.store import Claim, Store
from benchmarks.sim.world import Process, World
from mesh.agents.balancing.history import Learning
from mesh.agents.balancing.slots import SlotOptions, SlotShares
from mesh.contracts.mesh import WorkerInfo
from mesh.contracts.tasks import TaskKind

LEASE_S = 3.0
HEARTBEAT_S = 0.5
POLL_S = 0.5


def space_id(space: int) -> uuid.UUID:
    return uuid.UUID(int=0x1234_5678 + space * 7919)


@dataclass(slots=True)
class _Run:
    claim: Claim
    step: int
    began: float
    gone: bool = False


class SimWorker(Process):
    def __init__(
        self, world: World, store: Store, network: Network, audit: Audit, name: str, slots: int
    ) -> None:
        super().__init__(world)
        self._store = store
        self._network = network
        self._audit = audit
        self.name = name
        self.slots = slots
        self.owner = f"{name}/{world.rng.getrandbits(32):08x}"
        self._runs: dict[int, _Run] = {}
        self._shares = SlotShares(SlotOptions(slots))
        self._learning = Learning()
        self._claiming = False
        self._woken = False
        self._handing_over = False
        self.draining = False
        self.every(LEASE_S / 3, self._renew)
        self.every(HEARTBEAT_S, self.beat)
        self.later(0.0, self.beat)
        self.later(0.0, self.wake)

    @property
    def busy(self) -> int:
        return len(self._runs)

    @property
    def awake(self) -> bool:
        return self.alive and self.sleeps_until <= self.world.now

    def _ask(self, operation: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """One round trip to the store: it happens there whatever becomes of us meanwhile."""

        def arrive() -> None:
            answer = operation()
            self.world.after(self._network.delay(), lambda: self._wake(lambda: then(answer)))

        self.world.after(self._network.delay(), arrive)

    # Claiming

    def wake(self) -> None:
        """Look for work now."""
        if self._claiming or self.draining:
            self._woken = True
            return
        now = self.world.now
        held = [space_id(run.claim.space) for run in self._runs.values()]
        room = self._shares.room(held, now)
        if room.n <= 0:
            return
        full = {
            s for s in {run.claim.space for run in self._runs.values()} if space_id(s) in room.full
        }
        self._claiming, self._woken = True, False
        self._ask(lambda: self._store.claim(self.owner, LEASE_S, room.n, full), self._claimed)

    def _claimed(self, claims: list[Claim]) -> None:
        self._claiming = False
        for claim in claims:
            self._shares.saw(space_id(claim.space), self.world.now)
            stale = self._runs.get(claim.number)
            if stale is not None:
                stale.gone = True
            run = _Run(claim, claim.next_step, self.world.now)
            self._runs[claim.number] = run
            if self.draining:
                self._give_back(run)
            elif claim.cancel:
                self._finish(run, "cancelled")
            else:
                self._work(run)
        if claims or self._woken:
            self.wake()
        else:
            self.later(POLL_S, self.wake)

    # Running

    def _work(self, run: _Run) -> None:
        if run.step >= run.claim.steps:
            self._finish(run, "succeeded")
            return
        seconds = self.world.rng.expovariate(1 / 0.25)
        self.later(seconds, lambda: self._step_done(run))

    def _step_done(self, run: _Run) -> None:
        if run.gone:
            return
        claim = run.claim
        self._ask(
            lambda: self._store.finish_step(claim.number, claim.attempt, run.step),
            lambda kept: self._committed(run, kept),
        )

    def _committed(self, run: _Run, kept: bool) -> None:
        if run.gone:
            return
        if not kept:
            self._audit.fenced += 1
            self._drop(run)
        elif self._handing_over:
            self._audit.handovers += 1
            self._give_back(run)
        else:
            run.step += 1
            self._work(run)

    def _finish(self, run: _Run, state: str) -> None:
        claim = run.claim
        run.gone = True

        def ended(kept: bool) -> None:
            self._drop(run)
            if not kept:
                self._audit.fenced += 1
                return
            self._learning.observe(TaskKind.GENERATE, self.world.now - run.began, succeeded=True)
            self._ask(lambda: self._store.announce(claim.number), lambda _: None)

        self._ask(lambda: self._store.finish(claim.number, claim.attempt, state), ended)

    def _give_back(self, run: _Run) -> None:
        claim = run.claim
        self._drop(run)
        self._ask(
            lambda: self._store.release(claim.number, claim.attempt),
            lambda _: self._network.nudge_all(),
        )

    def _drop(self, run: _Run) -> None:
        run.gone = True
        if self._runs.get(run.claim.number) is run:
            del self._runs[run.claim.number]
            self._audit.dropped(self.owner, run.claim.number)
        self.wake()

    # Renewing and reporting

    def renew_soon(self) -> None:
        """A cancel was asked for, perhaps of ours."""
        self.later(0.0, self._renew)

    def _renew(self) -> None:
        held = [run for run in self._runs.values() if not run.gone]
        if not held:
            return
        keys = [(run.claim.number, run.claim.attempt) for run in held]

        def answered(answers: dict[int, bool | None]) -> None:
            for run in held:
                if run.gone:
                    continue
                cancel = answers[run.claim.number]
                if cancel is None:
                    self._audit.fenced += 1
                    self._drop(run)
                elif cancel:
                    self._finish(run, "cancelled")

        self._ask(lambda: self._store.renew(self.owner, keys, LEASE_S), answered)

    def beat(self) -> None:
        info = WorkerInfo(
            name=self.name,
            actor_id=self.owner,
            node="n",
            slots=self.slots,
            active=min(self.busy, self.slots),
            ewma_latency_s=self._learning.latency_s,
            success=self._learning.success,
            heartbeat_at=self.world.now,
            draining=self.draining,
            history=self._learning.history,
        )
        self._network.heartbeat(self.name, info)

    def told(self, crowded: bool) -> None:
        self._shares.told(crowded, self.world.now)

    def drain(self) -> None:
        """Claim no more; what runs goes to others at its next step's border."""
        self.draining = self._handing_over = True
        self.beat()
