"""Fixtures that every test may use: real PostgreSQL and Valkey, one of each per session.

============== ======= ==========================================================================
postgres       session the server; tests that kill it make a ``PostgresServer`` of their own
postgres_dsn   session the server's maintenance database (empty: make your own in it)
database_dsn   module  a fresh migrated database
database       module  an open ``Database`` on it
valkey         session the server; tests that kill it make a ``ValkeyServer`` of their own
valkey_url     session redis://…/0, shared: use keys of your own
runtime        session a whole runtime (``maily up``), for the tests marked so
instance       session how to call it
============== ======= ==========================================================================
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import settings
from runtime_instance import Runtime, running
from services import PostgresServer, ValkeyServer

if TYPE_CHECKING:
    from benchmarks.instance import Instance
    from mesh.storage.pool import Database

# Ray reads these once, when it is first imported, which may be by any test module.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# On a developer's machine laws look for new counter-examples each time; a gate must give the same
# verdict for the same commit. No law is about time: a busy machine breaks none.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

TEMPLATE = "maily_template"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_dsn(postgres: PostgresServer) -> str:
    return postgres.dsn()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _template(postgres: PostgresServer) -> str:
    """A migrated database to copy: quicker than to migrate for each module."""
    from mesh.storage.migrate import migrate

    await _execute(postgres.dsn(), f"CREATE DATABASE {TEMPLATE}")
    await migrate(postgres.dsn(TEMPLATE))
    return TEMPLATE


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database_dsn(postgres: PostgresServer, _template: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    await _execute(postgres.dsn(), f"CREATE DATABASE {name} TEMPLATE {_template}")
    yield postgres.dsn(name)
    await _execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(database_dsn: str) -> AsyncIterator[Database]:
    from mesh.storage.pool import Database

    opened = await Database.open(database_dsn)
    yield opened
    await opened.aclose()


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_url(valkey: ValkeyServer) -> str:
    return valkey.url


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    with running() as started:
        yield started


@pytest.fixture(scope="session")
def instance(runtime: Runtime) -> Instance:
    return runtime.instance()
