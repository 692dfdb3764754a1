"""A world for the anchoring: chains that misbehave, a ledger that fails, a process that dies."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mesh.contracts.networks import AnchorState
from mesh.core.errors import Fenced, Unavailable
from mesh.core.virtual_loop import LoopClock
from mesh.resilience.breaker import BreakerOptions, CircuitBreaker
from mesh.trust.anchoring.memory_ledger import MemoryLedger, MemoryRows
from mesh.trust.anchoring.options import GWEI, AnchoringOptions, NetworkOptions
from mesh.trust.anchoring.records import Step, WantedRoot
from mesh.trust.anchoring.run import Anchoring, NetworkParts
from mesh.trust.chain import registry
from mesh.trust.chain.fake import FakeChain, FakeWallet, Faults
from mesh.trust.chain.fake_blocks import FakeBlocks, FakeTx

BUDGET = 10**17
BLOCK_S = 4.0


class Crash(BaseException):
    """The process died here."""


@dataclass
class Nature:
    """How bad the days are."""

    crash: float = 0.0
    """Of each await, before or after its effect."""
    ledger_fails: float = 0.0
    """… before or after it is written."""
    reorg: float = 0.0
    """Of each block."""
    outage: float = 0.0
    """Of each block: the node is away for up to a minute and a half."""
    pressure: float = 0.0
    """Of each block: the market goes up or down."""
    forgets: float = 0.0
    """Of each block: the pool loses what it has."""
    steal: float = 0.0
    """Of each block: somebody uses our key."""
    faults: Faults = field(default_factory=Faults)


class Mortal:
    """Every await of ``inner`` may be the last."""

    def __init__(self, inner: Any, world: World, fails: Callable[[], float]) -> None:
        self._inner = inner
        self._world = world
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._inner, name)
        if not callable(target):
            return target

        async def call(*args: Any) -> Any:
            world = self._world
            world.may_die()
            if world.rng.random() < self._fails() / 2:
                raise Unavailable("it did not arrive")
            result = await target(*args)
            if world.rng.random() < self._fails() / 2:
                raise Unavailable("its answer got lost")
            world.may_die()
            return result

        return call


class World:
    """``networks`` chains in order of preference, ``needed`` of which must have a root."""

    def __init__(
        self,
        seed: int,
        networks: int = 1,
        needed: int = 1,
        nature: Nature | None = None,
        *,
        development: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.nature = nature or Nature()
        self.development = development
        self.calm = False
        self.budget = BUDGET
        self.needed = needed
        self.clock = LoopClock()
        self.rows = MemoryRows(watch=self._watch)
        self.address = self.rng.randbytes(20)
        self.names = [f"n{number}" for number in range(networks)]
        self.chains = {
            name: FakeBlocks(
                100 + at,
                random.Random(self.rng.random()),
                final_blocks=self.rng.randint(2, 8),
                now=self.clock.now,
            )
            for at, name in enumerate(self.names)
        }
        self.faults = {name: Faults(**vars(self.nature.faults)) for name in self.names}
        self.deaths = 0
        self.lives = 0
        self.anchoring: Anchoring | None = None

    def want(self) -> bytes:
        root = self.rng.randbytes(32)
        self.rows.want(WantedRoot(root, uuid.uuid4(), uuid.uuid4(), self.clock.now()))
        if self.anchoring is not None and self.rng.random() < 0.7:
            self.anchoring.nudge()
        return root

    def may_die(self) -> None:
        if not self.calm and self.rng.random() < self.nature.crash:
            self.deaths += 1
            raise Crash

    def options(self, name: str) -> NetworkOptions:
        return NetworkOptions(
            name,
            self.chains[name].chain_id,
            confirmations=1 + self.chains[name].final_blocks // 2,
            replace_after_s=20.0,
            budget_wei=self.budget,
            orphan_grace_s=10.0,
            max_fee=400 * GWEI,
            development=self.development,
        )

    def open(self) -> Anchoring:
        fails = lambda: 0.0 if self.calm else self.nature.ledger_fails  # noqa: E731
        parts = [
            NetworkParts(
                self.options(name),
                Mortal(
                    FakeChain(
                        self.chains[name],
                        self.clock,
                        self.rng,
                        faults=self.faults[name],
                        automine=self.development,
                        development=self.development,
                    ),
                    self,
                    lambda: 0.0,
                ),
                FakeWallet(self.address),
                CircuitBreaker(
                    name,
                    BreakerOptions(failures=3, open_s=1.0, open_max_s=15.0),
                    self.clock,
                    rng=self.rng,
                ),
            )
            for name in self.names
        ]
        ledger = Mortal(MemoryLedger(self.rows), self, fails)
        return Anchoring(
            parts, ledger, self.clock, AnchoringOptions(self.needed, fallback_after_s=12.0)
        )

    async def live(self) -> None:
        """One life after the other. A former one may linger on for a while: its lease is lost."""
        ghosts: set[asyncio.Task[None]] = set()
        try:
            while True:
                self.lives += 1
                self.anchoring = self.open()
                life = asyncio.ensure_future(self._one(self.anchoring))
                if not self.calm and self.rng.random() < 0.3 and self.nature.crash:
                    await asyncio.wait({life}, timeout=self.rng.random() * 60)
                    ghosts.add(life)
                else:
                    await life
                await asyncio.sleep(self.rng.random() * 5)
        finally:
            for ghost in (*ghosts, life):
                ghost.cancel()
            await asyncio.gather(*ghosts, life, return_exceptions=True)

    async def _one(self, anchoring: Anchoring) -> None:
        try:
            await anchoring.run()
        except Fenced:
            return
        except BaseExceptionGroup as group:
            if group.split(Crash)[1] is not None:
                raise
        except Crash:
            return

    async def blocks(self, name: str) -> None:
        """The life of a chain."""
        chain, faults, nature = self.chains[name], self.faults[name], self.nature
        while True:
            await asyncio.sleep(self.rng.uniform(0.2, 1.8) * BLOCK_S)
            if self.development:
                if not self.calm and self._happens(nature.reorg):
                    chain.rewind(self.rng.randint(0, chain.head.number))
                self.check(name)
                continue
            if self.calm:
                faults.down, faults.refused, faults.lost, faults.lags = False, 0.0, 0.0, 0.0
                chain.base_fee = GWEI
            elif self._happens(nature.reorg):
                chain.reorganise(
                    self.rng.randint(1, 8), self.rng.choice([0, 0.5, 1]), self.rng.randint(0, 2)
                )
                self.check(name)
                continue
            if not self.calm:
                if self._happens(nature.outage):
                    faults.down = True
                    asyncio.get_running_loop().call_later(
                        self.rng.uniform(1, 90), setattr, faults, "down", False
                    )
                if self._happens(nature.pressure):
                    chain.base_fee = int(GWEI * 10 ** self.rng.uniform(-1, 2.5))
                if self._happens(nature.forgets):
                    chain.pool.clear()
                if self._happens(nature.steal):
                    chain.steal(self.address)
            chain.mine()
            self.check(name)

    def _happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def check(self, name: str) -> None:
        """The first law, after each block."""
        carried = Counter(
            root for _, tx in self.chains[name].mined() if (root := root_of(tx)) is not None
        )
        twice = [root for root, count in carried.items() if count > 1]
        assert not twice, f"{name} has a root twice"

    def _watch(self, step: Step) -> None:
        """The second law, before each step is written."""
        for row in step.anchors:
            if row.state is not AnchorState.FINAL or self.development:
                continue  # a development node may lose what was final at any moment
            chain = self.chains[row.network]
            assert row.block_number is not None
            assert row.block_number <= chain.finalized, "final before its block is"
            assert chain.blocks[row.block_number].hash == row.block_hash
            assert row.proof is not None
            assert row.proof.check(row.root).hash == row.block_hash
        for root in step.settled:
            finals = [
                row
                for (of, _), row in self.rows.anchors.items()
                if of == root and row.state is AnchorState.FINAL
            ]
            assert len(finals) >= self.needed

    async def until(self, done: Callable[[], bool], limit_s: float) -> None:
        async with asyncio.timeout(limit_s):
            while not done():  # noqa: ASYNC110 - the world tells nobody
                await asyncio.sleep(1.0)


def root_of(tx: FakeTx) -> bytes | None:
    return tx.data[4:] if tx.to == registry.ADDRESS else None


async def with_world(world: World, story: Awaitable[None]) -> None:
    """Run the chains and the anchoring while the story is told."""
    tasks = [asyncio.ensure_future(world.blocks(name)) for name in world.names]
    tasks.append(asyncio.ensure_future(world.live()))
    telling = asyncio.ensure_future(story)
    try:
        await asyncio.wait({telling, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        await telling
    finally:
        for task in (telling, *tasks):
            task.cancel()
        await asyncio.gather(telling, *tasks, return_exceptions=True)
