"""Access tokens: short-lived JWTs (RFC 9068) that we sign with Ed25519 and verify ourselves.

Two kinds, by their ``typ``: of API keys, for a key's workspace with at most its scopes; and of our
own services, which name no workspace unless the service acts for one (``wsp``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from joserfc import jwt

from mesh.core import metrics
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import Forbidden, InvalidInput
from mesh.core.ids import uuid7
from mesh.security.algorithm import ALGORITHM, REGISTRY
from mesh.security.key_cache import KeyCache, KeyCacheOptions
from mesh.security.keyring import Keyring, KeySet
from mesh.security.principal import NO_WORKSPACE, Principal
from mesh.security.scopes import known_scopes
from mesh.security.services import GRANTS, Service
from mesh.security.verify import KEY_TYPE, SERVICE_TYPE, TokenVerifier
from mesh.storage.pool import Database

REFRESH_S = 60.0
"""Keys are read again after this long: how late a process learns that a key retired."""
SIGNING = "signing"
"""On the gateways' channel of revocations: the signing keys have changed."""


class TokenOptions(Protocol):
    """The part of ``SecuritySettings`` that this needs."""

    @property
    def token_ttl_s(self) -> int: ...
    @property
    def issuer(self) -> str: ...
    @property
    def audience(self) -> str: ...
    @property
    def clock_skew_s(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """A token as it is handed out, and what it holds."""

    token: str
    scopes: frozenset[str]
    expires_in_s: int

    def __repr__(self) -> str:  # a log line must not hold the token
        return f"ServiceToken(scopes={sorted(self.scopes)}, expires_in_s={self.expires_in_s})"


class TokenService:
    def __init__(
        self, db: Database, options: TokenOptions, secret: bytes, clock: Clock | None = None
    ) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._keyring = Keyring(db, secret)
        self._cache: KeyCache[KeySet] = KeyCache(
            self._keyring.load, self._clock, KeyCacheOptions(max_age_s=REFRESH_S)
        )
        self._verifier = TokenVerifier(self._cache, options, self._clock)

    async def issue(
        self, principal: Principal, scopes: Iterable[str] | None = None, ttl_s: float | None = None
    ) -> str:
        """A token for the holder of an API key, with all or some of the key's scopes.

        ``ttl_s``: seconds, at most ``token_ttl_s`` (the default); it never outlives the key.
        Raises Forbidden (a scope that the key lacks; a token can't make tokens), InvalidInput.
        """
        if principal.kind != "key":
            raise Forbidden("A token can't be exchanged for another: use the API key.")
        granted = principal.scopes if scopes is None else known_scopes(scopes)
        if missing := sorted(granted - principal.scopes):
            raise Forbidden(f"The key lacks the scope {missing[0]}.", {"scope": missing[0]})
        lifetime = min(ttl_s or self._options.token_ttl_s, self._options.token_ttl_s)
        if principal.expires_at is not None:
            lifetime = min(lifetime, principal.expires_at - int(self._clock.now()))
        if lifetime < 1:
            raise InvalidInput("ttl_s: at least 1 second.", {"field": "ttl_s"})
        claims = {
            "sub": principal.subject,
            "client_id": principal.key_id,
            "workspace": str(principal.workspace_id),
            "scope": " ".join(sorted(granted)),
        }
        return await self._sign(KEY_TYPE, claims, int(lifetime))

    async def issue_service(
        self,
        service: Service,
        ttl_s: int,
        *,
        workspace_id: UUID | None = None,
        scopes: Iterable[str] | None = None,
    ) -> ServiceToken:
        """A token for one of our services. ``workspace_id``: for which it acts (the caller has
        checked that there is one).

        Raises Forbidden (it may not act for a workspace, or lacks a scope), InvalidInput.
        """
        grant = GRANTS[service]
        allowed = grant.own if workspace_id is None else grant.acting
        if workspace_id == NO_WORKSPACE or not allowed:
            raise Forbidden(
                f"The service {service.value} may not act for a workspace.", {"field": "workspace"}
            )
        granted = allowed if scopes is None else known_scopes(scopes)
        if missing := sorted(granted - allowed):
            raise Forbidden(f"The service lacks the scope {missing[0]}.", {"scope": missing[0]})
        claims = {
            "sub": service.subject,
            "client_id": service.subject,
            "scope": " ".join(sorted(granted)),
        }
        if workspace_id is not None:
            claims["wsp"] = str(workspace_id)
        lifetime = min(ttl_s, self._options.token_ttl_s)
        token = await self._sign(SERVICE_TYPE, claims, lifetime)
        metrics.SERVICE_TOKENS.labels(service.value, "issued").inc()
        return ServiceToken(token, granted, lifetime)

    async def verify(self, token: str) -> Principal:
        """Raises Unauthenticated; the message says whether it has expired or is wrong."""
        return await self._verifier.verify(token)

    async def jwks(self) -> dict[str, Any]:
        """Our public keys (RFC 7517), retiring ones too."""
        return (await self._cache.current()).jwks

    async def rotate(self, overlap_s: float | None = None) -> str:
        """Sign with a new key from now on; gives its kid. Tokens signed before live out their time.

        ``overlap_s``: how long the old keys go on verifying; None: until the last token that they
        signed has run out, 0: not at all (a key has leaked). Other processes go on signing with
        the old key until they read again (``REFRESH_S``, at once when they are told).
        """
        return await self._rotate(self.overlap_s if overlap_s is None else overlap_s, None)

    async def rotate_if_older(self, age_s: float) -> str:
        """The same, if the key that signs is older than that; gives the kid that signs now."""
        return await self._rotate(self.overlap_s, age_s)

    @property
    def overlap_s(self) -> float:
        """Until every token has run out that a process may still sign with an old key."""
        return self._options.token_ttl_s + self._options.clock_skew_s + 2 * REFRESH_S

    def refresh(self) -> None:
        """The keys have changed elsewhere: read them again."""
        self._cache.expire()

    def statistics(self) -> dict[str, int | float]:
        return self._cache.statistics()

    async def _rotate(self, overlap_s: float, older_than_s: float | None) -> str:
        before = (await self._cache.current()).signer.kid
        keys = await self._keyring.rotate(overlap_s, older_than_s=older_than_s)
        self._cache.put(keys)
        kid = keys.signer.kid
        assert kid is not None
        if kid != before:
            metrics.SIGNING_KEYS.labels("asked" if older_than_s is None else "age").inc()
        return kid

    async def _sign(self, kind: str, claims: dict[str, Any], lifetime_s: int) -> str:
        keys = await self._cache.current()
        now = int(self._clock.now())
        whole = {
            "iss": self._options.issuer,
            "aud": self._options.audience,
            **claims,
            "iat": now,
            "exp": now + lifetime_s,
            "jti": str(uuid7()),
        }
        header = {"alg": ALGORITHM, "typ": kind, "kid": keys.signer.kid}
        return jwt.encode(header, whole, keys.signer, registry=REGISTRY)
