"""An issuer's public keys over HTTP (RFC 7517), for verifiers that can't see its database.

Fetched when first needed, kept as long as the issuer's ``Cache-Control`` says (within bounds),
asked for again with its ``ETag``, looked for at once when a token names a key that we don't know
(at most so often), and used on while the issuer is away.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from mesh.core import metrics
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import Unavailable
from mesh.security.algorithm import ALGORITHM
from mesh.security.key_cache import KeyCache, KeyCacheOptions

MAX_BYTES = 65_536
MAX_KEYS = 64
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})(?:$|[\s,])")


@dataclass(frozen=True, slots=True)
class JwksOptions:
    """How an issuer is asked. Seconds."""

    timeout_s: float = 5.0
    """For one fetch."""
    min_age_s: float = 5.0
    """Kept so long even where the issuer says less …"""
    max_age_s: float = 3_600.0
    """… and asked for again after this even where it says more."""
    cache: KeyCacheOptions = field(default_factory=KeyCacheOptions)
    """``cache.max_age_s`` counts where the issuer says nothing."""


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What an issuer published that we can use."""

    verifiers: Mapping[str, OKPKey]
    retires: Mapping[str, float]
    etag: str | None = None
    max_age_s: float | None = None


class JwksCache:
    """Belongs to one event loop. ``url``: of the key set, ``https`` or on this machine."""

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        options: JwksOptions | None = None,
        *,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = url
        self._options = options or JwksOptions()
        self._owned = client is None
        # Redirects are not followed: keys come from where we were told, or from nowhere.
        self._client = client or httpx.AsyncClient(
            timeout=self._options.timeout_s, trust_env=False, follow_redirects=False
        )
        self._last: PublicKeys | None = None
        self._cache = KeyCache(
            self._fetch, clock or SystemClock(), self._options.cache, max_age=self._fresh_for
        )

    async def verifier(self, kid: object) -> OKPKey:
        """Raises Unauthenticated (nobody knows the kid), Unavailable (no keys to be had)."""
        return await self._cache.verifier(kid)

    def statistics(self) -> dict[str, int | float]:
        return self._cache.statistics()

    async def aclose(self) -> None:
        if self._owned:
            await self._client.aclose()

    def _fresh_for(self, keys: PublicKeys) -> float:
        said = self._options.cache.max_age_s if keys.max_age_s is None else keys.max_age_s
        return min(max(said, self._options.min_age_s), self._options.max_age_s)

    async def _fetch(self) -> PublicKeys:
        try:
            async with asyncio.timeout(self._options.timeout_s):
                keys = await self._ask()
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            metrics.JWKS_FETCHES.labels("failed").inc()
            raise Unavailable(
                "The issuer's keys can't be read.",
                {"part": "jwks", "reason": type(error).__name__},
                retry_after_s=self._options.cache.retry_s,
            ) from error
        self._last = keys
        return keys

    async def _ask(self) -> PublicKeys:
        last = self._last
        headers = {"accept": "application/json"}
        if last is not None and last.etag is not None:
            headers["if-none-match"] = last.etag
        async with self._client.stream("GET", self._url, headers=headers) as answer:
            age = _max_age(answer.headers.get("cache-control", ""))
            if answer.status_code == 304 and last is not None:
                metrics.JWKS_FETCHES.labels("unchanged").inc()
                return PublicKeys(last.verifiers, last.retires, last.etag, age)
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}")
            body = bytearray()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError("the key set is too large")
        parsed = httpx.Response(200, content=bytes(body)).json()
        verifiers, retires = usable_keys(parsed)
        metrics.JWKS_FETCHES.labels("read").inc()
        return PublicKeys(verifiers, retires, answer.headers.get("etag"), age)


def usable_keys(document: Any) -> tuple[dict[str, OKPKey], dict[str, float]]:
    """The Ed25519 keys of a key set that are there to verify signatures; others are passed by.

    Raises ValueError when it is no key set, or holds none that we can use: keeping the old keys
    is better than taking an empty set for the truth.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no key set")
    verifiers: dict[str, OKPKey] = {}
    retires: dict[str, float] = {}
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or "d" in entry:  # who publishes private keys has lost them
            continue
        kid = entry.get("kid")
        kind = (entry.get("kty"), entry.get("crv"))
        purpose = (entry.get("use", "sig"), entry.get("alg", ALGORITHM))
        if not isinstance(kid, str) or kind != ("OKP", "Ed25519") or purpose != ("sig", ALGORITHM):
            continue
        try:
            verifiers[kid] = OKPKey.import_key({k: entry[k] for k in ("kty", "crv", "x")})
        except (JoseError, KeyError, TypeError, ValueError):
            continue
        if isinstance(entry.get("exp"), int):
            retires[kid] = float(entry["exp"])
    if not verifiers:
        raise ValueError("no key that we can use")
    return verifiers, retires


def _max_age(header: str) -> float | None:
    if "no-store" in header or "no-cache" in header:
        return 0.0
    match = _MAX_AGE.search(header.lower())
    return float(match[1]) if match else None
