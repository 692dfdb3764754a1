"""Which workers live: from their own heartbeats and from what other shards have heard.

A worker that was silent for too long is lost, and so is every earlier incarnation of a name that
reports anew: the tasks of both are to be freed. Silence proves something only while we listen:
time in which we slept ourselves is not held against anybody, and when *all* of several workers
fall silent at once it is more likely we who are cut off, so they get twice as long (their leases
run out by themselves meanwhile).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.contracts.mesh import WorkerInfo


@dataclass(frozen=True, slots=True)
class Heard:
    """What a heartbeat told."""

    registered: bool
    """A new worker, or a new incarnation of a known name."""
    changed: bool
    """Callers would choose otherwise now."""


class Roster:
    """Times are monotonic seconds of one clock."""

    def __init__(self, lost_after_s: float, now: float) -> None:
        self._lost_after_s = lost_after_s
        self._workers: dict[str, WorkerInfo] = {}
        self._seen: dict[str, float] = {}
        self._turned_at = now
        self._lost: set[str] = set()

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        """Those that live, by name."""
        return tuple(self._workers[name] for name in sorted(self._workers))

    @property
    def owners_to_free(self) -> tuple[str, ...]:
        """Incarnations whose leases are still to be ended."""
        return tuple(sorted(self._lost))

    def freed(self, owner: str) -> None:
        self._lost.discard(owner)

    def hear(self, info: WorkerInfo, now: float) -> Heard:
        """A worker reports, or registers: the first report of an incarnation is both."""
        known = self._workers.get(info.name)
        registered = known is None or known.actor_id != info.actor_id
        if known is not None and registered:
            # The same name with another incarnation: the process before it is dead.
            self._lost.add(known.actor_id)
        self._lost.discard(info.actor_id)
        self._workers[info.name] = info
        self._seen[info.name] = now
        return Heard(registered, known is None or differs(known, info))

    def hear_of(self, workers: Iterable[WorkerInfo], now: float) -> bool:
        """What another shard knows. A heartbeat that is newer than ours counts as if it had come
        here (by the worker's own clock, so nobody's clocks are compared). True: it changed."""
        changed = False
        for info in workers:
            known = self._workers.get(info.name)
            if known is None:
                if info.actor_id not in self._lost:
                    changed = self.hear(info, now).changed or changed
            elif info.heartbeat_at > known.heartbeat_at:
                changed = self.hear(info, now).changed or changed
        return changed

    def bury(self, now: float) -> list[WorkerInfo]:
        """Forget workers that fell silent; gives them. Call it often."""
        limit = self._lost_after_s
        pause = now - self._turned_at
        self._turned_at = now
        if pause > limit / 2:
            # It was we who slept (a paused process, a starved machine): nobody could be heard.
            for name in self._seen:
                self._seen[name] += pause
        if len(self._seen) > 1 and all(now - seen > limit for seen in self._seen.values()):
            limit *= 2
        buried = []
        for name, seen in list(self._seen.items()):
            if now - seen > limit:
                info = self._workers.pop(name)
                del self._seen[name]
                self._lost.add(info.actor_id)
                buried.append(info)
        return buried

    def statistics(self) -> dict[str, int]:
        return {"workers": len(self._workers), "owners_to_free": len(self._lost)}


def differs(a: WorkerInfo, b: WorkerInfo) -> bool:
    """Whether callers would choose otherwise: all but the time of the heartbeat."""
    return a.model_copy(update={"heartbeat_at": b.heartbeat_at}) != b
