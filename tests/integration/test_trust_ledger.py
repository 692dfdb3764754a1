"""One suite for both ledgers: PostgreSQL's, and the one in memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from mesh.contracts.networks import AnchorState
from mesh.core.errors import Fenced
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.leases import Leases
from mesh.storage.pool import Database
from mesh.trust.anchoring.ledger import AnchorLedger
from mesh.trust.anchoring.memory_ledger import MemoryLedger, MemoryRows
from mesh.trust.anchoring.records import AnchorRow, Attempt, ClosedNonce, Step, WantedRoot
from mesh.trust.receipt import Anchor
from tests.trust_support import event_anchor

AT = 1_790_000_000.0
NETWORK = "local"
ADDRESS = bytes(range(20))


@dataclass
class Books:
    ledger: AnchorLedger
    want: Callable[[bytes], Awaitable[None]]
    successor: Callable[[], Awaitable[AnchorLedger]]
    changes: Callable[[], Awaitable[list[Any]]]


@pytest_asyncio.fixture(loop_scope="session", params=["memory", "postgres"])
async def books(request: pytest.FixtureRequest, database: Database) -> Books:
    if request.param == "memory":
        rows = MemoryRows()

        async def want(root: bytes) -> None:
            rows.want(WantedRoot(root, uuid.uuid4(), uuid.uuid4(), AT))

        async def successor() -> AnchorLedger:
            return MemoryLedger(rows)

        async def changes() -> list[Any]:
            return rows.changes

        return Books(MemoryLedger(rows), want, successor, changes)
    database: Database = request.getfixturevalue("database")
    await database.fetch(
        "TRUNCATE chain_roots, chain_nonces, chain_changes, chain_networks CASCADE"
    )
    workspace, key = uuid.uuid4(), f"trust:anchoring:{uuid.uuid4()}"
    insert = "INSERT INTO workspaces (id, name) VALUES ($1, $2)"
    await database.fetch(insert, workspace, str(workspace))

    async def own() -> AnchorLedger:
        lease = await Leases(database).acquire(key, "one", 60)
        assert lease is not None
        return PostgresAnchorLedger(database, lease)

    async def wanted(root: bytes) -> None:
        async with database.transaction() as connection:
            await PostgresAnchorLedger.want(connection, root, uuid.uuid4(), workspace)
            await PostgresAnchorLedger.want(connection, root, uuid.uuid4(), workspace)

    async def told() -> list[Any]:
        return await PostgresAnchorLedger(database).changes()

    return Books(await own(), wanted, own, told)


def attempt(root: bytes | None, nonce: int, max_fee: int = 100) -> Attempt:
    return Attempt(
        os.urandom(32), NETWORK, ADDRESS, nonce, root, b"raw", 30_000, max_fee, 1, AT + max_fee
    )


def row(root: bytes, state: AnchorState, **more: Any) -> AnchorRow:
    return AnchorRow(root, NETWORK, 31_337, state, AT, **more)


async def test_what_was_signed_comes_back(books: Books) -> None:
    root, other = os.urandom(32), os.urandom(32)
    await books.want(root)
    await books.want(other)
    assert [w.root for w in await books.ledger.waiting(10)] == [root, other]
    assert [w.root for w in await books.ledger.waiting(1)] == [root]
    assert (await books.ledger.load()).roots == ()
    first, dearer = attempt(root, 3), attempt(root, 3, 200)
    await books.ledger.write(Step(attempts=(first,)))
    assert [w.root for w in await books.ledger.waiting(10)] == [other]
    await books.ledger.write(Step(attempts=(dearer,), sent=((first.tx, AT),)))
    loaded = await books.ledger.load()
    assert [w.root for w in loaded.roots] == [root]
    assert loaded.attempts == (replace(first, sent_at=AT), dearer)
    assert loaded.next_nonces == {(NETWORK, ADDRESS): 4}
    assert loaded.gaps == ((NETWORK, ADDRESS, 0, 3),)
    await books.ledger.write(Step(attempts=(attempt(None, 6),)))
    loaded = await books.ledger.load()
    assert loaded.gaps == ((NETWORK, ADDRESS, 0, 3), (NETWORK, ADDRESS, 4, 6))


async def test_rows_and_the_outbox(books: Books) -> None:
    root, tx = os.urandom(32), os.urandom(32)
    await books.want(root)
    await books.ledger.write(Step(attempts=(attempt(root, 0),)))
    proof = event_anchor(root)
    sent = row(root, AnchorState.SUBMITTED, tx=tx)
    final = row(
        root,
        AnchorState.FINAL,
        tx=tx,
        block_number=7,
        block_hash=os.urandom(32),
        confirmations=9,
        gas_used=22_776,
        fee_wei=10**25,
        proof=proof,
        reason="so",
    )
    await books.ledger.write(Step(anchors=(sent,)))
    await books.ledger.write(Step(anchors=(final,)))
    loaded = await books.ledger.load()
    assert loaded.anchors == (final,)
    assert isinstance(loaded.anchors[0].proof, Anchor)
    changes = await books.changes()
    assert [change.anchor for change in changes] == [sent.view(), final.view()]
    assert {change.root for change in changes} == {root}
    assert changes[0].id < changes[1].id


async def test_closed_and_settled_are_done_with(books: Books) -> None:
    root, other = os.urandom(32), os.urandom(32)
    for one in (root, other):
        await books.want(one)
    mine, second = attempt(root, 0), attempt(other, 0, 200)
    await books.ledger.write(Step(attempts=(mine,)))
    await books.ledger.write(Step(attempts=(second,)))  # the nonce went to another root
    await books.ledger.write(Step(settled=(root,)))
    loaded = await books.ledger.load()
    assert {w.root for w in loaded.roots} == {root, other}
    assert loaded.settled == {root}
    closed = ClosedNonce(NETWORK, ADDRESS, 0, AT, mine.tx, 5_000)
    await books.ledger.write(Step(closed=(closed,)))
    loaded = await books.ledger.load()
    assert [w.root for w in loaded.roots] == [other]
    assert loaded.attempts == ()
    assert loaded.next_nonces == {(NETWORK, ADDRESS): 1}
    assert await books.ledger.spent(NETWORK, AT - 1) == 5_000
    assert await books.ledger.spent(NETWORK, AT + 1) == 0
    assert await books.ledger.spent("standby", 0) == 0
    await books.ledger.write(Step(settled=(other,)))
    assert (await books.ledger.load()).roots == ()


async def test_blocks_that_a_development_node_lost(books: Books) -> None:
    """What was closed is open again; of several transactions the one that was in a block leads."""
    roots = [os.urandom(32) for _ in range(3)]
    closed = []
    for nonce, root in enumerate(roots):
        await books.want(root)
        mined, later = attempt(root, nonce), attempt(root, nonce, 300)
        await books.ledger.write(Step(attempts=(mined,)))
        await books.ledger.write(Step(attempts=(later,)))
        done = row(root, AnchorState.FINAL, tx=mined.tx, block_number=nonce, block_hash=bytes(32))
        close = ClosedNonce(NETWORK, ADDRESS, nonce, AT, mined.tx, 1)
        await books.ledger.write(Step(anchors=(done,), closed=(close,), settled=(root,)))
        closed.append(mined)
    assert await books.ledger.reopen(NETWORK, ADDRESS, 1, AT) == 2
    loaded = await books.ledger.load()
    assert {w.root for w in loaded.roots} == set(roots[1:])
    assert loaded.settled == frozenset()
    assert {a.state for a in loaded.anchors} == {AnchorState.ORPHANED}
    assert {a.block_hash for a in loaded.anchors} == {None}
    for nonce in (1, 2):
        assert [a for a in loaded.attempts if a.nonce == nonce][-1].tx == closed[nonce].tx
    assert [c.anchor.state for c in await books.changes()][-2:] == [AnchorState.ORPHANED] * 2


async def test_a_former_owner_writes_nothing(books: Books) -> None:
    root = os.urandom(32)
    await books.want(root)
    newer = await books.successor()
    with pytest.raises(Fenced):
        await books.ledger.write(Step(attempts=(attempt(root, 0),)))
    with pytest.raises(Fenced):
        await books.ledger.set_genesis(NETWORK, 1, bytes(32))
    with pytest.raises(Fenced):
        await books.ledger.reopen(NETWORK, ADDRESS, 0, AT)
    assert (await newer.load()).attempts == ()
    await newer.write(Step(attempts=(attempt(root, 0),)))


async def test_which_chain_a_name_stands_for(books: Books) -> None:
    assert await books.ledger.genesis(NETWORK) is None
    await books.ledger.set_genesis(NETWORK, 31_337, bytes(32))
    assert await books.ledger.genesis(NETWORK) == (31_337, bytes(32))
    await books.ledger.set_genesis(NETWORK, 31_337, b"1" * 32)
    assert await books.ledger.genesis(NETWORK) == (31_337, b"1" * 32)


async def test_what_was_told_is_not_told_again(database: Database) -> None:
    """In the transaction that takes note: rolled back with it."""
    ledger = PostgresAnchorLedger(database)
    await database.fetch("TRUNCATE chain_changes")
    insert = """
        INSERT INTO chain_changes (root, batch_id, workspace_id, network, view, at)
        VALUES ($1, $2, $2, 'local', $3, now())
    """
    view = row(bytes(32), AnchorState.WAITING).view().model_dump(mode="json")
    for _ in range(3):
        await database.fetch(insert, bytes(32), uuid.uuid4(), view)
    first, second, third = await ledger.changes()
    assert await ledger.changes(first.id, limit=1) == [second]
    async with database.transaction() as connection:
        await ledger.mark_told(connection, [first.id, second.id])
    assert await ledger.changes() == [third]

    async def in_vain() -> None:
        async with database.transaction() as connection:
            await ledger.mark_told(connection, [third.id])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await in_vain()
    assert await ledger.changes() == [third]
    assert await ledger.anchors([b"9" * 32]) == {b"9" * 32: []}
    assert await ledger.settled([b"9" * 32]) == frozenset()
