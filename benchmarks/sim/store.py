"""The database, as far as the coordination uses it: the rules of ``TaskRepository`` and ``Leases``.

It notes everything in an audit trail that knows nothing of these rules, so that a rule that is
missing shows. ``fenced=False`` leaves the epoch checks out: for the test that the audit finds it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from benchmarks.sim.audit import Audit
from benchmarks.sim.world import World
from mesh.agents.balancing.turns import TurnQueue


@dataclass(slots=True)
class SimTask:
    number: int
    space: int
    steps: int
    priority: int = 0
    state: str = "queued"
    attempt: int = 0
    owner: str | None = None
    lease_until: float = 0.0
    done: list[int] = field(default_factory=list)
    """Committed steps, in order."""
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claimer gets."""

    number: int
    space: int
    attempt: int
    steps: int
    next_step: int
    cancel: bool


class Store:
    def __init__(self, world: World, audit: Audit, *, fenced: bool = True) -> None:
        self._world = world
        self._audit = audit
        self._fenced = fenced
        self.turns: TurnQueue[int] = TurnQueue()
        self.tasks: dict[int, SimTask] = {}
        self._open: dict[int, SimTask] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self.unannounced: set[int] = set()

    @property
    def all_ended(self) -> bool:
        return not self._open and not self.unannounced

    def create(self, task: SimTask) -> None:
        self.tasks[task.number] = self._open[task.number] = task
        turn = self.turns.add(task.number, task.space, priority=task.priority)
        self._audit.created(task.number, task.space, task.priority, turn, self._world.now)

    def claim(self, owner: str, lease_s: float, n: int, full: Collection[int]) -> list[Claim]:
        now = self._world.now
        lapsed = [
            task
            for task in self._open.values()
            if task.state == "running" and task.lease_until <= now
        ]
        lapsed.sort(key=lambda task: (-task.priority, task.number))
        taken = lapsed[:n]
        if len(taken) < n:
            fresh = self.turns.take(n - len(taken), full)
            taken += [self.tasks[number] for number in fresh]
        claims = [self._take(task, owner, lease_s, full) for task in taken]
        self._audit.batch_done()
        return claims

    def _take(self, task: SimTask, owner: str, lease_s: float, full: Collection[int]) -> Claim:
        first = task.state == "queued"
        task.state = "running"
        task.attempt += 1
        task.owner = owner
        task.lease_until = self._world.now + lease_s
        self._audit.claimed(task.number, task.attempt, owner, self._world.now, first, full)
        return Claim(task.number, task.space, task.attempt, task.steps, len(task.done), task.cancel)

    def _holds(self, number: int, attempt: int) -> bool:
        task = self.tasks[number]
        return task.state == "running" and (task.attempt == attempt or not self._fenced)

    def renew(
        self, owner: str, held: Collection[tuple[int, int]], lease_s: float
    ) -> dict[int, bool | None]:
        """By task: None when fenced, else whether a cancel was requested."""
        answers: dict[int, bool | None] = {}
        for number, attempt in held:
            task = self.tasks[number]
            if self._holds(number, attempt) and task.owner == owner:
                task.lease_until = self._world.now + lease_s
                answers[number] = task.cancel
            else:
                answers[number] = None
        return answers

    def finish_step(self, number: int, attempt: int, step: int) -> bool:
        """False: fenced."""
        if not self._holds(number, attempt):
            return False
        task = self.tasks[number]
        if step not in task.done:
            task.done.append(step)
            self._audit.committed(number, step, attempt, self._world.now)
        return True

    def finish(self, number: int, attempt: int, state: str) -> bool:
        if not self._holds(number, attempt):
            return self.tasks[number].state == state and self.tasks[number].attempt == attempt
        self._end(self.tasks[number], state, attempt)
        return True

    def _end(self, task: SimTask, state: str, attempt: int) -> None:
        task.state = state
        self._open.pop(task.number, None)
        self.turns.end(task.number)
        self.unannounced.add(task.number)
        self._audit.ended(task.number, attempt, state, self._world.now)

    def announce(self, number: int) -> None:
        if number in self.unannounced:
            self.unannounced.discard(number)
            self._audit.announced(number)

    def request_cancel(self, number: int) -> None:
        task = self.tasks[number]
        if task.state == "queued":
            self.turns.cancel(number)
            self._end(task, "cancelled", 0)
        elif task.state == "running":
            task.cancel = True

    def release_owner(self, owner: str) -> int:
        now = self._world.now
        held = [t for t in self._open.values() if t.owner == owner and t.lease_until > now]
        for task in held:
            task.lease_until = now
        return len(held)

    def release(self, number: int, attempt: int) -> None:
        if self._holds(number, attempt):
            self.tasks[number].lease_until = self._world.now

    def acquire_lease(self, key: str, owner: str, ttl_s: float) -> bool:
        holder = self._leases.get(key)
        now = self._world.now
        if holder is not None and holder[0] != owner and holder[1] > now:
            return False
        self._leases[key] = (owner, now + ttl_s)
        return True

    def living(self, keys: Collection[str]) -> set[str]:
        now = self._world.now
        return {key for key in keys if key in self._leases and self._leases[key][1] > now}
