"""Access tokens: short-lived JWTs (RFC 9068) that we sign with Ed25519 and verify ourselves.

What an attacker may choose is pinned: algorithm, type, issuer and audience are compared with ours,
and a key is found by ``kid`` among our own public keys alone (never from the token).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol
from uuid import UUID

from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError, UnsupportedAlgorithmError

from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import Forbidden, InvalidInput, Unauthenticated
from mesh.core.ids import uuid7
from mesh.security.keyring import ALGORITHM, Keyring, KeySet
from mesh.security.principal import Principal
from mesh.security.scopes import ALL_SCOPES, known_scopes
from mesh.storage.pool import Database

TYPE = "at+jwt"
MAX_TOKEN_CHARS = 4_096
REFRESH_S = 60.0
"""Keys are read again after this long: how late a process learns that a key retired."""
UNKNOWN_KID_REFRESH_S = 1.0
"""An unknown kid makes us look for new keys, at most this often, whatever callers send."""


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


class _OneAlgorithm(jws.JWSRegistry):
    """Knows EdDSA and nothing else.

    The library warns at each use that RFC 9864 prefers the name ``Ed25519``, as ``EdDSA`` leaves
    the curve open. Our keys leave no choice of curve, and verifiers know the older name best.
    """

    def get_alg(self, name: str) -> Any:
        if name != ALGORITHM:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


class TokenService:
    def __init__(
        self, db: Database, options: TokenOptions, secret: bytes, clock: Clock | None = None
    ) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._keyring = Keyring(db, secret)
        self._keys: KeySet | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._registry = _OneAlgorithm(algorithms=[ALGORITHM])
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(self._clock.now()),
            leeway=options.clock_skew_s,
            iss={"essential": True, "value": options.issuer},
            aud={"essential": True, "value": options.audience},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
        )

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
        now = int(self._clock.now())
        lifetime = min(ttl_s or self._options.token_ttl_s, self._options.token_ttl_s)
        if principal.expires_at is not None:
            lifetime = min(lifetime, principal.expires_at - now)
        if lifetime < 1:
            raise InvalidInput("ttl_s: at least 1 second.", {"field": "ttl_s"})
        keys = await self._current()
        claims = {
            "iss": self._options.issuer,
            "aud": self._options.audience,
            "sub": principal.subject,
            "client_id": principal.key_id,
            "workspace": str(principal.workspace_id),
            "scope": " ".join(sorted(granted)),
            "iat": now,
            "exp": now + int(lifetime),
            "jti": str(uuid7()),
        }
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": keys.signer.kid}
        return jwt.encode(header, claims, keys.signer, registry=self._registry)

    async def verify(self, token: str) -> Principal:
        """Raises Unauthenticated; the message says whether it has expired or is wrong."""
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated("The token is too long.")
        try:
            header = jws.extract_compact(token.encode()).headers()
            if header.get("alg") != ALGORITHM or header.get("typ") != TYPE:
                raise Unauthenticated("The token is not one of ours.")
            key = await self._verifier(header.get("kid"))
            claims = jwt.decode(token, key, registry=self._registry).claims
            self._claims.validate(claims)
            return _principal(claims)
        except ExpiredTokenError as error:
            raise Unauthenticated("The token has expired.") from error
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Malformed in any of the ways that a stranger's bytes can be.
            raise Unauthenticated("The token is not valid.") from error

    async def jwks(self) -> dict[str, Any]:
        """Our public keys (RFC 7517), retiring ones too."""
        return (await self._current()).jwks

    async def rotate(self) -> str:
        """Sign with a new key from now on; gives its kid. Tokens signed before live out their time.

        Other processes go on signing with the old key until they read again (``REFRESH_S``).
        """
        overlap_s = self._options.token_ttl_s + self._options.clock_skew_s + 2 * REFRESH_S
        async with self._reading:
            self._keys = await self._keyring.rotate(overlap_s)
            self._read_at = self._clock.monotonic()
            kid = self._keys.signer.kid
        assert kid is not None
        return kid

    async def _current(self, max_age_s: float = REFRESH_S) -> KeySet:
        keys = self._keys
        if keys is not None and self._clock.monotonic() - self._read_at < max_age_s:
            return keys
        async with self._reading:  # one reads, the others take what it found
            if self._keys is None or self._clock.monotonic() - self._read_at >= max_age_s:
                self._keys = await self._keyring.load()
                self._read_at = self._clock.monotonic()
            return self._keys

    async def _verifier(self, kid: object) -> Any:
        if isinstance(kid, str):
            for max_age_s in (REFRESH_S, UNKNOWN_KID_REFRESH_S):
                if key := (await self._current(max_age_s)).verifiers.get(kid):
                    return key
        raise Unauthenticated("The token was signed by a key that we don't know.")


def _principal(claims: dict[str, Any]) -> Principal:
    return Principal(
        subject=claims["sub"],
        workspace_id=UUID(claims["workspace"]),
        scopes=frozenset(claims["scope"].split()) & ALL_SCOPES,
        kind="token",
        key_id=claims["client_id"],
        expires_at=float(claims["exp"]),
    )
