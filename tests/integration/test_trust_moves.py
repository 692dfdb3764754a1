"""Trust's hosts come and go: nothing acknowledged is lost, nobody writes with a lease of old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from trust_house import (
    T_S,
    House,
    ids,
    message,
    messages,
    open_house,
    settings_for,
    until,
)

from actors import trust_writer
from actors.trust_duty import Duty
from actors.trust_loop import TrustLoop
from actors.trust_open import open_teller
from mesh.contracts.networks import AnchorState
from mesh.contracts.trust import BatchState, CertificateState, NetworkView
from mesh.core.errors import Fenced, Overloaded, Unavailable
from mesh.storage.leases import Lease
from mesh.trust.checkpoint import SigningKey
from mesh.trust.client import ROLLING
from mesh.trust.intake import prepare, read_lines
from mesh.trust.placement import ANCHORING, shard_of

ZERO, ONE = "trust-host-0", "trust-host-1"


@pytest_asyncio.fixture(loop_scope="session")
async def house(
    database_dsn: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    home = tmp_path_factory.mktemp("moves")
    async with open_house(settings_for(database_dsn, valkey_url, home), ZERO, ONE) as opened:
        yield opened


def owner(house: House, shard: int) -> TrustLoop:
    return next(loop for loop in house.hosts.hosts.values() if shard in loop.shards.held)


async def test_a_dead_host_is_replaced_and_its_batches_go_on(house: House) -> None:
    batch = await house.open()
    first = await house.add(batch, *messages(0, 40))
    loop = owner(house, shard_of(batch))
    await house.hosts.kill(loop.host)
    again = await house.add(batch, *messages(20, 40))  # waits for the other to take over
    assert ids(again[:20]) == ids(first[20:])
    closed = await house.close(batch)
    assert (closed.size, closed.state) == (60, BatchState.INCLUDED)


async def test_a_former_owner_cannot_write(house: House) -> None:
    batch = await house.open()
    await house.add(batch, *messages(0, 3))
    former = await house.hosts.kill(owner(house, shard_of(batch)).host)
    (other,) = house.hosts.hosts
    await house.hosts.settled(other)
    former.shards._until = float("inf")  # it believes that all is as it was
    rows = prepare(house.client._parts.vault, house.workspace, read_lines(messages(9, 2), 1, 10**6))
    with pytest.raises(Fenced):
        await former.add(house.workspace, batch, rows, 1, {})
    with pytest.raises(Fenced):
        await former.close(house.workspace, batch)
    assert (await house.close(batch)).size == 3


async def test_a_host_that_does_not_own_a_shard_says_so(house: House) -> None:
    batch = await house.open()
    loop = owner(house, shard_of(batch))
    other = next(item for item in house.hosts.hosts.values() if item is not loop)
    with pytest.raises(Unavailable) as caught:
        await other.close(house.workspace, batch)
    assert caught.value.details["moved"] == shard_of(batch)


async def test_a_batch_that_was_closing_when_its_host_died_is_sealed(house: House) -> None:
    batch = await house.open()
    await house.add(batch, *messages(0, 5))
    loop = owner(house, shard_of(batch))
    row = await house.client._parts.batches.get(batch)
    await loop.writer.close(row)
    await house.hosts.kill(loop.host)

    async def sealed() -> bool:
        view = await house.client.batch(house.workspace, batch, timeout_s=T_S)
        return view.root is not None

    await until(sealed)


async def test_more_than_the_queue_holds_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await house.open()
    writer = owner(house, shard_of(batch)).writer
    monkeypatch.setattr(writer, "_queue_bytes", 1_000)
    async with writer._lane(batch, "campaign").lock:
        first = asyncio.create_task(house.add(batch, *messages(0, 50)))  # too large, but alone

        async def waits() -> bool:
            return writer.statistics()["waiting_bytes"] > 0

        await until(waits)
        with pytest.raises(Overloaded):
            await house.add(batch, message(60))
    assert len(await first) == 50
    assert writer.statistics()["waiting_bytes"] == 0


async def test_a_batch_that_cannot_be_sealed_is_tried_again_and_the_host_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await house.open()
    await house.add(batch, *messages(0, 4))
    loop = owner(house, shard_of(batch))
    keys = loop._parts.keys

    async def sealed_under_another_secret() -> list[SigningKey]:
        raise Unavailable("the keys were sealed under another secret")

    signers = keys.signers
    monkeypatch.setattr(keys, "signers", sealed_under_another_secret)
    with pytest.raises(Unavailable):
        await loop.close(house.workspace, batch)

    async def unwell() -> bool:
        return "another secret" in (loop.unhealthy() or "")

    await until(unwell)
    monkeypatch.setattr(keys, "signers", signers)

    async def sealed() -> bool:
        view = await house.client.batch(house.workspace, batch, timeout_s=T_S)
        return view.root is not None and loop.unhealthy() is None

    await until(sealed)


async def test_marks_of_idle_batches_leave_memory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_writer, "MARKS_BYTES", 12 * 25)
    batches = [await house.open() for _ in range(6)]
    for batch in batches:
        await house.add(batch, *messages(0, 10))
    held = [loop.writer.statistics() for loop in house.hosts.hosts.values()]
    assert all(item["marks_bytes"] <= 12 * 35 for item in held)
    for batch in batches:  # read again from the database
        lines = await house.add(batch, *messages(0, 12))
        assert [line.repeated for line in lines] == [True] * 10 + [False] * 2


async def test_single_mails_go_into_a_batch_that_closes_by_itself(
    database_dsn: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("rolling")
    settings = settings_for(database_dsn, valkey_url, home, batch_close_leaves=4)
    async with open_house(settings) as house:
        first = [(await house.add(ROLLING, message(at)))[0] for at in range(4)]
        views = [await house.client.view(line.id, timeout_s=T_S) for line in first]
        assert len({view.batch for view in views}) == 1

        async def closed() -> bool:
            view = await house.client.batch(house.workspace, views[0].batch, timeout_s=T_S)
            return view.root is not None

        await until(closed)
        (next_one,) = await house.add(ROLLING, message(9))
        assert (await house.client.view(next_one.id, timeout_s=T_S)).batch != views[0].batch
        # A repeat after a lost answer finds its first, though that batch is closed.
        (again,) = await house.add(ROLLING, message(3))
        assert (again.id, again.repeated) == (first[3].id, True)
    settings = settings_for(database_dsn, valkey_url, home, batch_close_s=0.2)
    async with open_house(settings) as house:
        (line,) = await house.add(ROLLING, message(0))

        async def included() -> bool:
            view = await house.client.view(line.id, timeout_s=T_S)
            return view.state is CertificateState.INCLUDED

        await until(included)


@dataclass
class Chains:
    """Of a duty under test."""

    name: str
    broken: bool = False
    ended: bool = False
    nudges: int = 0

    async def run(self) -> None:
        if self.broken:
            raise RuntimeError("the node speaks nonsense")
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.ended = True

    def networks(self) -> list[NetworkView]:
        return [NetworkView(name=self.name, chain_id=1, healthy=True)]

    def nudge(self) -> None:
        self.nudges += 1

    def statistics(self) -> dict[str, int]:
        return {}


async def test_one_host_has_the_duty_and_another_takes_it_over(house: House) -> None:
    made: dict[str, list[Chains]] = {"a": [], "b": []}

    def duty(name: str) -> Duty:
        async def begin(lease: Lease) -> tuple[Chains, object]:
            made[name].append(Chains(name, broken=name == "b" and not made["b"]))
            return made[name][-1], open_teller(house.context, lease)

        options = next(iter(house.hosts.hosts.values()))._options.shards
        return Duty(f"{name}/1", house.context.leases, house.context.clock, options, begin)  # type: ignore[arg-type]

    first, second = duty("a"), duty("b")
    one = asyncio.create_task(first.run())

    async def on(which: Duty) -> bool:
        return which.on

    await until(lambda: on(first))
    two = asyncio.create_task(second.run())
    await asyncio.sleep(0.3)
    assert not second.on
    assert [view.name for view in first.networks()] == ["a"]
    with pytest.raises(Unavailable):
        second.networks()
    # Somebody takes the lease by force: the holder notices and stops.
    async with house.context.db.connection() as connection:
        await connection.execute(
            "UPDATE leases SET epoch = epoch + 1, owner = 'x', expires_at = now() WHERE key = $1",
            ANCHORING,
        )

    async def noticed() -> bool:
        return made["a"][0].ended

    await until(noticed)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    # The second's first try breaks, so it tries again.
    await until(lambda: on(second))
    assert len(made["b"]) > 1
    assert second.unhealthy() is None
    two.cancel()
    await asyncio.gather(two, return_exceptions=True)
    lease = await house.context.leases.acquire(ANCHORING, "next/1", 5.0)
    assert lease is not None  # given back at once
    await house.context.leases.release(lease)


async def test_what_a_fenced_teller_would_say_is_not_said(house: House) -> None:
    batch, _ = await house.closed(*messages(0, 2))
    root = bytes.fromhex(str(batch.root))
    await house.anchor(root, AnchorState.SUBMITTED)
    old = open_teller(house.context, await house.anchoring())
    newer = await house.context.leases.acquire(ANCHORING, "test/1", 60.0)
    assert newer is not None
    with pytest.raises(Fenced):
        await old.take()
    assert (await house.client.batch(house.workspace, batch.id, timeout_s=T_S)).state is (
        BatchState.INCLUDED
    )
    assert await open_teller(house.context, newer).take()
    assert (await house.client.batch(house.workspace, batch.id, timeout_s=T_S)).state is (
        BatchState.SUBMITTED
    )
    await house.context.leases.release(newer)
