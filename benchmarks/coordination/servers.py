"""Where to measure: servers with the runtime's own durability, and databases to throw away."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from cluster.embedded.postgres import Postgres
from cluster.embedded.valkey import Valkey
from cluster.layout import Layout, resolve
from cluster.runner import Runner
from mesh.core.ids import uuid7
from mesh.core.settings import Settings
from mesh.storage.migrate import migrate
from mesh.storage.pool import Database


@dataclass(frozen=True, slots=True)
class Servers:
    """URLs of a PostgreSQL that syncs and a Valkey that syncs."""

    postgres_url: str
    redis_url: str


@asynccontextmanager
async def embedded() -> AsyncIterator[Servers]:
    """The very servers of ``maily up``, in a folder that goes afterwards."""
    home, layout = _home()
    settings = resolve(Settings(home=home))
    runners = [Runner(kind(settings, layout), lambda: None) for kind in (Postgres, Valkey)]
    try:
        for runner in runners:
            await runner.first_start()
        yield Servers(settings.postgres_url, settings.redis_url)
    finally:
        for runner in runners:
            await runner.stop()
        for path in (home, layout.runtime, layout.postgres_sockets):
            shutil.rmtree(path, ignore_errors=True)


def _home() -> tuple[Path, Layout]:
    home = Path(tempfile.mkdtemp(prefix="maily-bench-"))
    home.chmod(0o711)  # PostgreSQL runs as another user when we are root
    layout = Layout(home)
    layout.make()
    return home, layout


@asynccontextmanager
async def scratch(postgres_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database beside the given one; dropped afterwards."""
    name = f"bench_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
        try:
            await migrate(url)
            yield url
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@asynccontextmanager
async def database(url: str, connections: int = 8) -> AsyncIterator[Database]:
    opened = await Database.open(url, max_size=connections)
    try:
        yield opened
    finally:
        await opened.aclose()


async def workspaces(db: Database, count: int) -> list[UUID]:
    """So many new workspaces' ids."""
    made = [uuid7() for _ in range(count)]
    for identity in made:
        await db.fetch("INSERT INTO workspaces (id, name) VALUES ($1, $2)", identity, identity.hex)
    return made
