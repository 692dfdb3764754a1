"""Public keys that verify tokens, remembered by whoever verifies.

One policy for both sources (our own database, an issuer's JWKS): read again when they are old; an
unknown ``kid`` asks for new ones at once, but only so often, whatever strangers send; while the
source is away the keys that we have go on verifying, for a stated time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from joserfc.jwk import OKPKey

from mesh.core.clock import Clock
from mesh.core.errors import MailyError, Unauthenticated, Unavailable


class Verifiers(Protocol):
    """Public keys by kid, and when those that retire do (Unix seconds)."""

    @property
    def verifiers(self) -> Mapping[str, OKPKey]: ...
    @property
    def retires(self) -> Mapping[str, float]: ...


K = TypeVar("K", bound=Verifiers)


@dataclass(frozen=True, slots=True)
class KeyCacheOptions:
    """How old keys may get. Seconds."""

    max_age_s: float = 60.0
    """Read again after this long: how late a process learns that a key retired."""
    unknown_kid_s: float = 1.0
    """An unknown kid makes us look for new keys, at most this often."""
    retry_s: float = 5.0
    """Between tries while the source is away."""
    patience_s: float = 1.0
    """Who has old keys waits so long for new ones, then goes on with them."""
    stale_s: float = 86_400.0
    """How long keys go on verifying while the source is away. A retired key is refused at its
    own time all the same, where the source says when that is."""


class KeyCache(Generic[K]):
    """``load``: reads the source; its MailyErrors mean that it is away. ``max_age``: how long
    what was read stays fresh, where the source says so itself."""

    def __init__(
        self,
        load: Callable[[], Awaitable[K]],
        clock: Clock,
        options: KeyCacheOptions | None = None,
        *,
        max_age: Callable[[K], float] | None = None,
    ) -> None:
        self._load = load
        self._clock = clock
        self._options = options or KeyCacheOptions()
        self._max_age = max_age
        self._keys: K | None = None
        self._read_at = 0.0
        self._expired = False
        self._tried_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self._reads = self._failures = self._stale = 0

    async def current(self) -> K:
        """The keys, fresh where that is possible. Raises what the source raises when there are
        none, and Unavailable when there are none that are young enough."""
        if (keys := self._fresh()) is not None:
            return keys
        idle = self._reading is None and self._since_try() < self._options.retry_s
        if self._keys is not None and idle:
            return self._old(self._keys)
        return await self._refreshed()

    async def verifier(self, kid: object) -> OKPKey:
        """Raises Unauthenticated for a kid that nobody knows, and what ``current`` raises."""
        if not isinstance(kid, str):
            raise Unauthenticated("The token names no key.")
        keys = await self.current()
        if kid not in keys.verifiers and (
            self._reading is not None or self._since_try() >= self._options.unknown_kid_s
        ):
            keys = await self._refreshed()
        key = keys.verifiers.get(kid)
        if key is None or keys.retires.get(kid, math.inf) <= self._clock.now():
            raise Unauthenticated("The token was signed by a key that we don't know.")
        return key

    def put(self, keys: K) -> None:
        """What was just read or made."""
        self._keys = keys
        self._expired = False
        self._read_at = self._tried_at = self._clock.monotonic()

    def expire(self) -> None:
        """The next caller reads: the keys have changed. While the source is away they stay."""
        self._expired = True
        self._tried_at = None

    def statistics(self) -> dict[str, int | float]:
        return {
            "keys": 0 if self._keys is None else len(self._keys.verifiers),
            "age_s": 0.0 if self._keys is None else self._age(),
            "reads": self._reads,
            "failures": self._failures,
            "stale": self._stale,
        }

    async def _refreshed(self) -> K:
        """What a new read gives: one reads, all wait for it. Who has old keys waits for a moment
        only, and a caller that leaves takes nothing along."""
        if self._reading is None:
            self._tried_at = self._clock.monotonic()
            self._reading = asyncio.create_task(self._read())
            # Read once more, so that nobody complains when its waiters have left.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        reading = self._reading
        patience = None if self._keys is None else self._options.patience_s
        done, _ = await asyncio.wait({reading}, timeout=patience)
        error = reading.exception() if done else None
        if error is not None and not (isinstance(error, MailyError) and self._keys is not None):
            raise error
        assert self._keys is not None
        return self._fresh() or self._old(self._keys)

    async def _read(self) -> None:
        try:
            keys = await self._load()
        except MailyError:
            self._failures += 1
            raise
        else:
            self._reads += 1
            self.put(keys)
        finally:
            self._reading = None

    def _old(self, keys: K) -> K:
        if self._age() >= self._options.stale_s:
            raise Unavailable(
                "The keys that verify tokens are too old.", retry_after_s=self._options.retry_s
            )
        self._stale += 1
        return keys

    def _age(self) -> float:
        return self._clock.monotonic() - self._read_at

    def _since_try(self) -> float:
        at = self._tried_at
        return math.inf if at is None else self._clock.monotonic() - at

    def _fresh(self) -> K | None:
        keys = self._keys
        if keys is None or self._expired:
            return None
        limit = self._options.max_age_s if self._max_age is None else self._max_age(keys)
        return keys if self._age() < limit else None
