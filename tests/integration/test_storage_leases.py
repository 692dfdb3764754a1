"""Leases: one owner, epochs that only grow, fenced writers."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from mesh.core.errors import Fenced
from mesh.storage.leases import Lease, Leases, check_lease, check_leases
from mesh.storage.pool import Database


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.fixture
def key() -> str:
    return f"key-{uuid.uuid4()}"


async def lapse(database: Database, key: str) -> None:
    await database.fetch("UPDATE leases SET expires_at = now() - interval '1s' WHERE key = $1", key)


async def held(leases: Leases, key: str, owner: str) -> Lease:
    lease = await leases.acquire(key, owner, 60)
    assert lease is not None
    return lease


async def test_a_held_key_is_refused_until_it_lapses(
    leases: Leases, database: Database, key: str
) -> None:
    assert await leases.get(key) is None
    first = await held(leases, key, "a")
    assert first.epoch == 1
    assert await leases.acquire(key, "b", 60) is None
    assert await leases.get(key) == first
    await lapse(database, key)
    second = await held(leases, key, "b")
    assert second.epoch == 2
    with pytest.raises(Fenced) as caught:
        await leases.renew(first, 60)
    assert caught.value.details == {"key": key, "epoch": 1}


async def test_renewing_moves_the_end_and_keeps_the_epoch(
    leases: Leases, database: Database, key: str
) -> None:
    lease = await held(leases, key, "a")
    renewed = await leases.renew(lease, 120)
    assert renewed.epoch == lease.epoch
    assert renewed.expires_at > lease.expires_at
    await lapse(database, key)  # late, but nobody took it
    assert (await leases.renew(lease, 60)).epoch == lease.epoch


async def test_release_frees_at_once_and_is_harmless_late(leases: Leases, key: str) -> None:
    first = await held(leases, key, "a")
    await leases.release(first)
    second = await held(leases, key, "b")
    assert second.epoch == 2
    await leases.release(first)
    assert await leases.acquire(key, "c", 60) is None


async def test_the_same_owner_acquires_a_new_epoch_and_fences_itself(
    leases: Leases, key: str
) -> None:
    first = await held(leases, key, "a")
    again = await held(leases, key, "a")
    assert again.epoch == 2
    with pytest.raises(Fenced):
        await leases.renew(first, 60)


async def test_of_many_at_once_one_wins(leases: Leases, database: Database, key: str) -> None:
    epochs = []
    for _ in range(5):
        winners = await asyncio.gather(*(leases.acquire(key, f"o{i}", 60) for i in range(16)))
        (winner,) = [lease for lease in winners if lease is not None]
        epochs.append(winner.epoch)
        await lapse(database, key)
    assert epochs == [1, 2, 3, 4, 5]


async def test_a_write_with_an_old_epoch_is_refused(
    leases: Leases, database: Database, key: str
) -> None:
    first = await held(leases, key, "a")
    async with database.transaction() as connection:
        await check_lease(connection, first)
    await lapse(database, key)
    await held(leases, key, "b")
    with pytest.raises(Fenced):
        async with database.transaction() as connection:
            await check_lease(connection, first)


async def test_nobody_takes_over_in_the_middle_of_a_checked_write(
    leases: Leases, database: Database, key: str
) -> None:
    first = await held(leases, key, "a")
    await lapse(database, key)
    async with database.transaction() as connection:
        await check_lease(connection, first)
        taking = asyncio.create_task(leases.acquire(key, "b", 60))
        blocked = "SELECT FROM pg_locks WHERE NOT granted"
        while not await database.fetch(blocked):  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.005)
        assert not taking.done()
    taken = await taking
    assert taken is not None
    assert taken.epoch == 2


async def test_many_are_renewed_at_once_and_the_lost_are_missing(
    leases: Leases, database: Database
) -> None:
    mine = [await leases.acquire(f"many/{n}", "a/1", 30.0) for n in range(3)]
    held = [lease for lease in mine if lease is not None]
    assert len(held) == 3
    await leases.release(held[1])
    taken = await leases.acquire("many/1", "b/1", 30.0)
    assert taken is not None
    renewed = await leases.renew_many(held[::-1], 60.0)
    assert {lease.key for lease in renewed} == {"many/0", "many/2"}
    assert all(lease.expires_at > held[0].expires_at for lease in renewed)
    assert await leases.renew_many([], 60.0) == []
    async with database.transaction() as connection:
        await check_leases(connection, renewed)
        with pytest.raises(Fenced) as caught:
            await check_leases(connection, held)
    assert caught.value.details == {"keys": ["many/1"]}
    assert [lease.owner for lease in await leases.held("many/")] == ["a/1", "b/1", "a/1"]
    assert await leases.held("many") != []
    assert await leases.held("nobody/") == []


async def test_a_successor_ends_what_its_former_self_holds(leases: Leases) -> None:
    former = await leases.acquire("role/0", "worker-1/old", 30.0)
    other = await leases.acquire("role/1", "worker-10/old", 30.0)
    assert former is not None
    assert other is not None
    assert await leases.acquire("role/0", "worker-1/new", 30.0) is None
    await leases.release_former("role/", "worker-1/", "worker-1/new")
    mine = await leases.acquire("role/0", "worker-1/new", 30.0)
    assert mine is not None
    assert mine.epoch == former.epoch + 1
    await leases.release_former("role/", "worker-1/", "worker-1/new")
    owners = [lease.owner for lease in await leases.held("role/")]
    assert owners == ["worker-1/new", "worker-10/old"]
