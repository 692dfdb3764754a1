"""Shards move between hosts, hosts die and come back: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from memory_support import BRAND, House, asked, contact, memory, open_house, settings_for

from mesh.contracts.memory import MemoryAnswer
from mesh.core.errors import DeadlineExceeded, Fenced, Unavailable
from mesh.memory.placement import shard_of, shards_of
from mesh.storage.leases import Lease
from mesh.storage.memory_rows import Draft

TIMELESS = {"recency_weight": 0.0}
"""Else scores sink while one waits."""
ZERO, ONE = "memory-host-0", "memory-host-1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest_asyncio.fixture(loop_scope="session")
async def house(database_dsn: str, valkey_url: str, home: Path) -> AsyncIterator[House]:
    settings = settings_for(database_dsn, valkey_url, home, snapshot_changes=1)
    async with open_house(settings, ZERO, ONE) as opened:
        yield opened


def said(answer: MemoryAnswer) -> list[Any]:
    """What must not depend on who answers, nor on when."""
    return [
        (hit.item, hit.score, hit.parts.model_copy(update={"recency": 1.0})) for hit in answer.hits
    ]


async def answers(house: House, names: list[str]) -> list[Any]:
    found = []
    for name in names:
        told = await house.recall(asked(f"what does {name} like", contact(name), **TIMELESS))
        found.append(said(told))
    return found


async def test_both_hosts_own_their_share(house: House) -> None:
    held = {name: house.hosts.hosts[name].shards.held for name in (ZERO, ONE)}
    assert held[ZERO] | held[ONE] == set(range(64))
    assert not held[ZERO] & held[ONE]
    assert held[ZERO] == shards_of(ZERO, [ZERO, ONE])


async def test_a_killed_hosts_shards_are_taken_over_and_answer_alike(house: House) -> None:
    names = [f"name{n}" for n in range(12)]
    await house.remember(
        *(memory(f"{name} likes colour {n}", contact(name)) for name in names for n in range(4))
    )
    before = await answers(house, names)
    assert all(len(found) == 4 for found in before)
    await house.hosts.kill(ZERO)
    house.client._parts.directory.invalidate()
    await house.hosts.settled(ONE)
    assert await answers(house, names) == before
    # The dead one comes back as a new incarnation and gets its own again.
    house.hosts.start(ZERO)
    await house.hosts.settled(ZERO, ONE)
    assert await answers(house, names) == before
    assert house.hosts.hosts[ZERO].shards.held == shards_of(ZERO, [ZERO, ONE])


async def test_what_was_taken_over_stays_until_its_owner_has_settled(
    database_dsn: str, valkey_url: str, home: Path
) -> None:
    settings = settings_for(database_dsn, valkey_url, home, settle_s=600.0)
    async with open_house(settings, ONE) as house:
        shards = house.hosts.hosts[ONE].shards
        await house.remember(memory("Here before the other came."))
        newcomer = house.hosts.start(ZERO).shards
        async with asyncio.timeout(15):
            while len(shards._seen) + len(newcomer._seen) < 4:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        assert shards.held == set(range(64))
        assert not newcomer.held
        shards._options = replace(shards._options, settle_s=0.0)
        await house.hosts.settled(ZERO, ONE)
        told = await house.recall(asked("who came"))
        assert [hit.item.text for hit in told.hits] == ["Here before the other came."]


async def test_nobody_waits_for_a_dead_host_whose_shards_another_has(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = await house.remember(memory("Said before it died."))
    namespace = house.client._parts.vault.namespace_id(house.workspace, BRAND)
    shard = shard_of(namespace)
    dead = next(n for n, loop in house.hosts.hosts.items() if shard in loop.shards.held)
    call = house.hosts.call

    async def hangs(host: str, *rest: Any) -> Any:
        if host == dead:
            await asyncio.Event().wait()  # nobody says that it is gone
        return await call(host, *rest)

    monkeypatch.setattr(house.hosts, "call", hangs)
    await house.hosts.kill(dead)
    # Without a limit for one try: only the watch over the leases can end the first one.
    until = house.context.clock.monotonic() + 30.0
    owners = house.client._owners
    found = await owners.ask(shard, "item", (house.workspace, namespace, item.id), until)
    assert found.id == item.id


async def test_writes_wait_for_the_new_owner_and_reads_fall_back(house: House) -> None:
    (item,) = await house.remember(memory("Written before anybody died."))
    await house.hosts.kill(ZERO)
    await house.hosts.kill(ONE)
    told = await house.client.recall(house.workspace, asked("who died"), timeout_s=4.0)
    assert [hit.item.id for hit in told.hits] == [item.id]
    assert told.degraded
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await house.client.remember(house.workspace, [memory("Lost?")], timeout_s=0.3)
    writing = asyncio.create_task(house.remember(memory("Written while nobody was there.")))
    await asyncio.sleep(0.1)
    house.hosts.start(ONE)
    (late,) = await writing
    told = await house.recall(asked("nobody was there"))
    assert not told.degraded
    assert late.id in {hit.item.id for hit in told.hits}


async def test_a_former_owner_cannot_write(house: House) -> None:
    await house.remember(memory("The first one."))
    namespace = house.client._parts.vault.namespace_id(house.workspace, BRAND)
    shard = shard_of(namespace)
    name = next(n for n, loop in house.hosts.hosts.items() if shard in loop.shards.held)
    former = await house.hosts.kill(name)
    old: Lease = former.shards._held[shard]
    other = ONE if name == ZERO else ZERO
    await house.hosts.settled(other)

    # It wakes up from a long pause and believes that all is as it was.
    former.shards._until = float("inf")
    with pytest.raises(Fenced):
        await former.remember(house.workspace, [memory("From the grave.")], [[1.0] * 32])
    with pytest.raises(Fenced):
        await former.erase([], [namespace], [shard])
    partition = former.keeper.here(namespace)
    assert partition is not None
    with pytest.raises(Fenced):
        await former.keeper.snapshot(old, namespace)
    record = partition.record(next(partition.ids()))
    assert record is not None
    with pytest.raises(Fenced):
        await house.client._parts.repository.write([old], [], [record])
    house.client._parts.directory.invalidate()
    told = await house.recall(asked("grave first"))
    assert [hit.item.text for hit in told.hits] == ["The first one."]


async def test_a_paused_host_does_not_answer_for_what_it_may_have_lost(house: House) -> None:
    await house.remember(memory("Something to find."))
    namespace = house.client._parts.vault.namespace_id(house.workspace, BRAND)
    name = next(
        n for n, loop in house.hosts.hosts.items() if shard_of(namespace) in loop.shards.held
    )
    host = house.hosts.hosts[name]
    host.shards._until = 0.0
    with pytest.raises(Unavailable) as caught:
        await host.find(house.workspace, asked("something"), [BRAND], None)
    assert caught.value.details["moved"] == shard_of(namespace)


async def test_snapshots_are_read_and_bad_ones_are_not_believed(house: House, home: Path) -> None:
    texts = [f"fact number {n} about tulips" for n in range(80)]
    await house.remember(*map(memory, texts))
    namespace = house.client._parts.vault.namespace_id(house.workspace, BRAND)
    for host in house.hosts.hosts.values():
        await host._passes.round()
    (file,) = await asyncio.to_thread(lambda: list(home.rglob("*.snapshot")))
    (late,) = await house.remember(memory("A late fact about tulips"))
    query = asked("tulips fact", k=100, diversity=0.0, **TIMELESS)
    before = await house.recall(query)
    assert len(before.hits) == 81

    async def restarted() -> dict[str, int | float]:
        for name in (ZERO, ONE):
            await house.hosts.stop(name)
            house.hosts.start(name)
        await house.hosts.settled(ZERO, ONE)
        house.client._parts.directory.invalidate()
        again = await house.recall(query)
        assert said(again) == said(before)
        found = [loop for loop in house.hosts.hosts.values() if loop.keeper.here(namespace)]
        return found[0].keeper.statistics()

    assert (await restarted())["from_snapshot"] == 1
    whole = file.read_bytes()
    assert b"tulips" not in whole
    for torn in (whole[:-1], whole[: len(whole) // 2], b"", whole[:40] + b"\0" + whole[41:]):
        file.write_bytes(torn)
        assert (await restarted())["from_rows"] == 1
    file.unlink()
    assert (await restarted())["from_rows"] == 1
    assert late.id in {hit.item.id for hit in (await house.recall(asked("late", k=1))).hits}


async def test_an_answer_that_was_lost_is_given_again(house: House) -> None:
    """The group was committed, the host died before it said so: the repeat finds the row."""
    namespace = house.client._parts.vault.namespace_id(house.workspace, BRAND)
    (first,) = await house.remember(memory("Said once."))
    repository = house.client._parts.repository
    record = (await repository.get(house.workspace, [first.id]))[0]
    shard = shard_of(namespace)
    host = next(loop for loop in house.hosts.hosts.values() if shard in loop.shards.held)
    again = await repository.write([host.shards.lease(shard)], [Draft(record, "")], [])
    assert again == {record.id: record.change}
    (second,) = await house.remember(memory("Said once."))
    assert second.id == first.id


async def test_idle_namespaces_leave_memory_and_come_back(house: House) -> None:
    await house.remember(memory("Kept on disk.", contact("anna")))
    namespace = house.client._parts.vault.namespace_id(house.workspace, contact("anna"))
    host = next(loop for loop in house.hosts.hosts.values() if loop.keeper.here(namespace))
    host.keeper._kept[namespace].used_at = float("-inf")
    await host._passes.round()
    assert host.keeper.here(namespace) is None
    told = await house.recall(asked("disk", contact("anna")))
    assert len(told.hits) == 1
    assert not told.degraded


async def test_many_writers_share_commits(house: House) -> None:
    texts = [f"note {n} of many" for n in range(120)]
    kept = await asyncio.gather(*(house.remember(memory(text, contact("z"))) for text in texts))
    assert len({item.id for (item,) in kept}) == 120
    groups = sum(loop.writer.statistics()["groups"] for loop in house.hosts.hosts.values())
    assert groups < 60
    told = await house.recall(asked("note many", contact("z"), k=100, diversity=0.0))
    assert len(told.hits) == 100
