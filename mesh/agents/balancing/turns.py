"""Fair shares between workspaces, as a model in memory of what the claim's SQL does.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time fair queueing", 1997). A task gets its
turn when it is queued: its workspace's turns lie cost / weight apart and never before the virtual
time, so idle time earns nothing and a flood queues behind itself. Between workspaces the earliest
turn goes first; which of its tasks a workspace starts then is said by their priorities, and the
one that was passed gets the later turn. Laws compare this model with the database; the simulation
runs on it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Space = TypeVar("Space", bound=Hashable)


@dataclass(slots=True)
class Queued(Generic[Space]):
    """A task that waits. ``number``: the order in which tasks were created."""

    number: int
    space: Space
    turn: float
    cost: float = 1.0
    priority: int = 0


@dataclass(slots=True)
class TurnQueue(Generic[Space]):
    """One queue for all workspaces. Nothing in it depends on time but the order of calls."""

    weights: dict[Space, float] = field(default_factory=dict)
    _next: dict[Space, float] = field(default_factory=dict)
    _queued: dict[int, Queued[Space]] = field(default_factory=dict)
    _running: dict[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._queued)

    def queued(self, space: Space) -> int:
        return sum(1 for task in self._queued.values() if task.space == space)

    @property
    def virtual_time(self) -> float:
        """The latest turn in service, or the first that waits; while nothing is open, the end of
        all that was."""
        waiting = min((task.turn for task in self._queued.values()), default=None)
        served = max(self._running.values(), default=None)
        known = [turn for turn in (waiting, served) if turn is not None]
        return max(known) if known else max(self._next.values(), default=0.0)

    def add(self, number: int, space: Space, *, cost: float = 1.0, priority: int = 0) -> float:
        """Queue a task; gives its turn."""
        self._next.setdefault(space, 0.0)
        turn = max(self._next[space], self.virtual_time)
        self._next[space] = turn + cost / self.weights.get(space, 1.0)
        self._queued[number] = Queued(number, space, turn, cost, priority)
        return turn

    def take(self, n: int, full: Collection[Space] = ()) -> list[int]:
        """Start up to ``n`` tasks, none of a workspace in ``full``; gives their numbers."""
        waiting = sorted(
            (task for task in self._queued.values() if task.space not in full),
            key=lambda task: (task.turn, task.number),
        )
        turns = waiting[:n]
        taken: list[int] = []
        for space in dict.fromkeys(task.space for task in turns):
            holders = [task for task in turns if task.space == space]
            ranked = sorted(
                (task for task in waiting if task.space == space),
                key=lambda task: (-task.priority, task.turn, task.number),
            )
            picks = ranked[: len(holders)]
            early = [task for task in holders if task not in picks]
            late = [task for task in picks if task not in holders]
            late.sort(key=lambda task: (task.turn, task.number))
            for passed, instead in zip(early, late, strict=True):
                passed.turn, instead.turn = instead.turn, passed.turn
            for task in picks:
                self._running[task.number] = task.turn
                del self._queued[task.number]
                taken.append(task.number)
        return taken

    def end(self, number: int) -> None:
        """A task that ran has ended."""
        self._running.pop(number, None)

    def cancel(self, number: int) -> bool:
        """Take it out of the queue; its turn is given back. False: it doesn't wait."""
        task = self._queued.pop(number, None)
        if task is None:
            return False
        self._next[task.space] -= task.cost / self.weights.get(task.space, 1.0)
        return True
