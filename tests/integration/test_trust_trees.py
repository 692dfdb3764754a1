"""Stored trees of batches: one root however they are hashed, proofs from few rows."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import pytest_asyncio
from trust_house import T_S, House, open_house, settings_for

from actors import trust_sealer
from actors.trust_sealer import Sealer
from mesh.core.errors import InvalidInput
from mesh.storage.trust_batches import TrustBatches
from mesh.storage.trust_leaves import TrustLeaves
from mesh.trust.merkle import Tree, root_from_inclusion
from mesh.trust.pages import Prepared
from mesh.trust.work import ThreadWork

RNG = random.Random(4)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(
    database_dsn: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with open_house(
        # Nobody dies here, and a machine that is busy for a second must not take a shard away.
        settings_for(database_dsn, valkey_url, tmp_path_factory.mktemp("trees"), lease_s=30.0)
    ) as opened:
        yield opened


def leaves(count: int, hashes: bytes | None = None) -> Prepared:
    """Ready made: what is in them does not matter here."""
    return Prepared(
        salts=RNG.randbytes(16 * count),
        leaves=hashes or RNG.randbytes(32 * count),
        marks=RNG.randbytes(24 * count),
        people=RNG.randbytes(8 * count),
        sealed=(b"sealed",) * count,
        message_ids=("",) * count,
        documents=(None,) * count,
    )


async def fill(house: House, *parts: Prepared) -> tuple[UUID, bytes]:
    """A batch with one page or more for each part, and all its hashes."""
    batch = await house.open()
    host = house.hosts.hosts["trust-host-0"]
    for part in parts:
        await host.add(house.workspace, batch, part, 1, {})
    return batch, b"".join(part.leaves for part in parts)


def sealer(house: House, at_once: int) -> Sealer:
    host, db = house.hosts.hosts["trust-host-0"], house.context.db
    return Sealer(
        TrustBatches(db),
        TrustLeaves(db),
        host._parts.keys,
        ThreadWork(at_once),
        host._parts.want,
        house.context.clock,
        host.shards.lease,
        lambda _: None,
    )


async def test_the_root_is_the_same_whatever_the_number_of_workers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_sealer, "RANGE", 1_024)
    batch, hashes = await fill(
        house, leaves(1), leaves(700), *(leaves(1) for _ in range(30)), leaves(3_000), leaves(77)
    )
    whole = Tree(hashes)
    row = await house.client._parts.batches.get(batch)
    roots = {(await sealer(house, workers)._tree(row)).root for workers in (1, 2, 5)}
    assert roots == {whole.root}

    closed = await house.close(batch)
    assert closed.root == whole.root.hex()
    row = await house.client._parts.batches.get(batch)
    for index in {0, 1, 700, 731, 1_023, 1_024, row.size - 1, *RNG.sample(range(row.size), 30)}:
        proof = await house.client._parts.reader._proof(row, index)
        assert list(proof.path) == whole.inclusion(index)
        root = root_from_inclusion(whole.leaf(index), index, row.size, proof.path)
        assert root == whole.root
        cell = await TrustLeaves(house.context.db).cell(batch, index)
        assert cell is not None
        assert cell.leaf == whole.leaf(index)
        assert cell.sealed == b"sealed"
    assert await TrustLeaves(house.context.db).cell(batch, row.size) is None


async def test_a_leaf_that_is_there_twice_is_never_signed(house: House) -> None:
    one = leaves(50)
    batch, _ = await fill(house, one, leaves(20), leaves(1, one.leaves[32:64]))
    with pytest.raises(InvalidInput, match="twice"):
        await house.close(batch)
    view = await house.client.batch(house.workspace, batch, timeout_s=T_S)
    assert view.root is None
    # The first 8 bytes alone prove nothing: such leaves are compared whole.
    alike = one.leaves[:8] + RNG.randbytes(24)
    batch, hashes = await fill(house, one, leaves(1, alike))
    assert (await house.close(batch)).root == Tree(hashes).root.hex()
