"""Make deleted salts leave the disk: rewrite their part of the table, end the log that held them.

``VACUUM FULL`` writes a part anew without dead rows and drops the old file. A checkpoint after a
switch to a new log segment lets the server drop the segments before; it removes them where
``wal_recycle`` is off (our embedded server), elsewhere it writes over them in its own time. A
server that lets us do only half of that is told so in the receipt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import asyncpg

from mesh.contracts.memory import Scrub
from mesh.core.logging import get_logger

log = get_logger("scrub")

LOCK_S = 5.0
"""How long to wait for a part that is being written to."""
STATEMENT_S = 60.0

# Rows that a transaction still running could see are copied along by a rewrite.
_NOW = "SELECT pg_current_xact_id()::xid::text"
_OLDER = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type = 'client backend' AND age(backend_xmin) > age($1::text::xid)
"""


class Scrubber:
    """One per process. Callers that come while a scrub runs share the next one."""

    def __init__(self, dsn: str, table: str, buckets: int) -> None:
        """``table``: its parts are called ``{table}_{bucket}``, from 0."""
        self._dsn = dsn
        self._table, self._buckets = table, buckets
        self._wanted: set[int] = set()
        self._next: asyncio.Future[Scrub] | None = None
        self._running: asyncio.Task[None] | None = None
        self._scrubs = self._rewritten = 0

    async def scrub(self, buckets: Iterable[int]) -> Scrub:
        """What was committed before the call is gone from disk after it. Never raises for what
        the server refuses: the answer says so."""
        self._wanted.update(buckets)
        loop = asyncio.get_running_loop()
        if self._next is None:
            self._next = loop.create_future()
        waiting = self._next
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._work())
        return await asyncio.shield(waiting)

    def statistics(self) -> dict[str, int]:
        return {"scrubs": self._scrubs, "parts_rewritten": self._rewritten}

    async def _work(self) -> None:
        while self._next is not None:
            told, self._next = self._next, None
            buckets, self._wanted = self._wanted, set()
            try:
                result = await self._once(buckets)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                result = Scrub(keys=False, log=False, note=f"not done: {type(error).__name__}")
            self._scrubs += 1
            if not told.done():
                told.set_result(result)

    async def _once(self, buckets: set[int]) -> Scrub:
        connection = await asyncpg.connect(self._dsn, timeout=10.0, command_timeout=STATEMENT_S)
        notes: list[str] = []
        try:
            await connection.execute(f"SET lock_timeout = '{LOCK_S:g}s'")
            await connection.execute("SET statement_timeout = 0")
            await self._outlast(connection, notes)
            for bucket in sorted(buckets):
                if 0 <= bucket < self._buckets:
                    await self._rewrite(connection, bucket, notes)
            keys = not notes
            ended = await self._end_log(connection, notes)
        finally:
            await connection.close(timeout=5.0)
        return Scrub(keys=keys, log=ended, note="; ".join(notes) or None)

    async def _outlast(
        self, connection: asyncpg.Connection[asyncpg.Record], notes: list[str]
    ) -> None:
        now = await connection.fetchval(_NOW)
        loop = asyncio.get_running_loop()
        until = loop.time() + LOCK_S
        while await connection.fetchval(_OLDER, now):
            if loop.time() > until:
                notes.append("a transaction older than the erasure still runs")
                return
            await asyncio.sleep(0.02)

    async def _rewrite(
        self, connection: asyncpg.Connection[asyncpg.Record], bucket: int, notes: list[str]
    ) -> None:
        for last in (False, True):
            try:
                await connection.execute(f"VACUUM (FULL) {self._table}_{int(bucket)}")
            except asyncpg.LockNotAvailableError:
                if last:
                    notes.append(f"part {bucket} of {self._table} was busy for {2 * LOCK_S:g} s")
            except asyncpg.InsufficientPrivilegeError:
                notes.append(f"the database user may not rewrite {self._table}")
                return
            else:
                self._rewritten += 1
                return

    @staticmethod
    async def _end_log(connection: asyncpg.Connection[asyncpg.Record], notes: list[str]) -> bool:
        try:
            await connection.execute("SELECT pg_switch_wal()")
            await connection.execute("CHECKPOINT")
        except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError):
            notes.append("the database user may not end the log: the server does in its own time")
            return False
        if await connection.fetchval("SHOW wal_recycle") != "off":
            notes.append("the server writes over old log segments in its own time (wal_recycle)")
            return False
        return True
