"""A service's own tokens: fetched by its first credential, kept, renewed before they run out.

A background task per token renews it when most of its life is over, at a moment of its own so
that a fleet doesn't come at once. While that fails the old one goes on for as long as it is valid,
and tries follow with growing pauses. A token that nobody has asked for since it was made is not
renewed. Tokens are never logged and go to one origin alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import httpx
from joserfc.jwk import OKPKey

from mesh.core import metrics
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import Internal, MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.security.assertion import GRANT_TYPE, make_assertion
from mesh.security.services import Service

log = get_logger("service-tokens")


@dataclass(frozen=True, slots=True)
class ServiceTokenOptions:
    """When a token is renewed. Seconds, where nothing else is said."""

    renew_share: float = 0.7
    """Renewed when so much of its life is over …"""
    jitter_share: float = 0.1
    """… give or take this much of its life, by chance."""
    retry_min_s: float = 1.0
    """Between tries that fail: at first so long, then twice as long each time …"""
    retry_max_s: float = 30.0
    """… up to this."""
    margin_s: float = 5.0
    """A token with less than this left counts as run out: it has a way to go yet."""
    timeout_s: float = 5.0
    """For one request to the token endpoint."""
    max_tokens: int = 256
    """Workspaces acted for at a time; the longest unused goes first."""

    def __post_init__(self) -> None:
        if not 0 < self.renew_share - self.jitter_share <= self.renew_share + self.jitter_share < 1:
            raise ValueError("renew_share ± jitter_share must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Granted:
    """What the token endpoint gave."""

    token: str = field(repr=False)
    expires_in_s: float


class TokenEndpoint(Protocol):
    async def fetch(self, workspace_id: UUID | None) -> Granted:
        """Raises MailyError."""
        ...


class HttpTokenEndpoint:
    """The gateway's ``/oauth/token``. ``origin``: scheme, host and port."""

    def __init__(
        self,
        origin: str,
        service: Service,
        key: OKPKey,
        issuer: str,
        clock: Clock | None = None,
        *,
        timeout_s: float = 5.0,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = f"{origin.rstrip('/')}/oauth/token"
        self._service = service
        self._key = key
        self._issuer = issuer
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._owned = client is None
        self._client = client or httpx.AsyncClient(
            timeout=timeout_s, trust_env=False, follow_redirects=False
        )

    async def fetch(self, workspace_id: UUID | None) -> Granted:
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": GRANT_TYPE,
            "client_assertion": make_assertion(self._key, self._service, self._issuer, self._clock),
        }
        if workspace_id is not None:
            form["workspace"] = str(workspace_id)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.post(self._url, data=form)
            if answer.status_code != 200:
                raise Unavailable(
                    "The gateway gave this service no token.", {"status": answer.status_code}
                )
            body = answer.json()
            return Granted(str(body["access_token"]), float(body["expires_in"]))
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                "The gateway gave this service no token.", {"reason": type(error).__name__}
            ) from error

    async def aclose(self) -> None:
        if self._owned:
            await self._client.aclose()


@dataclass(slots=True)
class _Held:
    """One token and the task that keeps it fresh."""

    token: str
    expires_at: float
    """Monotonic seconds."""
    life_s: float
    used: bool = True
    renewal: asyncio.Task[None] | None = None


class ServiceTokenSource:
    """Belongs to one event loop; close it."""

    def __init__(
        self,
        service: Service,
        endpoint: TokenEndpoint,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        options: ServiceTokenOptions | None = None,
    ) -> None:
        self.service = service
        self._endpoint = endpoint
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  (jitter)
        self._options = options or ServiceTokenOptions()
        self._held: OrderedDict[UUID | None, _Held] = OrderedDict()
        self._fetching: dict[UUID | None, asyncio.Task[_Held]] = {}
        self._closed = False
        self._fetched = self._renewed = self._failed = self._hits = 0

    async def token(self, workspace_id: UUID | None = None) -> str:
        """A token that is valid for ``margin_s`` more at least; ``workspace_id``: to act for.

        Costs a request for the first one alone. Raises Unavailable where none is to be had.
        """
        held = self._held.get(workspace_id)
        if held is not None and self._left(held) > self._options.margin_s:
            self._held.move_to_end(workspace_id)
            held.used = True
            self._hits += 1
            return held.token
        return (await self._once(workspace_id)).token

    def refuse(self, token: str) -> None:
        """Somebody refused it (the keys were rotated without overlap): never give it again."""
        for workspace_id, held in list(self._held.items()):
            if held.token == token:
                self._drop(workspace_id)

    def statistics(self) -> dict[str, int | float]:
        left = [self._left(held) for held in self._held.values()]
        return {
            "held": len(self._held),
            "hits": self._hits,
            "fetched": self._fetched,
            "renewed": self._renewed,
            "failed": self._failed,
            "least_left_s": round(min(left), 3) if left else 0.0,
        }

    async def aclose(self) -> None:
        self._closed = True
        tasks = [held.renewal for held in self._held.values() if held.renewal is not None]
        tasks += list(self._fetching.values())  # type: ignore[arg-type]
        self._held.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _once(self, workspace_id: UUID | None) -> _Held:
        """Many callers without a token at once cost one request; who leaves takes it not along."""
        task = self._fetching.get(workspace_id)
        if task is None:
            if self._closed:
                raise Unavailable("The service's tokens are closed.")
            task = asyncio.create_task(self._first(workspace_id))
            self._fetching[workspace_id] = task
            task.add_done_callback(lambda done: self._ended(workspace_id, done))
        return await asyncio.shield(task)

    def _ended(self, workspace_id: UUID | None, done: asyncio.Task[_Held]) -> None:
        self._fetching.pop(workspace_id, None)
        if not done.cancelled():
            done.exception()  # read, so that nobody complains when its waiters have left

    async def _first(self, workspace_id: UUID | None) -> _Held:
        granted = await self._fetch(workspace_id)
        self._fetched += 1
        self._drop(workspace_id)
        held = _Held(granted.token, 0.0, 0.0)
        self._note(held, granted)
        self._held[workspace_id] = held
        while len(self._held) > self._options.max_tokens:
            self._drop(next(iter(self._held)))
        if not self._closed:
            held.renewal = asyncio.create_task(self._keep(workspace_id, held))
        return held

    async def _keep(self, workspace_id: UUID | None, held: _Held) -> None:
        """Renew it for as long as it is used and held."""
        while True:
            held.used = False
            spread = self._options.jitter_share * (2 * self._rng.random() - 1)
            await self._clock.sleep(held.life_s * (self._options.renew_share + spread))
            if not held.used:
                break
            pause = self._options.retry_min_s
            while (granted := await self._try(workspace_id)) is None:
                left = self._left(held)
                if left <= 0:
                    break
                # Never past the end: a few tries always fit into what is left.
                most = max(self._options.retry_min_s, left / 3)
                await self._clock.sleep(min(most, pause * (0.5 + self._rng.random())))
                pause = min(self._options.retry_max_s, pause * 2)
            if granted is None:
                break  # it has run out: the next caller asks for a new one, and is told why not
            self._note(held, granted)
            self._renewed += 1
            metrics.SERVICE_TOKENS.labels(self.service.value, "renewed").inc()
        if self._held.get(workspace_id) is held:
            del self._held[workspace_id]

    async def _try(self, workspace_id: UUID | None) -> Granted | None:
        try:
            return await self._fetch(workspace_id)
        except MailyError as error:
            log.warning("tokens.renew", service=self.service.value, error=error.code)
            return None

    async def _fetch(self, workspace_id: UUID | None) -> Granted:
        try:
            granted = await self._endpoint.fetch(workspace_id)
            if granted.expires_in_s <= self._options.margin_s:
                raise Internal("The token that was given is as good as run out.")
        except MailyError:
            self._failed += 1
            metrics.SERVICE_TOKENS.labels(self.service.value, "failed").inc()
            raise
        return granted

    def _note(self, held: _Held, granted: Granted) -> None:
        held.token = granted.token
        held.life_s = granted.expires_in_s
        held.expires_at = self._clock.monotonic() + granted.expires_in_s

    def _left(self, held: _Held) -> float:
        return held.expires_at - self._clock.monotonic()

    def _drop(self, workspace_id: UUID | None) -> None:
        held = self._held.pop(workspace_id, None)
        if held is not None and held.renewal is not None:
            held.renewal.cancel()


class ServiceAuth(httpx.Auth):
    """For ``httpx.AsyncClient(auth=…)``: a service's token on every request to ``origin``, and on
    none to anywhere else. A refused token is replaced once."""

    def __init__(
        self, source: ServiceTokenSource, origin: str, workspace_id: UUID | None = None
    ) -> None:
        self._source = source
        self._origin = _origin(httpx.URL(origin))
        self._workspace_id = workspace_id

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if _origin(request.url) != self._origin:
            request.headers.pop("authorization", None)
            yield request
            return
        token = await self._source.token(self._workspace_id)
        request.headers["authorization"] = f"Bearer {token}"
        answer = yield request
        if answer.status_code == 401:
            self._source.refuse(token)
            token = await self._source.token(self._workspace_id)
            request.headers["authorization"] = f"Bearer {token}"
            yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    ports = {"http": 80, "https": 443}
    return url.scheme, url.host, url.port or ports.get(url.scheme)
