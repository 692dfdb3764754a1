"""Connections to Valkey (or Redis): bounded, with deadlines, healing by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mesh.core.errors import Unavailable


class _Sending(AbstractConnection):
    """Sends without ``asyncio.wait_for``.

    The client's own method uses it where there is a time limit, and up to Python 3.11 that
    swallows a cancellation which comes at the moment of success (cpython issue 86296): the caller
    would go on as if nobody had cancelled it. It also costs a task per command.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        parts = [command.encode()] if isinstance(command, str) else command
        try:
            assert self._writer is not None
            self._writer.writelines([parts] if isinstance(parts, bytes) else parts)
            async with asyncio.timeout(self.socket_timeout):
                await self._writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to socket: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may have gone out
            raise


class _TCP(_Sending, Connection):
    pass


class _TLS(_Sending, SSLConnection):
    pass


class _Unix(_Sending, UnixDomainSocketConnection):
    pass


class _Pool(BlockingConnectionPool):
    CLASSES: ClassVar[dict[type[AbstractConnection], type[AbstractConnection]]] = {
        Connection: _TCP,
        SSLConnection: _TLS,
        UnixDomainSocketConnection: _Unix,
    }

    def make_connection(self) -> AbstractConnection:
        return self.CLASSES[self.connection_class](**self.connection_kwargs)


def connect(url: str, *, max_connections: int = 32, timeout_s: float = 5.0) -> Redis:
    """A client for ``redis://``, ``rediss://``, ``valkey://`` or ``unix://``; replies are bytes.

    Nothing is sent before the first command. ``timeout_s`` limits each of: waiting for a free
    connection, connecting, and a reply. A command that met a lost connection is sent again up to
    four times within about a second, so use commands that may be repeated. Raises ValueError for
    another kind of URL. Close it with ``await client.aclose()``.
    """
    # Valkey speaks the Redis protocol; the client knows only the older names.
    for ours, theirs in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
        if url.startswith(ours):
            url = theirs + url.removeprefix(ours)
    pool = _Pool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        protocol=2,
        retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), 4),
    )
    return Redis.from_pool(pool)


@contextmanager
def unavailable(what: str = "Valkey") -> Iterator[None]:
    """Turn the client's errors within the block into Unavailable (retry after 1 s)."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise Unavailable(f"{what} is not answering.", retry_after_s=1) from error
    except RedisError as error:
        raise Unavailable(f"{what} refuses: {str(error)[:200]}", retry_after_s=1) from error
