"""A host that dies at any moment: between any two statements of taking in, sealing, revoking,
erasing and telling, before and after each commit. Another one goes on.

What was acknowledged is there, once; a batch has one root and is wanted once; every state is told
once. Each test lets the process die at its first moment, then at its second, and so on, until it
survives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from mortal import Died, Fate, MortalDatabase
from trust_house import T_S, House, message, messages, open_house, settings_for

from actors.trust_lane import Answer
from actors.trust_sealer import Sealer
from actors.trust_teller import Teller, TellerOptions
from actors.trust_writer import BatchWriter
from mesh.contracts.networks import AnchorState
from mesh.contracts.trust import BatchState, RevokeReason
from mesh.core.ids import uuid7
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.pool import Database
from mesh.storage.trust_batches import BatchRow, TrustBatches
from mesh.storage.trust_erasures import TrustErasures
from mesh.storage.trust_keys import TrustKeys
from mesh.storage.trust_leaves import TrustLeaves
from mesh.storage.trust_revocations import RevocationRow, TrustRevocations
from mesh.storage.trust_telling import TrustTelling
from mesh.streams.log import START
from mesh.streams.names import trust_stream
from mesh.trust.intake import prepare, read_lines
from mesh.trust.merkle import Tree
from mesh.trust.placement import shard_of
from mesh.trust.work import ThreadWork

MOST = 200
"""Moments after which a test has gone wrong."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(
    database_dsn: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    settings = settings_for(
        database_dsn, valkey_url, tmp_path_factory.mktemp("crashes"), revocations_close_s=3_600.0
    )
    async with open_house(settings) as opened:
        yield opened


def writer(house: House, db: Database) -> BatchWriter:
    """With the lease of the host that owns everything."""
    shards = house.hosts.hosts["trust-host-0"].shards
    return BatchWriter(
        TrustBatches(db),
        TrustLeaves(db),
        shards.lease,
        lambda: None,
        lambda _: None,
        queue_bytes=10**9,
        rolling_leaves=10**6,
        max_leaves=10**6,
    )


def sealer(house: House, db: Database) -> Sealer:
    shards = house.hosts.hosts["trust-host-0"].shards
    return Sealer(
        TrustBatches(db),
        TrustLeaves(db),
        TrustKeys(db, b"a secret of more than thirty-two bytes for tests", "localhost/trust"),
        ThreadWork(),
        PostgresAnchorLedger.want,
        house.context.clock,
        shards.lease,
        lambda _: None,
    )


async def until_it_survives(
    house: House, live: Callable[[MortalDatabase], Awaitable[Any]]
) -> AsyncIterator[tuple[int, Any]]:
    """Which moment it died at, and what ``live`` gave (None: it died)."""
    for at in range(1, MOST):
        fate = Fate(at)
        try:
            answer = await live(MortalDatabase(house.context.db, fate))
        except (Died, Exception):
            assert fate.died
            answer = None
        yield at, answer
        if not fate.died:
            assert at > 3, "nothing was done at all"
            return
    raise AssertionError("it never got to its end")


async def count(house: House, sql: str, *args: Any) -> int:
    row = await house.context.db.fetchrow(f"SELECT count(*) AS n FROM {sql}", *args)
    assert row is not None
    return int(row["n"])


async def test_leaves_that_were_acknowledged_are_there_once(house: House) -> None:
    batch = UUID(int=0)
    lines = read_lines(messages(0, 5), 1, 10**6)
    half = read_lines(messages(0, 2), 1, 10**6)

    def rows(some: list[Any]) -> Any:
        return prepare(house.client._parts.vault, house.workspace, some)

    async def live(db: MortalDatabase) -> list[Answer]:
        nonlocal batch
        batch = await house.open()
        dying = writer(house, db)
        try:
            first = await dying.add(house.workspace, batch, rows(half), 1)
            told.append(first)
            second = await dying.add(house.workspace, batch, rows(lines), 1)
            told.append(second)
        finally:
            await dying.aclose()
        return [first, second]

    told: list[Answer] = []
    async for _ in until_it_survives(house, live):
        again = await house.add(batch, *messages(0, 5))
        assert [line.index for line in again] == [0, 1, 2, 3, 4]
        for answer in told:
            assert [index for _, index, _ in answer] == list(range(len(answer)))
        if told:
            assert all(line.repeated for line in again[: len(told[-1])])
        view = await house.client.batch(house.workspace, batch, timeout_s=T_S)
        assert view.size == 5
        leaves = b"".join([part async for part in TrustLeaves(house.context.db).leaves(batch, 5)])
        assert len(leaves) == 5 * 32
        told.clear()


async def test_a_batch_has_one_root_and_is_wanted_once(house: House) -> None:
    batch = UUID(int=0)

    async def live(db: MortalDatabase) -> BatchRow:
        nonlocal batch
        batch = await house.open()
        await house.add(batch, *messages(0, 7))
        row = await house.client._parts.batches.get(batch)
        dying, closing = writer(house, db), sealer(house, db)
        try:
            return await closing.seal(await dying.close(row))
        finally:
            await dying.aclose()

    async for _, answer in until_it_survives(house, live):
        view = await house.close(batch)
        leaves = b"".join([part async for part in TrustLeaves(house.context.db).leaves(batch, 7)])
        root = Tree(leaves).root
        assert view.root == root.hex()
        if answer is not None:
            assert (answer.root, answer.note) == (root, view.checkpoint)
        assert await count(house, "chain_roots WHERE batch_id = $1", batch) == 1
        assert await count(house, "trust_trees WHERE batch = $1", batch) == 1
        told = "trust_outbox WHERE batch = $1 AND data->>'state' = 'included'"
        assert await count(house, told, batch) == 1
        await house.context.db.fetch("DELETE FROM trust_outbox")
        await house.context.db.fetch("DELETE FROM chain_roots")


async def test_every_state_is_told_once_and_in_order(house: House) -> None:
    batch = UUID(int=0)
    lease = await house.anchoring()
    states = (AnchorState.SUBMITTED, AnchorState.CONFIRMED, AnchorState.FINAL)

    async def live(db: MortalDatabase) -> bool:
        nonlocal batch
        view, _ = await house.closed(*messages(0, 2))
        batch = view.id
        await house.anchor(bytes.fromhex(str(view.root)), *states)
        teller = Teller(
            TrustBatches(db),
            TrustTelling(db, 1),
            PostgresAnchorLedger(db),
            house.context.streams,
            house.context.clock,
            lease,
            TellerOptions(),
        )
        while await teller.take() or await teller.tell():
            pass
        return True

    async for _ in until_it_survives(house, live):
        await house.tell()
        view = await house.client.batch(house.workspace, batch, timeout_s=T_S)
        assert view.state is BatchState.FINAL
        seen = []
        async with asyncio.timeout(10):
            async for event in house.context.streams.read(trust_stream(batch), START):
                if event is None:
                    continue
                seen.append(event.data["state"])
                if seen[-1] == "final":
                    break
        assert seen == ["open", "included", "submitted", "confirmed", "final"]


async def test_a_revocation_is_a_leaf_once(house: House) -> None:
    view, told = await house.closed(*messages(0, 1_000)[:3])
    revoked: set[int] = set()
    place = [await house.client._parts.reader.place(line.id) for line in told]

    async def live(db: MortalDatabase) -> bool:
        lease = house.hosts.hosts["trust-host-0"].shards.lease(shard_of(house.workspace))
        await TrustBatches(db).create(
            uuid7(), house.workspace, shard_of(house.workspace), "revocations"
        )
        row = RevocationRow(
            place[0].cell.leaf, view.id, 0, RevokeReason.OTHER, 1_700_000_000, view.id, 0
        )
        return await TrustRevocations(db).add(
            lease, house.workspace, row, told[0].id, place[0].batch, None
        )

    async for at, _ in until_it_survives(house, live):
        revoked.add(at)
        await house.client.revoke(house.workspace, told[0].id, RevokeReason.OTHER, timeout_s=T_S)
        assert await count(house, "trust_revocations WHERE leaf = $1", place[0].cell.leaf) == 1
        listed = await house.client.batches(house.workspace, timeout_s=T_S)
        (own,) = [item for item in listed.batches if item.kind == "revocations"]
        assert own.size == 1
        told_once = "trust_outbox WHERE batch = $1 AND data->>'revoked' IS NOT NULL"
        assert await count(house, told_once, view.id) == 1
        # Anew, for the next moment.
        await house.context.db.fetch("DELETE FROM trust_revocations WHERE revoked = $1", view.id)
        await house.context.db.fetch("DELETE FROM trust_pages WHERE batch = $1", own.id)
        await house.context.db.fetch("DELETE FROM trust_batches WHERE id = $1", own.id)
        await house.context.db.fetch("DELETE FROM trust_outbox WHERE batch = $1", view.id)


async def test_an_erasure_is_whole_or_not_begun_and_is_finished_by_another(house: House) -> None:
    batch: BatchRow
    told: list[Any] = []

    async def live(db: MortalDatabase) -> bool:
        nonlocal batch, told
        identity = await house.open()
        told = await house.add(identity, *(message(n, f"p{n}@e.org") for n in range(3)))
        batch = await house.client._parts.batches.get(identity)
        erasures = TrustErasures(db)
        await erasures.erase(uuid7(), batch, [(0, told[0].id), (2, told[2].id)])
        return True

    async for _, answer in until_it_survives(house, live):
        views = [await house.client.view(line.id, timeout_s=T_S) for line in told]
        gone = [view.forgotten for view in views]
        begun = await count(house, "trust_erasures WHERE batch = $1", batch.id)
        assert gone in ([False] * 3, [True, False, True])
        assert begun == gone.count(True) // 2
        assert answer is None or begun == 1
    open_ones = await TrustErasures(house.context.db).unscrubbed(0.0)
    assert open_ones
