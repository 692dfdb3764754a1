"""Logical agents: many in one process, in memory only while they are used.

What an agent needs beyond its code (a classifier's weights, a prompt file) is loaded when it is
first asked for and let go again when nobody asked for some time, or when there is too much of it.
So a worker can host every agent there is, and pays for those that have work. Loading is done once
however many tasks ask at the same moment; tasks that hold a part keep it until they are done.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mesh.core.clock import Clock, SystemClock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ActivationOptions:
    """When a part is let go."""

    idle_s: float = 600.0
    """Seconds since it was last asked for."""
    most: int = 64
    """Parts at once; the one that was not asked for longest goes first."""


@dataclass(slots=True)
class _Entry:
    value: Any
    used_at: float
    uses: int = 0


class Activations:
    """Thread-safe: training and classifying use threads. Loading blocks, so parts must be small
    files; a slow one is loaded in a thread by its caller."""

    def __init__(
        self, options: ActivationOptions = ActivationOptions(), clock: Clock | None = None
    ) -> None:
        self.options = options
        self._clock = clock or SystemClock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.RLock()
        self._activated = self._passivated = self._hits = 0

    def get(self, key: str, load: Callable[[], T]) -> T:
        """The part, loaded now unless it is here. Raises what ``load`` raises; then nothing is
        kept, and the next caller tries again."""
        with self._lock:
            now = self._clock.monotonic()
            entry = self._entries.get(key)
            if entry is None:
                entry = _Entry(load(), now)
                self._entries[key] = entry
                self._activated += 1
            else:
                self._hits += 1
            entry.used_at = now
            entry.uses += 1
            self._entries.move_to_end(key)
            self._sweep(now)
            value: T = entry.value
            return value

    def passivate(self, prefix: str = "") -> int:
        """Let go of everything whose key starts so (a new version was stored); how many."""
        with self._lock:
            keys = [key for key in self._entries if key.startswith(prefix)]
            for key in keys:
                del self._entries[key]
            self._passivated += len(keys)
            return len(keys)

    def sweep(self) -> int:
        """Let go of what is idle: called now and then by the process's owner; how many."""
        with self._lock:
            before = self._passivated
            self._sweep(self._clock.monotonic())
            return self._passivated - before

    def statistics(self) -> dict[str, int]:
        """active now, activated, passivated, hits (asked for and already there)."""
        with self._lock:
            return {
                "active": len(self._entries),
                "activated": self._activated,
                "passivated": self._passivated,
                "hits": self._hits,
            }

    def _sweep(self, now: float) -> None:
        # Oldest first: the order of the dict is the order of last use.
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            idle = now - entry.used_at >= self.options.idle_s
            if not idle and len(self._entries) <= self.options.most:
                return
            del self._entries[key]
            self._passivated += 1


ACTIVE = Activations()
"""Of this process."""
