"""Callers without a credential: limited by their address, in windows that all replicas share."""

from __future__ import annotations

import ipaddress
from typing import Literal

from mesh.core import metrics
from mesh.core.errors import RateLimited
from serve_apps.gateway.deps import Limiter
from serve_apps.gateway.headers import limit_headers

_NETWORK_BITS = 64
"""Of an IPv6 address: what one subscriber has all of."""

Kind = Literal["read", "work"]


class PublicDoor:
    """``reads``: of what is stored. ``work``: of what has to be worked out for the answer."""

    def __init__(self, reads: Limiter, work: Limiter) -> None:
        self._limiters: dict[Kind, Limiter] = {"read": reads, "work": work}
        self._admitted = self._refused = 0

    async def admit(self, address: str, kind: Kind) -> list[tuple[bytes, bytes]]:
        """Count one request; the headers that tell of the limit. Raises RateLimited."""
        decision = await self._limiters[kind].hit(f"public {kind} {one_caller(address)}")
        if not decision.allowed:
            self._refused += 1
            metrics.RATE_LIMITED.inc()
            raise RateLimited(
                f"More than {decision.limit} requests in a minute from one address",
                {"limit": decision.limit, "window_s": 60},
                retry_after_s=max(1.0, decision.reset_s),
            )
        self._admitted += 1
        return limit_headers(decision)

    def statistics(self) -> dict[str, int | float]:
        return {"admitted": self._admitted, "refused": self._refused}


def one_caller(address: str) -> str:
    """The address, of IPv6 the network that one caller can take addresses from at will."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(ipaddress.IPv6Network((known, _NETWORK_BITS), strict=False))
    return str(known)
