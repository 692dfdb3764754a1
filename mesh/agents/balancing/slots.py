"""How a worker shares its own slots between workspaces.

Turns decide who starts next, but a workspace that had the mesh for itself may hold every slot when
another comes, which then waits for one to end. So while several workspaces are about, none may
hold more than a share of a worker's slots. Every worker does so by what it sees itself and by
what the coordinators last told it: nobody has to be asked, and dead coordinators change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
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
    """Workspaces that hold their share: their queued tasks are left to wait."""


class SlotShares:
    """Times are monotonic seconds of one clock."""

    def __init__(self, options: SlotOptions) -> None:
        self._options = options
        self._seen: dict[UUID, float] = {}
        self._told_at = float("-inf")

    def saw(self, workspace_id: UUID, now: float) -> None:
        """A task of this workspace was claimed here."""
        self._seen[workspace_id] = now

    def told(self, crowded: bool, now: float) -> None:
        """A coordinator says whether several workspaces are about, in the whole mesh."""
        if crowded:
            self._told_at = now

    def crowded(self, held: Collection[UUID], now: float) -> bool:
        """Whether the next task may be of another workspace than those of ``held``."""
        horizon = now - self._options.about_s
        self._seen = {space: at for space, at in self._seen.items() if at > horizon}
        about = self._seen.keys()
        return len(about) > 1 or not about <= set(held) or self._told_at > horizon

    def room(self, held: Iterable[UUID], now: float) -> Room:
        """``held``: the workspace of each task that runs here."""
        counts = Counter(held)
        n = min(self._options.slots - counts.total(), self._options.batch)
        if n <= 0 or not self.crowded(counts, now):
            return Room(max(0, n), frozenset())
        most = self._options.most
        full = frozenset(space for space, count in counts.items() if count >= most)
        # However the batch falls out, nobody gets past the share by it.
        largest = max((count for count in counts.values() if count < most), default=0)
        return Room(min(n, most - largest), full)
