"""Anchoring under everything at once: crashes between any two awaits, lost answers, outages,
reorganisations, dear markets, forgetful nodes, foreign hands on the key, former owners that linger.

Law 1: never two transactions with one root on one chain. Law 2: nothing is final before its block.
Law 3: once the world is calm, every wanted root becomes final on as many networks as are needed.
"""

from __future__ import annotations

import asyncio

import pytest

from mesh.contracts.networks import AnchorState
from mesh.core.virtual_loop import run_virtual
from mesh.trust.chain.fake import Faults
from tests.trust_anchoring import Nature, World, with_world

BAD = Nature(
    crash=0.004,
    ledger_fails=0.01,
    reorg=0.08,
    outage=0.02,
    pressure=0.1,
    forgets=0.05,
    faults=Faults(refused=0.02, lost=0.02, lags=0.05, latency_s=0.3),
)


def play(seed: int, nature: Nature = BAD, steal: float = 0.0) -> World:
    nature = Nature(**{**vars(nature), "steal": steal})
    networks = 1 + seed % 3
    needed = 1 + (seed // 3) % networks

    async def main() -> World:
        world = World(seed, networks, needed, nature)

        async def story() -> None:
            for _ in range(6):
                await asyncio.sleep(world.rng.uniform(0, 60))
                world.want()
            await asyncio.sleep(120)
            world.calm = True
            await world.until(lambda: len(world.rows.settled) == 6, 3_000)

        await with_world(world, story())
        return world

    return run_virtual(main())


@pytest.mark.parametrize("part", range(8))
def test_every_root_becomes_final_once(part: int) -> None:
    assert lives(range(part * 5, part * 5 + 5)) > 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_root_becomes_final_once_in_a_thousand_worlds() -> None:
    assert lives(range(1_000, 2_000)) > 1_000


def lives(seeds: range) -> int:
    return sum(play(seed, steal=0.02 if seed % 4 == 0 else 0.0).lives for seed in seeds)


@pytest.mark.parametrize("seed", range(12))
def test_a_development_node_may_lose_what_was_final(seed: int) -> None:
    """It comes back from an old copy, or from none; crashes and lost answers as ever."""
    nature = Nature(crash=0.002, ledger_fails=0.005, reorg=0.1)

    async def main() -> int:
        world = World(seed, 1 + seed % 2, 1, nature, development=True)

        async def story() -> None:
            for _ in range(5):
                await asyncio.sleep(world.rng.uniform(0, 60))
                world.want()
            await asyncio.sleep(60)
            world.calm = True
            await asyncio.sleep(60)
            await world.until(lambda: len(world.rows.settled) == 5, 1_000)
            for root in world.rows.settled:
                finals = [
                    row
                    for (of, _), row in world.rows.anchors.items()
                    if of == root and row.state is AnchorState.FINAL
                ]
                assert finals
                for row in finals:
                    chain = world.chains[row.network]
                    assert row.block_number is not None
                    assert chain.blocks[row.block_number].hash == row.block_hash

        await with_world(world, story())
        return world.lives

    assert run_virtual(main())
