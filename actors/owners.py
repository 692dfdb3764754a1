"""Ask whoever owns a shard now, and ask again when it has moved or died meanwhile.

A call to a process that has died is not always told so: Ray waits for a second or two for news of
the actor, and a machine that lost its power says nothing at all. So the leases are watched while a
call takes its time: once they name somebody else, nobody waits for the former owner any more.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.directory import Caller, Directory, host_of
from actors.patience import PatienceOptions, pause
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded, Fenced, MailyError, Unavailable

DOUBT_S = 0.25
"""A call that takes longer is watched: whether its host still owns what it was asked about …"""
DOUBT_MOST_S = 1.0
"""… ever less often, down to once in this time."""


class Owners:
    """One per client. ``until``: monotonic time of the deadline."""

    def __init__(
        self, caller: Caller, directory: Directory, clock: Clock, patience: PatienceOptions
    ) -> None:
        self._caller = caller
        self._directory = directory
        self._clock = clock
        self._patience = patience
        self._retries = 0

    async def each(
        self,
        shards: Sequence[int],
        work: Callable[[str, Sequence[int]], Awaitable[None]],
        until: float,
    ) -> None:
        """``work(host, shards)`` for the owner of each; those that fail because the owner has
        moved or died are done again with the new one. Raises the last failure at the deadline."""
        left, failures = list(shards), 0
        while True:
            owners = await self._directory.incarnations(left)
            groups: dict[str, list[int]] = defaultdict(list)
            for shard, owner in owners.items():
                if owner is not None:
                    groups[owner].append(shard)
            orphans = [shard for shard, owner in owners.items() if owner is None]
            results = await asyncio.gather(
                *(self._watched(work, owner, group) for owner, group in groups.items()),
                return_exceptions=True,
            )
            error: MailyError | None = None
            left = orphans
            for group, result in zip(groups.values(), results, strict=True):
                if isinstance(result, DeadlineExceeded | Unavailable | Fenced):
                    error, left = result, left + group
                elif isinstance(result, BaseException):
                    raise result
            if not left:
                return
            failures += 1
            self._retries += 1
            self._directory.invalidate()
            wait = pause(failures, self._patience)
            if self._clock.monotonic() + wait >= until:
                raise error or Unavailable("No host owns this shard now.", retry_after_s=1.0)
            await self._clock.sleep(wait)

    async def ask(
        self,
        shard: int,
        method: str,
        args: tuple[Any, ...],
        until: float,
        try_s: float = math.inf,
    ) -> Any:
        """One method of the owner of one shard."""
        result: list[Any] = []

        async def work(host: str, _: Sequence[int]) -> None:
            result.append(await self.call(host, method, args, until, try_s))

        await self.each([shard], work, until)
        return result[-1]

    async def call(
        self,
        host: str,
        method: str,
        args: tuple[Any, ...],
        until: float,
        try_s: float = math.inf,
    ) -> Any:
        """``try_s``: for one answer; a call to an actor that is being restarted hangs until it is
        back, while another host may have taken over long since. Raises DeadlineExceeded."""
        left = until - self._clock.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"{host} did not answer in time.")
        return await self._caller.call(host, method, args, min(left, try_s))

    async def _watched(
        self, work: Callable[[str, Sequence[int]], Awaitable[None]], owner: str, shards: list[int]
    ) -> None:
        """``work``, given up as soon as another owns one of the shards. Raises Unavailable then."""
        host, pause_s = host_of(owner), DOUBT_S
        task = asyncio.ensure_future(work(host, shards))
        try:
            while not (await asyncio.wait({task}, timeout=pause_s))[0]:
                if await self._moved(owner, shards, pause_s):
                    raise Unavailable(f"{host} does not own this any more.", {"part": host})
                pause_s = min(DOUBT_MOST_S, pause_s * 1.5)
            await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _moved(self, owner: str, shards: list[int], fresh_s: float) -> bool:
        try:
            found = await self._directory.incarnations(shards, fresh_s)
        except MailyError:
            return False  # whoever knows is away: the call may well succeed
        return any(now is not None and now != owner for now in found.values())

    def statistics(self) -> dict[str, int]:
        return {"retries": self._retries}
