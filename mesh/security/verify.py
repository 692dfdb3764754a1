"""Verifies access tokens: of API keys (``at+jwt``) and of our services (``maily-svc+jwt``).

What an attacker may choose is pinned: algorithm, type, issuer and audience are compared with ours,
and a key is found by ``kid`` among the issuer's public keys alone (never from the token). The two
types never pass for each other: each has claims of its own, and they are checked by type.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OKPKey

from mesh.core.clock import Clock
from mesh.core.errors import Unauthenticated
from mesh.security.algorithm import ALGORITHM, REGISTRY
from mesh.security.principal import NO_WORKSPACE, Principal
from mesh.security.scopes import ALL_SCOPES
from mesh.security.services import GRANTS, service_of

KEY_TYPE = "at+jwt"
SERVICE_TYPE = "maily-svc+jwt"
MAX_TOKEN_CHARS = 4_096


class Expected(Protocol):
    """The part of ``SecuritySettings`` that a verifier needs."""

    @property
    def issuer(self) -> str: ...
    @property
    def audience(self) -> str: ...
    @property
    def clock_skew_s(self) -> int: ...


class VerifierSource(Protocol):
    """``KeyCache`` and ``JwksCache`` are."""

    async def verifier(self, kid: object) -> OKPKey: ...


class TokenVerifier:
    def __init__(self, keys: VerifierSource, expected: Expected, clock: Clock) -> None:
        self._keys = keys
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(clock.now()),
            leeway=expected.clock_skew_s,
            iss={"essential": True, "value": expected.issuer},
            aud={"essential": True, "value": expected.audience},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
        )

    async def verify(self, token: str) -> Principal:
        """Raises Unauthenticated; the message says whether it has expired or is wrong."""
        if len(token) > MAX_TOKEN_CHARS:
            raise Unauthenticated("The token is too long.")
        try:
            header = jws.extract_compact(token.encode()).headers()
            kind = header.get("typ")
            if header.get("alg") != ALGORITHM or kind not in (KEY_TYPE, SERVICE_TYPE):
                raise Unauthenticated("The token is not one of ours.")
            key = await self._keys.verifier(header.get("kid"))
            claims = jwt.decode(token, key, registry=REGISTRY).claims
            self._claims.validate(claims)
            return _of_key(claims) if kind == KEY_TYPE else _of_service(claims)
        except ExpiredTokenError as error:
            raise Unauthenticated("The token has expired.", {"expired": True}) from error
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Malformed in any of the ways that a stranger's bytes can be.
            raise Unauthenticated("The token is not valid.") from error


def _of_key(claims: dict[str, Any]) -> Principal:
    return Principal(
        subject=claims["sub"],
        workspace_id=UUID(claims["workspace"]),
        scopes=frozenset(claims["scope"].split()) & ALL_SCOPES,
        kind="token",
        key_id=claims["client_id"],
        expires_at=float(claims["exp"]),
    )


def _of_service(claims: dict[str, Any]) -> Principal:
    """Its scopes are cut to what this release grants the service: the table, not the token,
    has the last word."""
    service = service_of(claims["sub"])
    if service is None or claims["client_id"] != claims["sub"]:
        raise Unauthenticated("The token names no service of ours.")
    acting = claims.get("wsp")
    workspace = NO_WORKSPACE if acting is None else UUID(acting)
    grant = GRANTS[service]
    allowed = grant.own if acting is None else grant.acting
    if acting is not None and (workspace == NO_WORKSPACE or not allowed):
        raise Unauthenticated("The service may not act for a workspace.")
    return Principal(
        subject=service.subject,
        workspace_id=workspace,
        scopes=frozenset(claims["scope"].split()) & allowed,
        kind="service",
        key_id=service.subject,
        expires_at=float(claims["exp"]),
    )
