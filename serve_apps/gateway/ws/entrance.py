"""The WebSocket's handshake: who may open one, answered in our error shape while it is HTTP.

A credential comes in the Authorization header, or (browsers can't set it) in the first message. It
never comes in the URL, which proxies log. Origins are those that may read our answers elsewhere:
a page of another origin is refused although it has no cookie to abuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from mesh.contracts.streams import PROTOCOL
from mesh.core import metrics
from mesh.core.errors import (
    Forbidden,
    InvalidInput,
    MailyError,
    NotFound,
    RateLimited,
    Unavailable,
)
from mesh.core.logging import get_logger
from mesh.core.tracing import current_traceparent, span
from mesh.security.principal import Principal
from serve_apps.gateway.answers import JSON, dumps, error_body, error_headers
from serve_apps.gateway.auth import Authenticator
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.headers import SECURITY, Cors, read_headers
from serve_apps.gateway.logins import client_address
from serve_apps.gateway.policy import SOCKETS, Rule
from serve_apps.gateway.topics import Topics
from serve_apps.gateway.ws.commands import serve_commands
from serve_apps.gateway.ws.connection import Connection, Parts
from serve_apps.gateway.ws.messages import say

_log = get_logger("gateway.ws")


@dataclass(slots=True)
class _Guest:
    """Who knocks."""

    trace_id: str
    traceparent: str
    principal: Principal | None = None
    header: bytes | None = None
    address: Callable[[], str] = str


class Entrance:
    """Every WebSocket of the gateway as an ASGI callable."""

    def __init__(self, gateway: Gateway, authenticator: Authenticator) -> None:
        self._gateway = gateway
        self._authenticator = authenticator
        authenticator.on_forget.append(gateway.live.recheck)
        self._parts = Parts(gateway, authenticator, Topics(gateway.tasks, lambda: gateway.trust))
        settings = gateway.settings
        self._cors = Cors(settings.gateway.cors_origins)
        self._trusted = frozenset(settings.security.trusted_proxies)
        self._draining = Unavailable(
            "This replica goes away: try again, another one answers", retry_after_s=1
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        parent = next((v for n, v in scope["headers"] if n == b"traceparent"), None)
        started = self._gateway.clock.monotonic()
        route = scope["path"] if scope["path"] in SOCKETS else "unmatched"
        # The span is the handshake's: a socket lives for hours.
        with span("websocket", None if parent is None else parent.decode("latin-1")):
            traceparent = current_traceparent() or ""
            guest = _Guest(traceparent[3:35], traceparent)
            try:
                await self._admit(scope, guest)
            except MailyError as error:
                await self._refuse(error, scope, send, guest)
                seconds = self._gateway.clock.monotonic() - started
                metrics.observe_request(route, "GET", error.status, seconds)
                return
            await self._accept(scope, send, guest)
        metrics.observe_request(route, "GET", 101, self._gateway.clock.monotonic() - started)
        await self._serve(receive, send, guest)

    async def _admit(self, scope: Scope, guest: _Guest) -> None:
        headers = read_headers(scope["headers"])
        peer = (scope.get("client") or ("", 0))[0]
        guest.address = lambda: client_address(peer, headers, self._trusted)
        authorization = headers.get(b"authorization")
        rule = SOCKETS.get(scope["path"])
        if rule is None:
            # Only who may come in learns which paths there are.
            await self._enter(authorization, Rule(), guest)
            raise NotFound("There is no such path", {"path": scope["path"][:200]})
        if self._gateway.live.draining:
            raise self._draining
        origin = headers.get(b"origin")
        if origin is not None and not self._cors.welcomes(origin, headers.get(b"host", b"")):
            raise Forbidden("Pages of this origin may not connect", {"field": "header.Origin"})
        offered = scope.get("subprotocols") or []
        if offered and PROTOCOL not in offered:
            raise InvalidInput(
                f"The subprotocol is {PROTOCOL}",
                {"field": "header.Sec-WebSocket-Protocol", "known": [PROTOCOL]},
            )
        if scope.get("query_string"):
            raise InvalidInput(
                "Takes no query; a credential comes in the first message", {"field": "query"}
            )
        if authorization is not None:
            guest.principal = await self._enter(authorization, rule, guest)
            guest.header = authorization

    async def _enter(self, authorization: bytes | None, rule: Rule, guest: _Guest) -> Principal:
        principal = await self._authenticator.authenticate(authorization, "bearer", guest.address)
        decision = await self._gateway.limiter.hit(principal.key_id)
        if not decision.allowed:
            metrics.RATE_LIMITED.inc()
            raise RateLimited(
                f"More than {decision.limit} requests in a minute",
                {"limit": decision.limit, "window_s": 60},
                retry_after_s=max(1.0, decision.reset_s),
            )
        if rule.scope is not None:
            principal.require(rule.scope)
        if rule.workspace:
            principal.require_workspace()
        return principal

    async def _accept(self, scope: Scope, send: Send, guest: _Guest) -> None:
        offered = scope.get("subprotocols") or []
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": PROTOCOL if PROTOCOL in offered else None,
                "headers": [
                    (b"x-trace-id", guest.trace_id.encode()),
                    (b"traceparent", guest.traceparent.encode()),
                ],
            }
        )

    async def _serve(self, receive: Receive, send: Send, guest: _Guest) -> None:
        connection = Connection(self._parts, receive, send, guest.trace_id, guest.address)
        settings = self._gateway.settings.streams
        if guest.principal is not None and guest.header is not None:
            connection.admit(guest.principal, guest.header)
        connection.put(
            say(
                "welcome",
                protocol=PROTOCOL,
                session=guest.trace_id,
                authenticated=guest.principal is not None,
                expires_at=guest.principal.expires_at if guest.principal else None,
                heartbeat_s=settings.socket_heartbeat_s,
                limits={
                    "subscriptions": settings.socket_subscriptions,
                    "message_bytes": settings.socket_message_bytes,
                    "messages_per_s": settings.socket_messages_per_s,
                },
            )
        )
        try:
            await connection.run(serve_commands(connection))
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("socket failed", trace_id=guest.trace_id)

    async def _refuse(self, error: MailyError, scope: Scope, send: Send, guest: _Guest) -> None:
        """As an HTTP answer where the server can, else as a handshake that failed."""
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return
        body = dumps(error_body(error, guest.trace_id))
        headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
        headers += [(n.encode(), v.encode()) for n, v in error_headers(error).items()]
        headers += [(b"x-trace-id", guest.trace_id.encode()), *SECURITY]
        await send(
            {
                "type": "websocket.http.response.start",
                "status": error.status,
                "headers": headers,
            }
        )
        await send({"type": "websocket.http.response.body", "body": body})
