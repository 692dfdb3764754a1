"""Rate limits that all replicas share, for the price of a local counter.

The window is kept in Valkey (a sliding window counter of the ``limits`` library). A busy process
takes hits from it in blocks and spends them by itself for at most a second; how large the blocks
are follows what the key really uses, from single hits up to ``block``. So a quiet key is counted
exactly, a busy one to within one block per process, and a thousand requests cost a handful of
round trips. While Valkey is away everybody is let through, and that is counted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from mesh.core.clock import Clock, SystemClock
from mesh.core.metrics import RATE_LIMITER_ERRORS
from mesh.streams.connect import connect

_KEYS = 10_000
_SPEND_S = 1.0
_BUSY_S = 0.5
_TIMEOUT_S = 0.5
_AWAY_S = 1.0
_DENY_S = 0.2
_DENY_MIN_S = 0.02


@dataclass(frozen=True, slots=True)
class RateDecision:
    """``remaining`` is an estimate; ``reset_s``: seconds until (more) hits are free again."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True)
class _Key:
    """What this process holds of one key's window."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    size: int = 1
    left: int = 0
    taken_at: float = -math.inf
    denied_until: float = -math.inf
    remaining: int = 0
    reset_at: float = 0.0


class RateLimiter:
    """One limit for every key. Belongs to one event loop."""

    def __init__(
        self,
        url: str,
        per_minute: int,
        block: int = 200,
        *,
        window_s: int = 60,
        prefix: str = "maily:limit",
        clock: Clock | None = None,
    ) -> None:
        """``url``: as for ``streams.connect``. ``per_minute``: hits a key may make in
        ``window_s`` seconds. ``block``: hits taken at once, at most (never more than a tenth of
        the limit, so that no process takes it all)."""
        self._limit = per_minute
        self._block = max(1, min(block, per_minute // 10))
        self._item = RateLimitItemPerSecond(per_minute, window_s)
        self._clock = clock or SystemClock()
        self._client = connect(url, max_connections=8, timeout_s=_TIMEOUT_S)
        # The address is the pool's; the library only wants to see its kind.
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=prefix,
            connection_pool=self._client.connection_pool,  # type: ignore[arg-type]
        )
        self._window = SlidingWindowCounterRateLimiter(storage)
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._away_until = -math.inf
        self._hits = 0
        self._denied = 0
        self._takes = 0
        self._errors = 0

    async def hit(self, key: str) -> RateDecision:
        """Count one request of ``key``. Raises nothing; takes at most about half a second."""
        self._hits += 1
        state = self._keys.get(key)
        if state is None:
            state = self._keys[key] = _Key()
            if len(self._keys) > _KEYS:
                self._keys.popitem(last=False)
        self._keys.move_to_end(key)
        decision = self._spend(state)
        if decision is None:
            async with state.lock:
                # Who waited here finds what another took.
                while (decision := self._spend(state)) is None:
                    await self._take(key, state)
        if not decision.allowed:
            self._denied += 1
        return decision

    def statistics(self) -> dict[str, int | float]:
        return {
            "hits": self._hits,
            "denied": self._denied,
            "takes": self._takes,
            "errors": self._errors,
            "keys": len(self._keys),
        }

    async def aclose(self) -> None:
        await self._client.aclose()

    def _spend(self, state: _Key) -> RateDecision | None:
        """Decide by what is held here; None: the window must be asked."""
        now = self._clock.monotonic()
        if state.left > 0 and now - state.taken_at < _SPEND_S:
            state.left -= 1
            return self._pass(state)
        if now < state.denied_until:
            return RateDecision(False, self._limit, 0, max(0.0, state.reset_at - now))
        if now < self._away_until:
            return self._pass(state)
        return None

    def _pass(self, state: _Key) -> RateDecision:
        reset_s = max(0.0, state.reset_at - self._clock.monotonic())
        return RateDecision(True, self._limit, max(0, state.remaining) + state.left, reset_s)

    async def _take(self, key: str, state: _Key) -> None:
        now = self._clock.monotonic()
        if state.left == 0 and now - state.taken_at < _BUSY_S:
            state.size = min(self._block, state.size * 2)
        elif state.left > 0:
            state.size = max(1, state.size - state.left)
        state.left = 0
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                taken = await self._draw(key, state)
        except (RedisError, OSError):
            self._errors += 1
            RATE_LIMITER_ERRORS.inc()
            state.remaining = self._limit
            self._away_until = self._clock.monotonic() + _AWAY_S
            return
        self._takes += 1
        now = self._clock.monotonic()
        state.left = taken
        if taken:
            state.taken_at = now
        else:
            state.taken_at = -math.inf
            state.reset_at = max(state.reset_at, now + _DENY_MIN_S)
            state.denied_until = min(now + _DENY_S, state.reset_at)

    async def _draw(self, key: str, state: _Key) -> int:
        """Hits got from the window: a whole block, or what is left of it."""
        got, stats = await asyncio.gather(
            self._window.hit(self._item, key, cost=state.size),
            self._window.get_window_stats(self._item, key),
        )
        self._note(state, stats.remaining, stats.reset_time)
        if got:
            return state.size
        rest = min(state.size - 1, state.remaining)
        if rest > 0 and await self._window.hit(self._item, key, cost=rest):
            state.remaining -= rest
            return rest
        return 0

    def _note(self, state: _Key, remaining: int, reset_unix_s: float) -> None:
        state.remaining = remaining
        # The window's clock is the system's, ours may be a test's.
        state.reset_at = self._clock.monotonic() + max(0.0, reset_unix_s - time.time())
