"""Migrations: once, in order, whole, by one process at a time; changed files are refused."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from mesh.core.errors import Conflict, InvalidInput, Unavailable
from mesh.storage.migrate import LOCK_KEY, migrate, pending, read_migrations

PROCESS = """
import asyncio, json, sys
from pathlib import Path
from mesh.storage.migrate import migrate
print(json.dumps(asyncio.run(migrate(sys.argv[1], Path(sys.argv[2])))))
"""


@pytest_asyncio.fixture(loop_scope="session")
async def dsn(postgres_dsn: str) -> AsyncIterator[str]:
    name = f"migrate_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    yield postgres_dsn.replace("/postgres?", f"/{name}?")
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE a (x int);\nINSERT INTO a VALUES (1);")
    (tmp_path / "0002_second.sql").write_text("SELECT pg_sleep(0.3); UPDATE a SET x = x + 1;")
    return tmp_path


async def value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_our_own_migrations_apply_once(dsn: str) -> None:
    names = [migration.name for migration in read_migrations()]
    assert await pending(dsn) == names
    assert await migrate(dsn) == names
    assert await pending(dsn) == []
    assert await migrate(dsn) == []


async def test_only_what_is_missing_is_applied(dsn: str, files: Path) -> None:
    assert await migrate(dsn, files) == ["0001_first", "0002_second"]
    (files / "0003_third.sql").write_text("UPDATE a SET x = x * 10")
    assert await pending(dsn, files) == ["0003_third"]
    assert await migrate(dsn, files) == ["0003_third"]
    assert await value(dsn, "SELECT x FROM a") == 20


async def test_two_processes_at_once_migrate_once(dsn: str, files: Path) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROCESS, dsn, str(files)), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [json.loads((await process.communicate())[0]) for process in processes]
    assert sorted(outputs) == [[], ["0001_first", "0002_second"]]
    assert await value(dsn, "SELECT x FROM a") == 2


async def test_who_waits_too_long_for_the_lock_is_told(dsn: str, files: Path) -> None:
    holder = await asyncpg.connect(dsn)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        with pytest.raises(Unavailable, match="Another process"):
            await migrate(dsn, files, lock_timeout_s=0.05)
    finally:
        await holder.close()


async def test_a_changed_file_is_refused_and_named(dsn: str, files: Path) -> None:
    await migrate(dsn, files)
    (files / "0001_first.sql").write_text("CREATE TABLE b (x int)")
    for refuse in (migrate, pending):
        with pytest.raises(Conflict, match="0001_first differs"):
            await refuse(dsn, files)


async def test_turned_line_ends_are_no_change(dsn: str, files: Path) -> None:
    await migrate(dsn, files)
    path = files / "0001_first.sql"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert await migrate(dsn, files) == []


async def test_a_database_of_a_newer_release_is_refused(dsn: str, files: Path) -> None:
    await migrate(dsn, files)
    (files / "0002_second.sql").unlink()
    with pytest.raises(Conflict, match="newer release"):
        await migrate(dsn, files)


async def test_a_failing_migration_leaves_nothing_behind(dsn: str, files: Path) -> None:
    (files / "0003_third.sql").write_text("CREATE TABLE half (x int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(dsn, files)
    assert await value(dsn, "SELECT to_regclass('half')") is None
    assert await pending(dsn, files) == ["0003_third"]
    (files / "0003_third.sql").write_text("CREATE TABLE half (x int)")
    assert await migrate(dsn, files) == ["0003_third"]


@pytest.mark.parametrize("name", ["1_x.sql", "0003-x.sql", "0001_twice.sql", "0004_gap.sql"])
def test_bad_file_names_are_refused(files: Path, name: str) -> None:
    (files / name).write_text("SELECT 1")
    with pytest.raises(InvalidInput, match="Migration"):
        read_migrations(files)


async def test_no_server(files: Path) -> None:
    with pytest.raises(Unavailable, match="Can't reach"):
        await migrate("postgresql:///x?host=/nonexistent", files)
