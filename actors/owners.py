"""Ask whoever owns a shard now, and ask again when it has moved or died meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.directory import Caller, Directory
from actors.patience import PatienceOptions, pause
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded, Fenced, MailyError, Unavailable


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
            owners = await self._directory.owners(left)
            groups: dict[str, list[int]] = defaultdict(list)
            for shard, host in owners.items():
                if host is not None:
                    groups[host].append(shard)
            orphans = [shard for shard, host in owners.items() if host is None]
            results = await asyncio.gather(
                *(work(host, group) for host, group in groups.items()), return_exceptions=True
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

    def statistics(self) -> dict[str, int]:
        return {"retries": self._retries}
