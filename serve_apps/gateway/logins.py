"""Failed logins: who sends wrong credentials again and again is refused unread for a while.

Counted by address, and by address and key's id together, in windows that all replicas share. A
key's id alone counts for nothing: else anybody could lock its owner out. Who logged in with a
key from an address lately is not held off by what others do from there (a shared proxy).
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Collection

from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import RateLimited
from serve_apps.gateway.deps import Limiter

REMEMBERED = 10_000
KNOWN_S = 3_600.0
"""How long a login that went well speaks for its address and key."""


class FailedLogins:
    """``by_address``, ``by_pair``: count one failure each; denied: too many."""

    def __init__(self, by_address: Limiter, by_pair: Limiter, clock: Clock) -> None:
        self._by_address = by_address
        self._by_pair = by_pair
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()
        self._good: OrderedDict[str, float] = OrderedDict()
        self._failed = self._held_off = 0

    def check(self, address: str, key_id: str) -> None:
        """Before the credential is looked at. Raises RateLimited."""
        now = self._clock.monotonic()
        pair = f"{address} {key_id}"
        until = self._until.get(pair, 0.0)
        if self._good.get(pair, 0.0) <= now:
            until = max(until, self._until.get(address, 0.0))
        if until > now:
            self._held_off += 1
            metrics.LOGINS_HELD_OFF.inc()
            raise RateLimited(
                "Too many wrong credentials came from here: wait", retry_after_s=until - now
            )

    def succeeded(self, address: str, key_id: str) -> None:
        _put(self._good, f"{address} {key_id}", self._clock.monotonic() + KNOWN_S)

    async def failed(self, address: str, key_id: str, kind: str) -> None:
        """The credential was wrong. ``kind``: key, token or client. Raises nothing."""
        self._failed += 1
        metrics.FAILED_LOGINS.labels(kind).inc()
        pair = f"{address} {key_id}"
        for name, limiter in ((address, self._by_address), (pair, self._by_pair)):
            decision = await limiter.hit(f"failed {name}")
            if not decision.allowed:
                _put(self._until, name, self._clock.monotonic() + max(1.0, decision.reset_s))

    def statistics(self) -> dict[str, int | float]:
        return {"failed": self._failed, "held_off": self._held_off, "known": len(self._good)}


def client_address(peer: str, headers: dict[bytes, bytes], trusted: Collection[str]) -> str:
    """Whose request it is: the nearest address that none of our own proxies has.

    Each proxy adds whom it heard from at the end of ``X-Forwarded-For``, so what a client wrote
    there itself stands further left and is never reached.
    """
    if peer not in trusted:
        return peer
    for part in reversed(headers.get(b"x-forwarded-for", b"").split(b",")):
        try:
            address = str(ipaddress.ip_address(part.strip().decode("ascii")))
        except ValueError:
            break
        if address not in trusted:
            return address
    return peer


def claimed_id(credential: str) -> str:
    """The id of the key that a credential says it is, shortened; nothing secret."""
    kind, _, rest = credential.partition("_")
    return rest.partition("_")[0][:16] if kind == "mk" else "token"


def _put(known: OrderedDict[str, float], name: str, until: float) -> None:
    known[name] = until
    known.move_to_end(name)
    while len(known) > REMEMBERED:
        known.popitem(last=False)
