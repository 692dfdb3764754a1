"""The embedded PostgreSQL and Valkey: private, durable, and back by themselves when killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import pytest_asyncio

from cluster.embedded.postgres import Postgres
from cluster.embedded.valkey import Valkey
from cluster.layout import Layout, resolve
from cluster.processes import is_alive, listeners
from cluster.runner import Runner
from mesh.core.settings import Settings
from mesh.streams.connect import connect


@pytest.fixture
def home() -> Iterator[Path]:
    # Not pytest's own: PostgreSQL runs as another user when we are root, and a pytest beside us
    # would close the way to it (pytest-of-root becomes 0700 whenever one starts).
    folder = Path(tempfile.mkdtemp(prefix="maily-services-"))
    yield folder
    layout = Layout(folder)
    for path in (folder, layout.runtime, layout.postgres_sockets):
        shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="session")
async def postgres(home: Path) -> AsyncIterator[Runner]:
    async with started(Postgres, home) as runner:
        yield runner


@pytest_asyncio.fixture(loop_scope="session")
async def valkey(home: Path) -> AsyncIterator[Runner]:
    async with started(Valkey, home) as runner:
        yield runner


class started:
    def __init__(self, kind: type[Postgres] | type[Valkey], home: Path) -> None:
        layout = Layout(home)
        layout.make()
        self.runner = Runner(kind(resolve(Settings(home=home)), layout), lambda: None)

    async def __aenter__(self) -> Runner:
        await self.runner.first_start()
        return self.runner

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.01)


async def test_postgres_is_private_and_keeps_what_it_acknowledged(postgres: Runner) -> None:
    settings, layout = postgres.service.settings, postgres.service.layout
    assert postgres.pid is not None
    assert listeners([psutil.Process(postgres.pid)]) == []
    assert stat.S_IMODE(layout.postgres_sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(layout.postgres_data.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert psutil.Process(postgres.pid).uids().real != 0

    connection = await asyncpg.connect(settings.postgres_url)
    await connection.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
    os.kill(postgres.pid, signal.SIGKILL)
    await until(lambda: postgres.generation == 2)
    connection.terminate()
    connection = await asyncpg.connect(settings.postgres_url)
    assert await connection.fetchval("SELECT n FROM t") == 1
    await connection.close()


async def test_a_postgres_of_an_earlier_run_is_ended_and_its_data_kept(home: Path) -> None:
    async with started(Postgres, home) as first:
        url = first.service.settings.postgres_url
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        await connection.close()
        assert first.pid is not None
        left = psutil.Process(first.pid)
        assert first._task is not None
        first._task.cancel()  # nobody watches it any more
        async with started(Postgres, home) as second:  # as after a supervisor's kill -9
            assert not is_alive(left)
            assert any("left from an earlier run" in note for note in second.service.notes)
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("SELECT n FROM t") == 7
            await connection.close()


async def test_a_pid_file_whose_process_is_gone_or_another_is_removed(home: Path) -> None:
    async with started(Postgres, home):
        pass
    pid_file = Layout(home).postgres_data / "postmaster.pid"
    gone = await asyncio.create_subprocess_exec("/bin/true")
    await gone.wait()
    for pid in (gone.pid, os.getpid()):  # nobody; somebody who is no PostgreSQL
        pid_file.write_text(f"{pid}\n{pid_file.parent}\n")
        async with started(Postgres, home) as runner:
            assert any(str(pid) in note for note in runner.service.notes)
            assert runner.part.phase == "ready"


async def test_an_initdb_that_was_cut_short_is_done_again(home: Path) -> None:
    data = Layout(home).postgres_data
    unfinished = data.with_name("postgres.unfinished")
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    async with started(Postgres, home) as runner:
        assert runner.part.phase == "ready"
    assert not unfinished.exists()


async def test_valkey_is_private_and_keeps_what_it_acknowledged(valkey: Runner) -> None:
    layout = valkey.service.layout
    assert valkey.pid is not None
    assert listeners([psutil.Process(valkey.pid)]) == []
    assert stat.S_IMODE(layout.valkey_socket.stat().st_mode) == 0o700
    client = connect(valkey.service.settings.redis_url)
    try:
        for n in range(1, 51):
            await client.xadd("s", {"n": n}, id=f"1-{n}")
        os.kill(valkey.pid, signal.SIGKILL)
        await until(lambda: valkey.generation == 2)
        assert await client.xlen("s") == 50
        config = await client.config_get("maxmemory-policy")
        assert config in ({"maxmemory-policy": "noeviction"}, {b"maxmemory-policy": b"noeviction"})
    finally:
        await client.aclose()


async def test_valkey_starts_over_a_torn_log(home: Path) -> None:
    async with started(Valkey, home) as runner:
        client = connect(runner.service.settings.redis_url)
        await client.set("a", "1")
        await client.set("b", "2")
        await client.aclose()
    log = next((Layout(home).valkey_data / "appendonlydir").glob("*.incr.aof"))
    with log.open("ab") as file:  # the machine went off while it wrote
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\nc")
    async with started(Valkey, home) as runner:
        client = connect(runner.service.settings.redis_url)
        assert await client.get("a") == b"1"
        assert await client.get("b") == b"2"
        await client.aclose()


async def test_a_socket_file_without_a_server_is_no_hindrance(home: Path) -> None:
    layout = Layout(home)
    layout.make()
    layout.valkey_socket.write_text("")
    async with started(Valkey, home) as runner:
        assert runner.part.phase == "ready"
