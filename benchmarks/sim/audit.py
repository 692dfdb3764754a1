"""What must hold, judged from a trail of what happened and nothing else.

* every accepted task ends once, and its stream is told once;
* no step is committed, and no task ended, but by the newest claim of it;
* a step is committed once;
* of two workspaces that both wait, neither gets more than its share (within a batch);
* nobody starves: who waits is overtaken a bounded number of times;
* after a lone fault, a lost worker's tasks are claimed elsewhere within two seconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

RECOVERY_S = 2.0
BATCH = 4


@dataclass(slots=True)
class _Waiting:
    space: int
    own_started: int
    others_started: int
    priority: int
    queued_ahead: int


@dataclass(slots=True)
class Audit:
    violations: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from a worker's death to the next claim of its tasks, after lone faults."""
    fenced: int = 0
    """Writes that the store refused."""
    takeovers: int = 0
    handovers: int = 0
    _newest: dict[int, int] = field(default_factory=dict)
    _steps: set[tuple[int, int]] = field(default_factory=set)
    _ended: Counter[int] = field(default_factory=Counter)
    _announced: Counter[int] = field(default_factory=Counter)
    _created: dict[int, int] = field(default_factory=dict)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _queued: Counter[int] = field(default_factory=Counter)
    _started: Counter[int] = field(default_factory=Counter)
    _held_back: int = 0
    _cancelled: int = 0
    _pairs: dict[tuple[int, int], int] = field(default_factory=dict)
    """Of two that wait: starts of the first less those of the second since both wait."""
    _owned: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _lost: dict[int, float] = field(default_factory=dict)
    _faults: list[tuple[float, float]] = field(default_factory=list)
    """Beginning and end of each."""

    def wrong(self, what: str, now: float) -> None:
        if len(self.violations) < 20:
            self.violations.append(f"at {now:.3f} s: {what}")

    def created(self, number: int, space: int, priority: int, turn: float, now: float) -> None:
        self._created[number] = space
        others = self._started.total() - self._started[space]
        ahead = self._queued[space]
        self._waiting[number] = _Waiting(space, self._started[space], others, priority, ahead)
        self._queued[space] += 1
        if self._queued[space] == 1:
            for other in self._queued:
                if other != space and self._queued[other]:
                    self._pairs[min(space, other), max(space, other)] = 0

    def claimed(
        self, number: int, attempt: int, owner: str, now: float, first: bool, full: Collection[int]
    ) -> None:
        if attempt <= self._newest.get(number, 0):
            self.wrong(f"task {number} was claimed with epoch {attempt} again", now)
        self._newest[number] = attempt
        self._owned[owner].add(number)
        if not first:
            self.takeovers += 1
            died = self._lost.pop(number, None)
            if died is not None and self._lone(died):
                self.recoveries.append(now - died)
                if now - died > RECOVERY_S:
                    self.wrong(f"task {number} was taken over after {now - died:.2f} s", now)
            return
        space = self._created[number]
        waited = self._waiting.pop(number)
        self._leaves_queue(space)
        self._started[space] += 1
        if full:
            self._held_back += 1
            for held in full:
                self._forget_pairs(held)
        for pair in self._pairs:
            if space in pair:
                self._pairs[pair] += 1 if space == pair[0] else -1
        self._check_starvation(number, waited, now)

    def _check_starvation(self, number: int, waited: _Waiting, now: float) -> None:
        own = self._started[waited.space] - waited.own_started
        others = self._started.total() - self._started[waited.space] - waited.others_started
        rivals = max(1, len(self._queued) - 1)
        most = (max(own, waited.queued_ahead) + 3) * rivals + BATCH
        most += self._held_back + self._cancelled
        if others > most:
            self.wrong(f"task {number} was overtaken {others} times, at most {most} is fair", now)

    def batch_done(self) -> None:
        """Shares are judged between claims: within one the order means nothing."""
        for pair, gap in self._pairs.items():
            if abs(gap) > 2 + BATCH + self._cancelled:
                self.wrong(f"workspaces {pair} differ by {gap} starts while both wait", -1.0)
                self._pairs[pair] = 0

    def _leaves_queue(self, space: int) -> None:
        self._queued[space] -= 1
        if not self._queued[space]:
            self._forget_pairs(space)

    def _forget_pairs(self, space: int) -> None:
        for pair in [pair for pair in self._pairs if space in pair]:
            del self._pairs[pair]

    def committed(self, number: int, step: int, attempt: int, now: float) -> None:
        if attempt != self._newest.get(number):
            self.wrong(f"step {step} of task {number} was committed by a fenced owner", now)
        if (number, step) in self._steps:
            self.wrong(f"step {step} of task {number} was committed twice", now)
        self._steps.add((number, step))

    def ended(self, number: int, attempt: int, state: str, now: float) -> None:
        if attempt != self._newest.get(number, 0):
            self.wrong(f"task {number} was ended by a fenced owner", now)
        self._ended[number] += 1
        if self._ended[number] > 1:
            self.wrong(f"task {number} ended {self._ended[number]} times", now)
        if number in self._waiting:  # cancelled in the queue
            self._leaves_queue(self._waiting.pop(number).space)
            self._cancelled += 1
        self._lost.pop(number, None)

    def announced(self, number: int) -> None:
        self._announced[number] += 1

    def fault(self, now: float, seconds: float = 0.0) -> None:
        """``seconds``: how long it lasts."""
        self._faults.append((now, now + seconds))

    def _lone(self, at: float) -> bool:
        """The fault of that moment was the only one, and what was before it is mended."""
        return not any(begun != at and ended > at - 2.0 for begun, ended in self._faults)

    def worker_died(self, owner: str, others_free: bool, now: float) -> None:
        """``others_free``: another worker had room for what it left."""
        if others_free:
            for number in self._owned[owner]:
                if not self._ended[number]:
                    self._lost[number] = now
        self._owned[owner] = set()

    def dropped(self, owner: str, number: int) -> None:
        self._owned[owner].discard(number)

    def close(self, now: float) -> None:
        """The simulation is over: everything must have ended by now."""
        for number in self._created:
            if self._ended[number] != 1:
                self.wrong(f"task {number} ended {self._ended[number]} times", now)
            elif self._announced[number] != 1:
                self.wrong(f"task {number} was announced {self._announced[number]} times", now)
