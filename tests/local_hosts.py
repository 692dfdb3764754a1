"""Hosts of this process that are called like actors: owners of shards without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from actors.shards import Shards
from mesh.core.errors import DeadlineExceeded, Unavailable
from mesh.core.ring import Ring


class Host(Protocol):
    @property
    def shards(self) -> Shards: ...

    async def run(self) -> None: ...


H = TypeVar("H", bound=Host)


class LocalHosts(Generic[H]):
    """A killed one never answers again."""

    def __init__(self, ring: Ring, make: Callable[[str], H]) -> None:
        self._ring = ring
        self._make = make
        self.hosts: dict[str, H] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.calls: list[tuple[str, str]] = []

    async def call(self, host: str, method: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        self.calls.append((host, method))
        if host not in self.hosts:
            raise Unavailable(f"{host} can't be reached")
        try:
            async with asyncio.timeout(timeout_s):
                return await getattr(self.hosts[host], method)(*args)
        except TimeoutError:
            raise DeadlineExceeded from None

    def start(self, name: str) -> H:
        loop = self._make(name)
        self.hosts[name] = loop
        self.tasks[name] = asyncio.create_task(loop.run())
        return loop

    async def stop(self, name: str) -> None:
        """In order: leases are given back."""
        del self.hosts[name]
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def kill(self, name: str) -> H:
        """It stops as if its process had died: leases run out by themselves."""
        loop = self.hosts.pop(name)
        task = self.tasks.pop(name)

        async def nothing() -> None:
            return None

        loop.shards._leave = nothing  # type: ignore[method-assign]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return loop

    async def settled(self, *names: str) -> None:
        """Until each of these hosts owns just what it should."""
        async with asyncio.timeout(15):
            while any(  # noqa: ASYNC110 - leases have no event
                self.hosts[n].shards.held != self._ring.shards_of(n, names) for n in names
            ):
                await asyncio.sleep(0.02)
