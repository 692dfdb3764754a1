"""The anchoring as a whole: takes wanted roots in, keeps a loop for each network, says how it goes.

One process runs it, the owner of a lease; every write checks that. What was begun in another life
goes on from the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.contracts.networks import NetworkView
from mesh.core.clock import Clock
from mesh.core.errors import Fenced, MailyError
from mesh.core.logging import get_logger
from mesh.resilience.breaker import CircuitBreaker
from mesh.trust.anchoring.book import Roots
from mesh.trust.anchoring.choice import chosen
from mesh.trust.anchoring.gauges import show
from mesh.trust.anchoring.ledger import AnchorLedger
from mesh.trust.anchoring.link import Link
from mesh.trust.anchoring.network import Network
from mesh.trust.anchoring.options import AnchoringOptions, NetworkOptions
from mesh.trust.anchoring.records import Step
from mesh.trust.anchoring.views import view
from mesh.trust.chain.protocol import Chain
from mesh.trust.chain.wallet import Wallet

log = get_logger("trust.anchoring")

INTAKE_S = 1.0
"""Between two looks for wanted roots, when nobody says that there are some."""


@dataclass(frozen=True, slots=True)
class NetworkParts:
    """What one network needs. The wallet must be used by nobody else."""

    options: NetworkOptions
    chain: Chain
    wallet: Wallet
    breaker: CircuitBreaker


class Anchoring:
    """``networks``: in order of preference. ``run`` until cancelled, then ``aclose``."""

    def __init__(
        self,
        networks: Sequence[NetworkParts],
        ledger: AnchorLedger,
        clock: Clock,
        options: AnchoringOptions | None = None,
    ) -> None:
        self.options = options or AnchoringOptions()
        self._ledger = ledger
        self._clock = clock
        self._roots = Roots(self.options.needed)
        self._networks = [
            Network(
                Link(parts.options, parts.chain, parts.breaker, clock),
                parts.wallet,
                self._roots,
                ledger,
                self._chosen,
                stuck_after_s=self.options.stuck_after_s,
            )
            for parts in networks
        ]
        self._bells = {name: asyncio.Event() for name in ("", *(n.name for n in self._networks))}
        self._taken_in = 0
        self._settled = 0
        self._last_error = ""

    async def run(self) -> None:
        """Until cancelled. Raises Fenced when a newer owner exists."""
        await self._load()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake())
                for network in self._networks:
                    group.create_task(self._look_after(network))
        except* Fenced as group_of:
            raise group_of.exceptions[0] from None

    def nudge(self) -> None:
        """A root was wanted just now."""
        for bell in self._bells.values():
            bell.set()

    def networks(self) -> list[NetworkView]:
        """How each network is doing, in order of preference."""
        return [self._view(network) for network in self._networks]

    def _view(self, network: Network) -> NetworkView:
        now, alarm_s = self._clock.now(), self.options.alarm_s
        return view(network, self._roots, now, alarm_s, self._chosen)

    def statistics(self) -> dict[str, int | float]:
        return {
            "roots_open": sum(1 for _ in self._roots.unsettled()),
            "roots_taken_in": self._taken_in,
            "roots_settled": self._settled,
            "networks_up": sum(network.link.up for network in self._networks),
        }

    async def aclose(self) -> None:
        """Close the connections to the nodes. ``run`` must have ended."""
        for network in self._networks:
            await network.link.chain.aclose()

    def _chosen(self, root: bytes) -> frozenset[str]:
        return chosen(
            [network.standing(root) for network in self._networks],
            self.options.needed,
            self.options.fallback_after_s,
            self.options.patience,
        )

    async def _load(self) -> None:
        while True:
            try:
                loaded = await self._ledger.load()  # nobody writes yet
            except Fenced:
                raise
            except (MailyError, TimeoutError) as error:
                log.info("anchoring.waits", error=str(error))
                await self._clock.sleep(INTAKE_S)
                continue
            for network in self._networks:
                network.load(loaded)
            return

    async def _intake(self) -> None:
        while True:
            try:
                await self._take_in()
            except Fenced:
                raise
            except (MailyError, TimeoutError) as error:
                self._note(error)
            await self._rest("", INTAKE_S)

    async def _take_in(self) -> None:
        new = self._roots.add(await self._ledger.waiting(self.options.waiting_roots))
        ripe = tuple(self._roots.ripe())
        if ripe:
            step = Step(settled=ripe)
            async with self._roots.writing:
                await self._ledger.write(step)
                self._roots.apply(step)
            self._settled += len(ripe)
        self._roots.forget(
            root
            for network in self._networks
            for slot in network.book.slots.values()
            for root in slot.roots
        )
        if new:
            self._taken_in += new
            self.nudge()

    async def _look_after(self, network: Network) -> None:
        while True:
            try:
                await network.poll()
            except Fenced:
                raise
            except (MailyError, TimeoutError) as error:
                self._note(error)
            show(self._view(network))
            options = network.options
            busy = network.busy() or any(True for _ in self._roots.unsettled())
            await self._rest(network.name, options.poll_s if busy else options.idle_s)

    async def _rest(self, name: str, seconds: float) -> None:
        """For so long, or until somebody rings."""
        bell = self._bells[name]
        try:
            async with asyncio.timeout(seconds):
                await bell.wait()
        except TimeoutError:
            pass
        bell.clear()

    def _note(self, error: Exception) -> None:
        words = str(error) or type(error).__name__
        if words != self._last_error:
            self._last_error = words
            log.info("anchoring.waits", error=words)
