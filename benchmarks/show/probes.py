"""Whether users are served, asked all the time: what the recovery from a kill is measured by.

Each function that users see (a task accepted and begun, a chat answered, a memory written and
found, an event stream read) has a prober that uses it again and again, as a client would that
tries once and gives up after some seconds. After a kill a function has recovered at the end of
its first success that began after the kill and after the last failure that the kill may have
caused: one that got through by luck between two that failed does not count. A kill may have caused
the failure of any probe that was under way when it fell, or began before the runtime was whole
again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Use = Callable[[], Awaitable[None]]
"""Uses the function once. Raises when that did not work."""

LIMIT_S = 5.0
"""A probe that takes longer has failed."""
PAUSE_S = 0.1
"""Between the end of one probe and the start of the next."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One use. Monotonic seconds."""

    started: float
    ended: float
    problem: str | None = None


@dataclass(slots=True)
class Prober:
    """Uses one function again and again until it is cancelled."""

    name: str
    use: Use
    probes: list[Probe] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            started = time.monotonic()
            problem: str | None = None
            try:
                async with asyncio.timeout(LIMIT_S):
                    await self.use()
            except Exception as caught:  # whatever it is: the user was not served
                problem = f"{type(caught).__name__}: {caught}"[:200]
            self.probes.append(Probe(started, time.monotonic(), problem))
            await asyncio.sleep(PAUSE_S)

    def served(self, since: float) -> bool:
        """Whether a probe that began since then went well, and the newest one, too."""
        later = [p for p in self.probes if p.started >= since]
        return bool(later) and later[-1].problem is None


@dataclass(slots=True)
class Stalls:
    """How long this process's own event loop stood still: what a probe took may be that, too."""

    longest_s: float = 0.0

    async def run(self, every_s: float = 0.05) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(every_s)
            self.longest_s = max(self.longest_s, time.monotonic() - before - every_s)


def recovery_s(probes: Sequence[Probe], killed: float, whole: float, until: float) -> float | None:
    """Seconds from the kill until the function was served again for good; None: not before
    ``until`` (the next kill). ``whole``: when the runtime was whole again."""
    failed_until = max(
        (p.ended for p in probes if p.problem and p.ended > killed and p.started < whole),
        default=killed,
    )
    since = max(killed, failed_until)
    good = [p.ended for p in probes if not p.problem and since <= p.started < until]
    return min(good) - killed if good else None


def slowest(parts: Sequence[float | None]) -> float | None:
    """All have to be back: the slowest counts; None where one is not."""
    return None if any(part is None for part in parts) else max(p for p in parts if p is not None)
