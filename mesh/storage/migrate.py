"""Schema migrations: plain SQL files, numbered, checksummed, applied once and in order.

Each file runs in a transaction together with the row that records it, so a crash leaves either
both or neither. An advisory lock lets many processes start at once: one migrates, the others wait
and find nothing to do. A file that changed after it was applied is refused, as is a database that
a newer release has migrated.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from mesh.core.errors import Conflict, InvalidInput, Unavailable

DIRECTORY = Path(__file__).parent / "migrations"
LOCK_KEY = 0x4D41494C59  # "MAILY"
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_HISTORY_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_HISTORY = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
_RECORD = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str
    checksum: str
    """SHA-256 of the file, line ends normalised (a checkout may turn them)."""


def read_migrations(directory: Path | None = None) -> list[Migration]:
    """The files in order. Raises InvalidInput for a bad name, a gap or a number used twice."""
    found = []
    for path in sorted((directory or DIRECTORY).glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise InvalidInput(f"Migration {path.name}: name it 0001_like_this.sql.")
        content = path.read_bytes().replace(b"\r\n", b"\n")
        checksum = hashlib.sha256(content).hexdigest()
        found.append(Migration(int(match[1]), path.stem, content.decode(), checksum))
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            raise InvalidInput(
                f"Migration {migration.name}: expected number {expected:04d} here "
                "(numbers start at 0001, without gaps or repeats)."
            )
    return found


async def _pending(
    connection: asyncpg.Connection[asyncpg.Record], files: list[Migration]
) -> list[Migration]:
    applied = await connection.fetch(_HISTORY)
    for index, row in enumerate(applied):
        if index >= len(files):
            raise Conflict(
                f"The database was migrated by a newer release ({row['name']}); this release knows "
                f"{len(files)} migrations. Start the newer release, or restore an older database.",
                {"migration": row["name"]},
            )
        file = files[index]
        if (row["version"], row["checksum"]) != (file.version, file.checksum):
            raise Conflict(
                f"Migration {file.name} differs from what this database has applied "
                f"({row['name']}). Never edit an applied migration: add a new one.",
                {"migration": file.name, "applied": row["checksum"], "file": file.checksum},
            )
    return files[len(applied) :]


async def _connect(dsn: str, timeout_s: float) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(dsn, timeout=timeout_s)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"Can't reach the database: {error}", {"part": "postgres"}) from error


async def migrate(
    dsn: str, directory: Path | None = None, *, lock_timeout_s: float = 60.0
) -> list[str]:
    """Apply what is missing; gives the names applied. Safe to call from many processes at once.

    Raises Conflict (changed file, newer database), InvalidInput (bad files) and Unavailable (no
    server, or another process migrates for longer than ``lock_timeout_s``).
    """
    files = read_migrations(directory)
    connection = await _connect(dsn, 10.0)
    try:
        await connection.execute(f"SET lock_timeout = {int(lock_timeout_s * 1000)}")
        try:
            # A session lock: it outlives the transactions below and goes with the connection.
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        except asyncpg.LockNotAvailableError as error:
            raise Unavailable(
                f"Another process has been migrating for over {lock_timeout_s:g} s.",
                {"part": "postgres"},
                retry_after_s=5.0,
            ) from error
        await connection.execute(_CREATE_HISTORY)
        pending = await _pending(connection, files)
        for migration in pending:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    _RECORD, migration.version, migration.name, migration.checksum
                )
        return [migration.name for migration in pending]
    finally:
        await connection.close(timeout=5)


async def pending(dsn: str, directory: Path | None = None) -> list[str]:
    """Names that ``migrate`` would apply; changes nothing. Raises as ``migrate`` does."""
    files = read_migrations(directory)
    connection = await _connect(dsn, 10.0)
    try:
        if not await connection.fetchval(_HISTORY_EXISTS):
            return [migration.name for migration in files]
        return [migration.name for migration in await _pending(connection, files)]
    finally:
        await connection.close(timeout=5)
