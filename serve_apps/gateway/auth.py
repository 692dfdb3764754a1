"""Who is calling: API keys and tokens, verified once and then remembered for a few seconds.

What is remembered is keyed by a digest, so the cache holds no credential. A revoked key is
forgotten as soon as the revocation is published (``forget``); should the message be lost, it
lives for ``cache_s`` more seconds at most.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable

from mesh.core.clock import Clock
from mesh.core.errors import Unauthenticated
from mesh.security.principal import Principal
from serve_apps.gateway.deps import KeyStore, LoginGuard, TokenStore
from serve_apps.gateway.logins import claimed_id
from serve_apps.gateway.policy import Credential

MAX_CREDENTIAL = 4_096
KEY_PREFIX = "mk_"


class Authenticator:
    """``size``: credentials remembered at most; the longest unused goes first."""

    def __init__(
        self,
        keys: KeyStore,
        tokens: TokenStore,
        clock: Clock,
        *,
        cache_s: float = 5.0,
        size: int = 10_000,
        logins: LoginGuard | None = None,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        self._cache_s = cache_s
        self._size = size
        self._logins = logins
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._verifying: dict[bytes, asyncio.Task[Principal]] = {}
        self.on_forget: list[Callable[[str | None], None]] = []
        """Told of each ``forget``: streams that last ask again whether they still may."""
        self.hits = 0
        self.misses = 0

    async def authenticate(
        self,
        header: bytes | None,
        accepts: Credential,
        address: Callable[[], str] = lambda: "",
    ) -> Principal:
        """``address``: the client's, for those who fail again and again.

        Raises Unauthenticated: missing, malformed, wrong, expired or revoked; RateLimited: too
        many of those came from there (what is known and valid passes all the same).
        """
        if header is None:
            raise Unauthenticated("Send a key or token: Authorization: Bearer …")
        if len(header) > MAX_CREDENTIAL:
            raise Unauthenticated("The credential is too long")
        digest = hashlib.sha256(header).digest()
        known = self._known.get(digest)
        if known is not None and known[1] > self._clock.monotonic():
            self._known.move_to_end(digest)
            self.hits += 1
            return known[0]
        credential, basic = _credential(header)
        if basic and accepts != "bearer or basic":
            raise Unauthenticated("Send the key as a bearer: Authorization: Bearer …")
        self.misses += 1
        if self._logins is None:
            principal = await self._once(digest, credential)
        else:
            principal = await self._guarded(self._logins, digest, credential, address())
        # A credential sent by HTTP Basic must not become known to routes that take bearers alone.
        if not basic:
            self._remember(digest, principal)
        return principal

    async def _guarded(
        self, logins: LoginGuard, digest: bytes, credential: str, address: str
    ) -> Principal:
        key_id = claimed_id(credential)
        logins.check(address, key_id)
        try:
            principal = await self._once(digest, credential)
        except Unauthenticated as error:
            # An expired token was right once: clients that renew late are no attackers.
            if not error.details.get("expired"):
                await logins.failed(address, key_id, "token" if key_id == "token" else "key")
            raise
        logins.succeeded(address, key_id)
        return principal

    async def _verify(self, credential: str) -> Principal:
        if credential.startswith(KEY_PREFIX):
            return await self._keys.verify(credential)
        return await self._tokens.verify(credential)

    async def _once(self, digest: bytes, credential: str) -> Principal:
        """Many requests with one new credential at once cost one look-up."""
        running = self._verifying.get(digest)
        if running is None:
            running = asyncio.create_task(self._verify(credential))
            self._verifying[digest] = running
            running.add_done_callback(lambda done: self._ended(digest, done))
        return await asyncio.shield(running)  # one waiter that leaves does not take it along

    def _ended(self, digest: bytes, done: asyncio.Task[Principal]) -> None:
        self._verifying.pop(digest, None)
        if not done.cancelled():
            done.exception()  # read, so that nobody complains when its waiters have left

    def _remember(self, digest: bytes, principal: Principal) -> None:
        seconds = self._cache_s
        if principal.expires_at is not None:
            seconds = min(seconds, principal.expires_at - self._clock.now())
        until = self._clock.monotonic() + seconds
        self._known[digest] = (principal, until)
        self._known.move_to_end(digest)
        while len(self._known) > self._size:
            self._known.popitem(last=False)

    def forget(self, key_id: str | None = None) -> None:
        """What this key (None: every key) was allowed is asked anew."""
        if key_id is None:
            self._known.clear()
        else:
            for digest in [d for d, (p, _) in self._known.items() if p.key_id == key_id]:
                del self._known[digest]
        for listener in self.on_forget:
            listener(key_id)

    def statistics(self) -> dict[str, int | float]:
        return {"known": len(self._known), "hits": self.hits, "misses": self.misses}


def _credential(header: bytes) -> tuple[str, bool]:
    """The credential, and whether it came by HTTP Basic (as its password)."""
    scheme, _, value = header.partition(b" ")
    value = value.strip()
    kind = scheme.lower()
    if kind == b"bearer" and value:
        try:
            return value.decode("ascii"), False
        except UnicodeDecodeError:
            raise Unauthenticated("The credential is not ASCII") from None
    if kind == b"basic" and value:
        return parse_basic(value)[1], True
    raise Unauthenticated("Send a key or token: Authorization: Bearer …")


def parse_basic(value: bytes) -> tuple[str, str]:
    """User and password of an HTTP Basic credential (RFC 7617), in UTF-8."""
    try:
        user, separator, password = (
            base64.b64decode(value, validate=True).decode("utf-8").partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthenticated("The Basic credential is malformed") from None
    if not separator:
        raise Unauthenticated("The Basic credential is malformed")
    return user, password
