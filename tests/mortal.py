"""A database whose process dies at a chosen moment: before or after any statement or commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mesh.storage.pool import Database

_STATEMENTS = frozenset({"fetch", "fetchrow", "fetchval", "execute", "executemany"})


class Died(BaseException):
    """``kill -9``: nothing that runs after it counts."""


class Fate:
    """``at``: which moment is the last; None: it lives on."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.moments = 0

    def tick(self) -> None:
        self.moments += 1
        if self.at is not None and self.moments >= self.at:
            raise Died

    @property
    def died(self) -> bool:
        return self.at is not None and self.moments >= self.at


class _Watched:
    def __init__(self, connection: Any, fate: Fate) -> None:
        self._connection = connection
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in _STATEMENTS:
            return found

        async def call(*args: Any, **more: Any) -> Any:
            self._fate.tick()
            answer = await found(*args, **more)
            self._fate.tick()
            return answer

        return call


class MortalDatabase(Database):
    """Shares the pool of one that lives."""

    def __init__(self, living: Database, fate: Fate) -> None:
        super().__init__(living._pool, living._acquire_s)
        self.fate = fate

    @asynccontextmanager
    async def connection(self, *, wait_s: float = 0.0) -> AsyncIterator[Any]:
        async with super().connection(wait_s=wait_s) as connection:
            yield _Watched(connection, self.fate)

    @asynccontextmanager
    async def transaction(self, *, wait_s: float = 0.0) -> AsyncIterator[Any]:
        async with super().connection(wait_s=wait_s) as connection:
            async with connection.transaction():
                yield _Watched(connection, self.fate)
                self.fate.tick()  # all is said, nothing is committed
            self.fate.tick()  # it is committed, and nobody hears of it
