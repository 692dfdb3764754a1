"""Which shards a host owns: its presence, its leases, and moving shards as hosts come and go.

A host says that it lives by a lease of its own; rendezvous hashing over the living says who should
own what. What it should hold and does not, it takes as soon as the lease is free. A host that dies
is missed when its leases run out; one that comes back before that takes its own at once.

What it holds and should not, it hands over (nothing is written any more, the lease ends at once),
but only to a host that has lived for a while, and a few at a time: whoever took over a dead host's
shards has just made them serve again, and its new incarnation, which is up a moment later, would
make everybody wait a second time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.core.ring import Ring
from mesh.storage.leases import Lease, Leases

log = get_logger("shards")

_AT_ONCE = 4
"""Shards acquired side by side: other work needs connections, too."""
_HANDED = 8
"""Shards handed over at a time: those on the way serve nobody for about one heartbeat."""


def not_owner(part: str, shard: int) -> Unavailable:
    """What a caller with an old directory is told: to look again."""
    return Unavailable(
        "Another host owns this shard now.", {"part": part, "moved": shard}, retry_after_s=0.2
    )


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """Rhythms, in seconds."""

    lease_s: float = 2.0
    heartbeat_s: float = 0.4
    settle_s: float = 5.0
    """A host must have lived for so long before others hand over to it what they hold."""


class Shards:
    """One per host. ``left``: told which shards are not ours any more, at once."""

    def __init__(
        self,
        ring: Ring,
        host: str,
        leases: Leases,
        clock: Clock,
        options: ShardOptions,
        left: Callable[[frozenset[int]], None],
    ) -> None:
        self._ring = ring
        self.host = host
        self.owner = f"{host}/{secrets.token_hex(6)}"
        self._leases = leases
        self._clock = clock
        self._options = options
        self._left = left
        self._held: dict[int, Lease] = {}
        self._until = 0.0
        """Monotonic time until which all that is held is surely ours."""
        self._presence: Lease | None = None
        self._seen: dict[str, tuple[str, float]] = {}
        """Each living host's incarnation, and since when we know of it (monotonic)."""
        self._moves = 0
        self._failing: str | None = "it has not looked for its shards yet"
        self._wake = asyncio.Event()

    @property
    def held(self) -> frozenset[int]:
        return frozenset(self._held) if self._sure() else frozenset()

    def lease(self, shard: int) -> Lease:
        """Raises Unavailable (``not_owner``): it is not ours, or may not be."""
        if shard not in self._held or not self._sure():
            raise not_owner(self._ring.part, shard)
        return self._held[shard]

    def leases(self, shards: Sequence[int]) -> list[Lease]:
        """As ``lease``, of each."""
        return [self.lease(shard) for shard in shards]

    def doubt(self) -> None:
        """A write was fenced: look at once."""
        self._wake.set()

    def unhealthy(self) -> str | None:
        return self._failing

    def statistics(self) -> dict[str, int | float]:
        return {"shards": len(self._held), "hosts": len(self._seen), "moves": self._moves}

    async def run(self) -> None:
        """Until cancelled; then everything is given back."""
        try:
            await self._leases.release_former(self._ring.host_prefix, f"{self.host}/", self.owner)
            await self._leases.release_former(self._ring.shard_prefix, f"{self.host}/", self.owner)
            while True:
                try:
                    await self._tick()
                    self._failing = None
                except MailyError as error:
                    self._failing = error.message
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._options.heartbeat_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            await asyncio.shield(self._leave())

    def _sure(self) -> bool:
        return self._clock.monotonic() < self._until

    async def _tick(self) -> None:
        began = self._clock.monotonic()
        # In this order: when our presence has run out, so have the shards, and all are taken.
        await self._renew(began)
        await self._show()
        self._look(await self._leases.held(self._ring.host_prefix))
        wanted = self._ring.shards_of(self.host, self._seen)
        await self._hand_over(self._due(frozenset(self._held) - wanted))
        await self._take(sorted(wanted - frozenset(self._held)))

    def _look(self, living: Sequence[Lease]) -> None:
        now, before = self._clock.monotonic(), self._seen
        self._seen = {}
        for lease in living:
            host = lease.key.removeprefix(self._ring.host_prefix)
            known, since = before.get(host, ("", now))
            self._seen[host] = (lease.owner, since if known == lease.owner else now)

    def _due(self, away: frozenset[int]) -> frozenset[int]:
        """Those of them whose rightful owner has lived long enough, and not too many."""
        before = self._clock.monotonic() - self._options.settle_s
        ripe = {host for host, (_, since) in self._seen.items() if since <= before}
        owners = {shard: self._ring.owner_of(shard, self._seen) for shard in away}
        return frozenset([s for s in sorted(away) if owners[s] in ripe][:_HANDED])

    async def _show(self) -> None:
        ttl = self._options.lease_s
        if self._presence is not None:
            renewed = await self._leases.renew_many([self._presence], ttl)
            self._presence = renewed[0] if renewed else None
        if self._presence is None:
            self._presence = await self._leases.acquire(
                self._ring.host_key(self.host), self.owner, ttl
            )

    async def _renew(self, began: float) -> None:
        if self._held:
            renewed = await self._leases.renew_many([*self._held.values()], self._options.lease_s)
            kept = {int(i.key.removeprefix(self._ring.shard_prefix)): i for i in renewed}
            lost = frozenset(self._held) - frozenset(kept)
            self._held = kept
            if lost:
                metrics.FENCED.labels(self._ring.part).inc()
                log.warning(
                    "shards.lost", part=self._ring.part, shards=sorted(lost), host=self.host
                )
                self._left(lost)
        self._until = began + self._options.lease_s

    async def _hand_over(self, shards: frozenset[int]) -> None:
        if not shards:
            return
        given = [self._held.pop(shard) for shard in sorted(shards)]
        self._left(shards)
        for lease in given:
            await self._leases.release(lease)
        self._moves += len(shards)
        self._say("shards.handed_over", shards)

    def _say(self, event: str, shards: frozenset[int]) -> None:
        log.info(event, part=self._ring.part, shards=sorted(shards), host=self.host)

    async def _take(self, shards: list[int]) -> None:
        if not shards:
            return
        held = await self._leases.held(self._ring.shard_prefix)
        others = {lease.key for lease in held if lease.owner != self.owner}
        free = [shard for shard in shards if self._ring.shard_key(shard) not in others]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(shard: int) -> None:
            async with gate:
                lease = await self._leases.acquire(
                    self._ring.shard_key(shard), self.owner, self._options.lease_s
                )
            if lease is not None:
                self._held[shard] = lease
                self._moves += 1

        await asyncio.gather(*(one(shard) for shard in free))

    async def _leave(self) -> None:
        held, self._held = [*self._held.values()], {}
        if self._presence is not None:
            held.append(self._presence)
        try:
            async with asyncio.timeout(5.0):
                await asyncio.gather(*(self._leases.release(lease) for lease in held))
        except (TimeoutError, MailyError) as error:
            log.info("shards.leave", error=type(error).__name__)  # they run out by themselves
