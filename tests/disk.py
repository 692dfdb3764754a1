"""Looks for bytes in a database server's files: what was forgotten must not be there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
from services import PostgresServer


class DiskServer(PostgresServer):
    """As our embedded one: old log segments are removed."""

    def _command(self) -> list[str]:
        return [*super()._command(), "-c", "wal_recycle=off", "-c", "min_wal_size=32MB"]

    async def flushed(self) -> None:
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()


async def places(folder: Path, *needles: bytes) -> list[str]:
    """Files that hold any of these bytes. In a thread: hosts of this process keep their leases."""

    def search() -> list[str]:
        found = []
        for path in folder.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                found += [str(path.relative_to(folder)) for needle in needles if needle in data]
        return found

    return await asyncio.to_thread(search)
