"""A network as it answers now: its head, our nonces, prices, and whether it can be used at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from mesh.core.clock import Clock
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.resilience.breaker import BreakerState, CircuitBreaker
from mesh.trust.anchoring.options import NetworkOptions
from mesh.trust.chain import registry
from mesh.trust.chain.protocol import Chain, Head, Market

log = get_logger("trust.network")

T = TypeVar("T")

BALANCE_EVERY_S = 30.0
DEVELOPMENT_WEI = 10**18


class Link:
    """One network's node, behind its circuit breaker."""

    def __init__(
        self, options: NetworkOptions, chain: Chain, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        self.options = options
        self.chain = chain
        self.breaker = breaker
        self.clock = clock
        self.head: Head | None = None
        self.genesis: bytes | None = None
        """Of the node, since it was last checked."""
        self.down_since: float | None = clock.monotonic()
        """Monotonic; None: it answers."""
        self.last_error = ""
        self.balance: int | None = None
        self.alarms: set[str] = set()
        self.nonces: dict[bytes, int] = {}
        self._hashes: dict[int, bytes | None] = {}
        self._market: Market | None = None
        self._balance_at = float("-inf")

    @property
    def up(self) -> bool:
        return self.down_since is None and self.breaker.state is BreakerState.CLOSED

    def down_s(self) -> float:
        """Seconds since it stopped answering; 0: it answers."""
        if self.down_since is not None:
            return max(self.clock.monotonic() - self.down_since, 1e-9)
        return 0.0 if self.breaker.state is BreakerState.CLOSED else 1e-9

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """One call, if the breaker lets it through. Raises Unavailable and what the call does."""
        with self.breaker.guard():
            return await call()

    def failed(self, error: MailyError | TimeoutError) -> None:
        self.last_error = str(error) or type(error).__name__
        if self.down_since is None:
            self.down_since = self.clock.monotonic()
            log.warning("network.down", network=self.options.name, error=self.last_error)
        self.genesis = None  # whoever answers next may be another

    async def look(self, addresses: Collection[bytes]) -> Head:
        """Head and nonces, fresh. Raises Unavailable."""
        self._hashes = {}
        self._market = None
        if self.genesis is None:
            await self._identify()
        head = await self.ask(self.chain.head)
        nonces = {}
        for address in addresses:
            nonces[address] = await self.ask(lambda a=address: self.chain.nonce(a))  # type: ignore[misc]
        if self.down_since is not None:
            log.info("network.up", network=self.options.name, head=head.number)
        self.head, self.nonces, self.down_since = head, nonces, None
        return head

    async def _identify(self) -> None:
        chain_id = await self.ask(self.chain.chain_id)
        if chain_id != self.options.chain_id:
            self.alarms.add("wrong_chain")
            raise Unavailable(
                f"The node of {self.options.name} is of chain {chain_id}, not "
                f"{self.options.chain_id}: nothing is sent to it.",
                {"network": self.options.name},
            )
        self.genesis = await self.ask(self.chain.genesis)

    async def block_hash(self, number: int) -> bytes | None:
        """Of the chain since the last look."""
        if number not in self._hashes:
            self._hashes[number] = await self.ask(lambda: self.chain.block_hash(number))
        return self._hashes[number]

    async def market(self) -> Market:
        if self._market is None:
            self._market = await self.ask(self.chain.market)
        return self._market

    async def check_balance(self, address: bytes) -> None:
        """Now and then; sets the alarm, and asks a development node for more."""
        now = self.clock.monotonic()
        if now - self._balance_at < BALANCE_EVERY_S and "balance_low" not in self.alarms:
            return
        balance = await self.ask(lambda: self.chain.balance(address))
        if balance < self.options.low_balance_wei and self.options.development:
            wei = max(DEVELOPMENT_WEI, 10 * self.options.low_balance_wei)
            await self.ask(lambda: self.chain.fund(address, wei))
            balance = await self.ask(lambda: self.chain.balance(address))
        self.balance, self._balance_at = balance, now
        self.alarm("balance_low", balance < self.options.low_balance_wei)

    async def has_registry(self, address: bytes) -> bool:
        """Whether there is a registry at the address: ours byte for byte, or, where the settings
        name one, any code."""
        code = await self.ask(lambda: self.chain.code(address))
        return bool(code) if self.options.contract is not None else registry.is_registry(code)

    async def has_factory(self) -> bool:
        return bool(await self.ask(lambda: self.chain.code(registry.FACTORY)))

    def alarm(self, name: str, on: bool) -> None:
        if on and name not in self.alarms:
            log.warning("network.alarm", network=self.options.name, alarm=name)
        (self.alarms.add if on else self.alarms.discard)(name)
