"""Who owns what: shard → host → actor, kept for a while and asked again on any doubt.

The leases say who owns a shard now. A caller keeps the answer, because asking costs a round trip;
a host that does not own a shard says so, an actor that does not answer raises, and in both cases
the caller invalidates and looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actors.names import NAMESPACE
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded, Internal, MailyError, Unavailable
from mesh.core.ring import Ring
from mesh.storage.leases import Leases

FRESH_S = 1.0


class Caller(Protocol):
    """How a host is called."""

    async def call(self, host: str, method: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        """Errors of the host come through as they are. Raises Unavailable (it can't be reached;
        whether it did something is unknown) and DeadlineExceeded."""
        ...


class RayCaller:
    """Hosts are named actors."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self._namespace = namespace
        self._handles: dict[str, Any] = {}

    async def call(self, host: str, method: str, args: tuple[Any, ...], timeout_s: float) -> Any:
        reference: Any = None
        try:
            async with asyncio.timeout(timeout_s):
                if host not in self._handles:
                    # A blocking call to Ray's GCS.
                    self._handles[host] = await asyncio.to_thread(
                        ray.get_actor, host, self._namespace
                    )
                reference = getattr(self._handles[host], method).remote(*args)
                answer = await reference
                reference = None
                return answer
        except RayTaskError as error:
            reference = None
            cause = error.cause
            raise (cause if isinstance(cause, MailyError) else Internal()) from error
        except RayActorError as error:
            reference = None
            self._handles.pop(host, None)  # another actor may have the name by now
            raise _away(host) from error
        except (TimeoutError, GetTimeoutError) as error:
            raise DeadlineExceeded(f"{host} did not answer in time.") from error
        except (RayError, ValueError) as error:
            self._handles.pop(host, None)
            raise _away(host) from error
        finally:
            if reference is not None:  # nobody waits for it any more
                ray.cancel(reference)


class Directory:
    """One per process."""

    def __init__(self, ring: Ring, leases: Leases, clock: Clock, fresh_s: float = FRESH_S) -> None:
        self._prefix = ring.shard_prefix
        self._leases = leases
        self._clock = clock
        self._fresh_s = fresh_s
        self._owners: dict[int, str] = {}
        """Host and incarnation."""
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._asked = 0

    async def owners(self, shards: Sequence[int]) -> dict[int, str | None]:
        """The host of each shard; None: nobody owns it now. Raises Unavailable."""
        found = await self.incarnations(shards)
        return {shard: owner and host_of(owner) for shard, owner in found.items()}

    async def incarnations(
        self, shards: Sequence[int], fresh_s: float | None = None
    ) -> dict[int, str | None]:
        """The same, with which life of the host it is (``host_of``). ``fresh_s``: what was learnt
        longer ago does not count. Raises Unavailable."""
        old = self._clock.monotonic() - (self._fresh_s if fresh_s is None else fresh_s)
        if self._asked_at <= old or any(s not in self._owners for s in shards):
            await self._refresh()
        return {shard: self._owners.get(shard) for shard in shards}

    async def all(self) -> dict[int, str]:
        """Every shard that has an owner."""
        await self._refresh()
        return {shard: host_of(owner) for shard, owner in self._owners.items()}

    def invalidate(self) -> None:
        """Somebody was not where we thought."""
        self._asked_at = float("-inf")

    def statistics(self) -> dict[str, int]:
        return {"shards": len(self._owners), "asked": self._asked}

    async def _refresh(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        self._asked += 1
        began = self._clock.monotonic()
        held = await self._leases.held(self._prefix)
        self._owners = {int(lease.key.removeprefix(self._prefix)): lease.owner for lease in held}
        self._asked_at = began


def host_of(owner: str) -> str:
    """The host whose incarnation holds a lease."""
    return owner.partition("/")[0]


def _away(host: str) -> Unavailable:
    return Unavailable(f"{host} can't be reached.", {"part": host}, retry_after_s=0.5)
