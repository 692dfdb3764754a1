"""How a service proves who it is to the token endpoint (RFC 7523 §2.2, ``private_key_jwt``).

The service signs a short-lived statement with the key that is derived from the instance's secret;
the endpoint derives the same key and checks it. Each statement counts once: its ``jti`` is
remembered for as long as it could be shown again, by all gateways together where Valkey answers.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from uuid import UUID

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from mesh.core.clock import Clock
from mesh.core.errors import MailyError, Unauthenticated
from mesh.core.ids import uuid7
from mesh.security.algorithm import ALGORITHM, REGISTRY
from mesh.security.services import GRANTS, Service, service_key, service_of

TYPE = "client-authentication+jwt"
GRANT_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFETIME_S = 60
MAX_CHARS = 2_048
REMEMBERED = 10_000

Remember = Callable[[str, float], Awaitable[bool]]
"""``(jti, seconds)``: False when it was seen before. Raises MailyError when it can't tell."""


def make_assertion(key: OKPKey, service: Service, issuer: str, clock: Clock) -> str:
    """A statement for one request. ``issuer``: whom it is meant for."""
    now = int(clock.now())
    claims = {
        "iss": service.subject,
        "sub": service.subject,
        "aud": issuer,
        "iat": now,
        "exp": now + LIFETIME_S,
        "jti": str(uuid7()),
    }
    return jwt.encode({"alg": ALGORITHM, "typ": TYPE}, claims, key, registry=REGISTRY)


class AssertionVerifier:
    """``remember``: shared by all gateways; None, or while it fails: this process remembers."""

    def __init__(
        self,
        secret: bytes,
        issuer: str,
        clock: Clock,
        *,
        clock_skew_s: int = 30,
        remember: Remember | None = None,
    ) -> None:
        self._keys = {service: service_key(secret, service) for service in GRANTS}
        self._clock = clock
        self._skew_s = clock_skew_s
        self._remember = remember
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(clock.now()),
            leeway=clock_skew_s,
            aud={"essential": True, "value": issuer},
            exp={"essential": True},
            iat={"essential": True},
            jti={"essential": True},
        )

    async def verify(self, assertion: str) -> Service:
        """Raises Unauthenticated: forged, for somebody else, too old, too long-lived or used."""
        if len(assertion) > MAX_CHARS:
            raise Unauthenticated("The client assertion is too long.")
        try:
            extracted = jws.extract_compact(assertion.encode())
            header = extracted.headers()
            if header.get("alg") != ALGORITHM or header.get("typ") != TYPE:
                raise Unauthenticated("The client assertion is of another kind.")
            # Whom it claims to be says whose key must have signed it.
            service = service_of(_subject(extracted.payload))
            if service is None:
                raise Unauthenticated("The client assertion names no service of ours.")
            claims = jwt.decode(assertion, self._keys[service], registry=REGISTRY).claims
            self._claims.validate(claims)
            if claims["iss"] != service.subject or claims["sub"] != service.subject:
                raise Unauthenticated("The client assertion names somebody else.")
            left = claims["exp"] - self._clock.now()
            if claims["exp"] - claims["iat"] > LIFETIME_S:
                raise Unauthenticated("The client assertion lives too long.")
            jti = str(UUID(claims["jti"]))
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unauthenticated("The client assertion is not valid.") from error
        if not await self._first(f"{service.value}:{jti}", left + self._skew_s + 1):
            raise Unauthenticated("The client assertion was used before.")
        return service

    async def _first(self, jti: str, seconds: float) -> bool:
        now = self._clock.monotonic()
        if self._seen.get(jti, now) > now:
            return False
        self._seen[jti] = now + seconds
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if self._remember is None:
            return True
        try:
            return await self._remember(jti, seconds)
        except MailyError:
            return True  # a token more for who holds the key is better than none for anybody


def _subject(payload: bytes) -> str:
    claims = json.loads(payload)
    subject = claims["sub"]
    if not isinstance(subject, str):
        raise ValueError("sub")
    return subject
