"""The PostgreSQL pool: connections, transactions, and what happens while the server is away.

A restart of the server costs callers a wait, not an error: ``retry`` runs an idempotent operation
again, with jittered backoff, for up to ``retry_s``. What fails for longer, or may not be repeated,
reaches the caller as ``Unavailable``. A ``Database`` belongs to the event loop that opened it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
import orjson
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from mesh.core.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection: TypeAlias = Any

T = TypeVar("T")

RETRY_S = 10.0
"""How long an idempotent operation is tried again while the server is away."""

ABANDONED_TRANSACTION_S = 10
"""A paused process must not keep row locks: the server ends transactions that idle this long."""

# The operation did not run, or ran and its answer was lost: a repeat may succeed.
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,  # 57P03: starting up or in recovery
    asyncpg.AdminShutdownError,  # 57P01
    asyncpg.CrashShutdownError,  # 57P02: another backend crashed or was killed
    asyncpg.TooManyConnectionsError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,  # a write that failed half-way leaves asyncpg's states mixed up
    ConnectionError,
)
_DEAD = ("connection is closed", "connection was closed", "has been released back to the pool")
# A repeat can't help before somebody mends the configuration.
_MISCONFIGURED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_UNSTORABLE = (
    asyncpg.UntranslatableCharacterError,  # \u0000 in jsonb
    asyncpg.CharacterNotInRepertoireError,  # NUL in text
)


def _is_lost(error: BaseException | None) -> bool:
    if isinstance(error, asyncpg.InterfaceError):
        # A connection that died between two statements is told only by the message.
        return any(sign in str(error) for sign in _DEAD)
    return isinstance(error, _LOST)


def _may_repeat(error: BaseException) -> bool:
    cause = error.__cause__
    if not isinstance(error, Unavailable) or isinstance(cause, TimeoutError):
        return False  # who has waited a whole command timeout need not wait again
    # Outside of a connection (opening one) a missing or refusing socket is an OSError.
    return _is_lost(cause) or isinstance(cause, OSError)


def _unavailable(cause: BaseException) -> Unavailable:
    return Unavailable(
        "The database is not answering.",
        {"part": "postgres", "cause": type(cause).__name__},
        retry_after_s=1.0,
    )


async def _keep_session(_: Connection) -> None:
    """Nothing to reset, so no round trip: nobody here sets session variables, listens or takes
    session locks on a pooled connection. asyncpg itself rolls open transactions back."""


async def _prepare(connection: Connection) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value),  # a version byte leads (always 1)
        decoder=lambda data: orjson.loads(data[1:]),
    )


@dataclass(frozen=True, slots=True)
class DatabaseStatistics:
    size: int
    """Connections that are open."""
    idle: int
    limit: int
    retries: int
    """Operations that were run again since the pool was opened."""
    unavailable: int
    """Operations that failed because the server did not answer, before any retry."""


class Database:
    """A pool of connections. Make one per process with ``Database.open``."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], acquire_s: float) -> None:
        self._pool = pool
        self._acquire_s = acquire_s
        self._retries = 0
        self._unavailable = 0

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 8,
        command_timeout_s: float = 10.0,
        application_name: str = "maily",
        retry_s: float = RETRY_S,
    ) -> Database:
        """Connect. Waits up to ``retry_s`` for a server that is starting, then Unavailable."""

        async def connect() -> asyncpg.Pool[asyncpg.Record]:
            try:
                return await asyncpg.create_pool(
                    dsn,
                    min_size=min(min_size, max_size),
                    max_size=max_size,
                    command_timeout=command_timeout_s,
                    timeout=command_timeout_s,
                    init=_prepare,
                    reset=_keep_session,
                    server_settings={
                        "application_name": application_name,
                        "idle_in_transaction_session_timeout": f"{ABANDONED_TRANSACTION_S}s",
                    },
                )
            except _MISCONFIGURED as error:
                raise Unavailable(
                    f"The database refuses us: {error}", {"part": "postgres"}, 30.0
                ) from error
            except (*_LOST, OSError, asyncpg.InterfaceError) as error:
                raise _unavailable(error) from error

        async for attempt in _retrying(retry_s):
            with attempt:
                return cls(await connect(), command_timeout_s)
        raise AssertionError("tenacity ends by a value or an error")

    async def aclose(self, *, limit_s: float = 5.0) -> None:
        """Wait up to ``limit_s`` for connections in use, then cut them off."""
        try:
            async with asyncio.timeout(limit_s):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _acquire(self) -> PoolConnectionProxy[asyncpg.Record]:
        try:
            return await self._pool.acquire(timeout=self._acquire_s)
        except (*_LOST, OSError, asyncpg.InterfaceError) as error:  # TimeoutError is an OSError
            self._unavailable += 1
            raise _unavailable(error) from error

    @asynccontextmanager
    async def connection(self, *, wait_s: float = 0.0) -> AsyncIterator[Connection]:
        """A connection for some statements. Do nothing but SQL inside: others wait for it.

        ``wait_s``: how long to try to connect while the server is away; statements that were sent
        are never repeated here. Raises Unavailable (the server does not answer, or no connection
        got free in the command timeout) and InvalidInput (text that can't be stored: NUL).
        """
        if wait_s > 0:
            connection = await self.retry(self._acquire, retry_s=wait_s)
        else:
            connection = await self._acquire()
        try:
            yield connection
        except _UNSTORABLE as error:
            raise InvalidInput("A text holds a character that can't be stored (NUL).") from error
        except TimeoutError as error:
            self._unavailable += 1
            raise _unavailable(error) from error
        except (*_LOST, asyncpg.InterfaceError) as error:
            if not _is_lost(error):
                raise
            self._unavailable += 1
            # asyncpg may not have noticed that it is dead and would lend it to the next one.
            with suppress(asyncpg.InterfaceError):  # it has noticed, and took it back
                connection.terminate()
            raise _unavailable(error) from error
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(self, *, wait_s: float = 0.0) -> AsyncIterator[Connection]:
        """A connection inside a transaction: committed at the end, rolled back by an exception."""
        async with self.connection(wait_s=wait_s) as connection, connection.transaction():
            yield connection

    async def retry(self, operation: Callable[[], Awaitable[T]], *, retry_s: float = RETRY_S) -> T:
        """Run an **idempotent** operation, again while the server is away, up to ``retry_s``."""
        async for attempt in _retrying(retry_s):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    self._retries += 1
                return await operation()
        raise AssertionError("tenacity ends by a value or an error")

    async def transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """``retry`` around one transaction: ``work`` must be idempotent as a whole."""

        async def once() -> T:
            async with self.transaction() as connection:
                return await work(connection)

        return await self.retry(once)

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """All rows of one idempotent statement; retried."""

        async def once() -> list[asyncpg.Record]:
            async with self.connection() as connection:
                return await connection.fetch(sql, *args)

        return await self.retry(once)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        """The first row of one idempotent statement; retried."""
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def ping(self) -> None:
        """Raises Unavailable at once when the server does not answer: for health checks."""
        async with self.connection() as connection:
            await connection.execute("SELECT 1")

    def statistics(self) -> DatabaseStatistics:
        return DatabaseStatistics(
            size=self._pool.get_size(),
            idle=self._pool.get_idle_size(),
            limit=self._pool.get_max_size(),
            retries=self._retries,
            unavailable=self._unavailable,
        )


def _retrying(retry_s: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(_may_repeat),
        stop=stop_after_delay(retry_s),
        wait=wait_random_exponential(multiplier=0.05, max=0.5),
        reraise=True,
    )
