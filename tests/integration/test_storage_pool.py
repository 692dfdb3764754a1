"""The pool against a real server that is killed, restarted, paused or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import asyncpg
import pytest
from services import PostgresServer

from mesh.core.errors import InvalidInput, Unavailable
from mesh.storage.pool import Database


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server of our own: these tests kill it."""
    with PostgresServer() as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what we wait for has no event
            await asyncio.sleep(0.002)


async def test_json_keeps_its_types(database: Database) -> None:
    value = {"a": [1, 2.5, "é", None, True], "big": 2**53, "nested": {"x": {}}}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT $1::jsonb", value) == value
        assert await connection.fetchval("SELECT $1::jsonb", None) is None
        assert await connection.fetchval("SELECT 'null'::jsonb") is None
        assert await connection.fetchval("SELECT jsonb_typeof($1::jsonb)", []) == "array"


@pytest.mark.parametrize(("sql", "value"), [("text", "a\x00b"), ("jsonb", {"a": "\x00"})])
async def test_nul_is_the_callers_mistake(database: Database, sql: str, value: object) -> None:
    with pytest.raises(InvalidInput):
        await database.fetch(f"SELECT $1::{sql}", value)


async def test_a_transaction_is_undone_by_an_exception(database: Database) -> None:
    await database.fetch("CREATE TABLE undo (x int)")

    async def work() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO undo VALUES (1)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await work()
    assert await database.fetch("SELECT * FROM undo") == []


async def test_our_own_mistakes_are_not_called_unavailable(database: Database) -> None:
    before = database.statistics()
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await database.fetch("SELEC 1")
    with pytest.raises(asyncpg.DataError):
        await database.fetch("SELECT $1::int", "no number")
    after = database.statistics()
    assert (after.retries, after.unavailable) == (before.retries, before.unavailable)


async def test_cancelling_a_query_frees_its_connection(database_dsn: str) -> None:
    db = await Database.open(database_dsn, max_size=1)
    try:
        query = asyncio.create_task(db.fetch("SELECT pg_sleep(60)"))
        await until(lambda: db.statistics().idle < db.statistics().size)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
        await db.ping()
        assert db.statistics().idle == 1
    finally:
        await db.aclose()


async def test_a_slow_statement_and_a_full_pool_end_in_unavailable(database_dsn: str) -> None:
    db = await Database.open(database_dsn, max_size=1, command_timeout_s=0.2)
    try:
        with pytest.raises(Unavailable) as slow:
            await db.fetch("SELECT pg_sleep(60)")
        assert slow.value.retry_after_s == 1.0
        async with db.connection():
            with pytest.raises(Unavailable):
                await db.ping()
        await db.ping()
        assert db.statistics().retries == 0
    finally:
        await db.aclose()


async def test_no_server_a_wrong_database_and_a_closed_pool(database_dsn: str) -> None:
    with pytest.raises(Unavailable):
        await Database.open("postgresql:///x?host=/nonexistent", retry_s=0.2)
    wrong = database_dsn.replace("/test_", "/absent_")
    with pytest.raises(Unavailable, match="does not exist"):
        await Database.open(wrong)
    db = await Database.open(database_dsn)
    await db.aclose()
    with pytest.raises((Unavailable, asyncpg.InterfaceError)):
        await db.ping()


async def test_closing_cuts_off_who_does_not_end(database_dsn: str) -> None:
    db = await Database.open(database_dsn)
    query = asyncio.create_task(db.fetch("SELECT pg_sleep(600)"))
    await until(lambda: db.statistics().idle < db.statistics().size)
    await db.aclose(limit_s=0.1)
    with pytest.raises((Unavailable, asyncpg.InterfaceError)):
        await query


async def test_a_lost_connection_costs_a_retry(database: Database) -> None:
    calls = 0

    async def operation() -> int:
        nonlocal calls
        calls += 1
        async with database.connection() as connection:
            if calls == 1:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            value: int = await connection.fetchval("SELECT 7")
            return value

    assert await database.retry(operation) == 7
    assert calls == 2


async def test_what_was_sent_is_not_repeated_without_retry(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.transaction(wait_s=5) as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    await database.ping()


async def test_kill_9_of_the_server_under_load_costs_no_error(mortal: PostgresServer) -> None:
    db = await Database.open(mortal.dsn())
    try:
        await db.fetch("CREATE TABLE IF NOT EXISTS seen (id int PRIMARY KEY)")
        wanted = iter(range(10_000))
        acknowledged: list[int] = []
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                number = next(wanted)
                await db.fetch("INSERT INTO seen VALUES ($1) ON CONFLICT DO NOTHING", number)
                acknowledged.append(number)

        async def written(more: int) -> None:
            reached = len(acknowledged) + more
            await until(lambda: len(acknowledged) >= reached)

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(write())
            for _ in range(2):
                await written(50)
                mortal.kill()
                with pytest.raises(Unavailable):
                    await db.ping()
                mortal.launch()
                await asyncio.to_thread(mortal.wait_ready)
            await written(50)
            stop.set()
        rows = await db.fetch("SELECT id FROM seen")
        assert {row["id"] for row in rows} >= set(acknowledged)
        assert db.statistics().retries > 0
    finally:
        await db.aclose()


async def test_opening_waits_for_a_server_that_is_starting(mortal: PostgresServer) -> None:
    mortal.kill()
    opening = asyncio.create_task(Database.open(mortal.dsn()))
    await asyncio.sleep(0.05)
    mortal.launch()
    db = await opening
    await db.ping()
    await db.aclose()
