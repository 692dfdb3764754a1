"""How a worker shares its own slots between workspaces.

Turns decide who starts next, but a workspace that floods would hold every slot when another comes,
which then waits for one to end. So while several workspaces are about, each has slots kept for
it: as many as it held at once lately and one more, up to its equal share. What is kept for one is
not given to the others; what nobody used for a while is kept for nobody. And to let in who was not
seen here yet, no workspace holds more than ``max_share``.

Every worker does so by what it sees itself and by what the coordinators last told it: nobody has
to be asked, and dead coordinators change nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class SlotOptions:
    """Of one worker."""

    slots: int = 8
    max_share: float = 0.75
    """Largest share of the slots for one workspace while others are about."""
    about_s: float = 60.0
    """A workspace is about for so long after its last task was seen."""
    fade_s: float = 15.0
    """What a workspace held at its peak counts less and less: a third is left after so long."""
    batch: int = 4
    """Most tasks to claim at once: what one takes at a stroke others can't share."""

    @property
    def most(self) -> int:
        """Slots for one workspace while others are about."""
        return max(1, int(self.slots * self.max_share))


@dataclass(frozen=True, slots=True)
class Room:
    """What to claim now."""

    n: int
    full: frozenset[UUID]
    """Workspaces whose queued tasks are left to wait: what is free is kept for others."""


class SlotShares:
    """Times are monotonic seconds of one clock."""

    def __init__(self, options: SlotOptions) -> None:
        self._options = options
        self._seen: dict[UUID, float] = {}
        self._peaks: dict[UUID, float] = {}
        self._faded_at = 0.0
        self._told_at = float("-inf")

    def saw(self, workspace_id: UUID, now: float) -> None:
        """A task of this workspace was claimed here."""
        self._seen[workspace_id] = now

    def told(self, crowded: bool, now: float) -> None:
        """A coordinator says whether several workspaces are about, in the whole mesh."""
        if crowded:
            self._told_at = now

    def room(self, held: Iterable[UUID], now: float) -> Room:
        """``held``: the workspace of each task that runs here."""
        options = self._options
        counts = Counter(held)
        self._remember(counts, now)
        free = options.slots - counts.total()
        n = min(free, options.batch)
        if n <= 0 or not self._crowded(counts, now):
            return Room(max(0, n), frozenset())
        kept = self._kept(counts)
        total = sum(kept.values())
        # For each: what is free and not kept for another, up to the largest share.
        room = {
            space: min(free - total + kept.get(space, 0), options.most - counts[space])
            for space in {*counts, *kept}
        }
        full = frozenset(space for space, left in room.items() if left <= 0)
        # Whoever was never here may come as well: it holds nothing, and nothing is kept for it.
        rooms = [left for left in room.values() if left > 0]
        stranger = min(free - total, options.most)
        if stranger > 0:
            rooms.append(stranger)
        if not rooms:
            return Room(0, full)
        return Room(min(n, *rooms), full)

    def _remember(self, counts: Mapping[UUID, int], now: float) -> None:
        horizon = now - self._options.about_s
        self._seen = {space: at for space, at in self._seen.items() if at > horizon}
        fading = math.exp(-max(0.0, now - self._faded_at) / self._options.fade_s)
        self._faded_at = now
        self._peaks = {
            space: max(self._peaks.get(space, 0.0) * fading, float(counts.get(space, 0)))
            for space in {*self._seen, *counts}
        }

    def _crowded(self, counts: Mapping[UUID, int], now: float) -> bool:
        """Whether the next task may be of another workspace than those that run here."""
        about = self._peaks.keys()
        told = self._told_at > now - self._options.about_s
        return len(about) > 1 or not about <= counts.keys() or told

    def _kept(self, counts: Mapping[UUID, int]) -> dict[UUID, int]:
        """Slots that are to stay free for each workspace that was about."""
        equal = self._options.slots // max(1, len(self._peaks))
        kept = {}
        for space, peak in self._peaks.items():
            wanted = min(round(peak) + 1, equal) - counts.get(space, 0)
            if wanted > 0:
                kept[space] = wanted
        return kept
