"""The outermost layer: one pure ASGI callable that every request passes, in this order.

trace → headers → CORS preflight → route → credential → scope → rate limit → held answers → body →
the FastAPI application. Whatever goes wrong on the way becomes an answer in our error shape, and
every answer is counted, traced and given the same headers. It holds no state of any request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry.trace import Span, SpanKind
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mesh.core import metrics
from mesh.core.errors import (
    Cancelled,
    Internal,
    MailyError,
    MethodNotAllowed,
    NotFound,
    RateLimited,
)
from mesh.core.logging import get_logger
from mesh.core.tracing import current_traceparent, span
from mesh.llm.cache.note import cache_note
from mesh.llm.call import Call, calling
from mesh.security.principal import NO_WORKSPACE
from serve_apps.gateway.answers import JSON, dumps, error_body, error_headers
from serve_apps.gateway.auth import Authenticator
from serve_apps.gateway.body import Replay, check_media, discard, read_body
from serve_apps.gateway.context import SCOPE_KEY, RequestContext
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.headers import (
    SECURITY,
    Cors,
    idempotency_key,
    limit_headers,
    priority_of,
    read_headers,
    timeout_of,
)
from serve_apps.gateway.logins import client_address
from serve_apps.gateway.policy import Rule, allowed_methods, flavour_of, rule_for, template_of
from serve_apps.gateway.ws.entrance import Entrance

Endpoint = Callable[[Request], Awaitable[Response]]
Held = Callable[[], Awaitable[bytes]]
"""Makes a JSON answer that is the same for everybody (cheaply: it skips the framework)."""

_log = get_logger("gateway.access")


class _Sender:
    """``send`` with our headers on the answer's head; remembers how far the answer got."""

    __slots__ = ("_context", "_cors", "_head", "_send", "bytes", "status")

    def __init__(
        self, send: Send, context: RequestContext, cors: list[tuple[bytes, bytes]]
    ) -> None:
        self._send = send
        self._context = context
        self._cors = cors
        self._head = context.method == "HEAD"
        self.status = 0
        """0 until the answer has begun."""
        self.bytes = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            context = self._context
            headers = list(message.get("headers", ()))
            headers += self._cors
            headers += context.response_headers
            headers.append((b"traceparent", context.traceparent.encode()))
            headers.append((b"x-trace-id", context.trace_id.encode()))
            present = {name for name, _ in headers}
            headers += [pair for pair in SECURITY if pair[0] not in present]
            message = {**message, "headers": headers}
        elif kind == "http.response.body":
            body = message.get("body", b"")
            self.bytes += len(body)
            if self._head and body:
                message = {**message, "body": b""}
        await self._send(message)


class Edge:
    """The gateway as an ASGI application. ``api``: the FastAPI application behind it."""

    def __init__(
        self,
        api: ASGIApp,
        gateway: Gateway,
        authenticator: Authenticator,
        held: dict[str, Held] | None = None,
        short: Mapping[str, Endpoint] | None = None,
    ) -> None:
        """``short``: endpoints of POSTs that are called past the framework, by path. It does
        nothing for them that the edge has not done already, and costs more than they do."""
        self.api = api
        self.gateway = gateway
        self.authenticator = authenticator
        self._held = held or {}
        self._short = short or {}
        settings = gateway.settings.gateway
        self._cors = Cors(settings.cors_origins)
        self._sockets = Entrance(gateway, authenticator)
        self._max_body = settings.max_body_bytes
        self._max_message = gateway.settings.trust.verify_body_bytes
        self._timeout_s = settings.request_timeout_s
        self._access = settings.access_log
        self._slow_s = settings.slow_request_s
        self._monotonic = gateway.clock.monotonic
        self._trusted = frozenset(gateway.settings.security.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            with _fresh():
                await self._sockets(scope, receive, send)
        else:
            await self.api(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        raw = scope["headers"]
        parent = next((v for n, v in raw if n == b"traceparent"), None)
        with (
            _fresh(),
            span(
                "http",
                None if parent is None else parent.decode("latin-1"),
                kind=SpanKind.SERVER,
            ) as current,
        ):
            traceparent = current_traceparent() or ""
            context = RequestContext(
                trace_id=traceparent[3:35],
                traceparent=traceparent,
                method=method,
                path=path,
                headers={},
                started=self._monotonic(),
                peer=_peer(scope),
                flavour=flavour_of(path),
                timeout_s=self._timeout_s,
            )
            scope[SCOPE_KEY] = context
            origin = next((v for n, v in raw if n == b"origin"), None)
            sender = _Sender(send, context, self._cors.headers(origin))
            failure: Exception | None = None
            try:
                await self._serve(scope, receive, sender, context)
            except MailyError as error:
                await self._refuse(error, sender, context, scope, receive)
            except asyncio.CancelledError:
                self._finish(current, context, sender.status or 499, None)
                raise
            except Exception as error:
                # Whatever it was: its text stays in our log.
                failure = error
                await self._refuse(Internal(), sender, context, scope, receive)
            self._finish(current, context, sender.status or 499, failure)

    async def _serve(
        self, scope: Scope, receive: Receive, send: _Sender, context: RequestContext
    ) -> None:
        context.headers = headers = read_headers(scope["headers"])
        method = context.method
        template = template_of(context.path)
        if template is not None:
            context.route = template
            if method == "OPTIONS":
                await self._options(template, headers, send)
                return
        rule = None if template is None else rule_for(template, method)
        if rule is None:
            # Only who may come in learns which paths there are.
            await self._enter(Rule(), context)
            if template is None:
                raise NotFound("There is no such path", {"path": context.path[:200]})
            methods = allowed_methods(template)
            context.response_headers.append((b"allow", ", ".join(methods).encode()))
            raise MethodNotAllowed(f"{method[:20]} is not allowed here", {"allowed": methods})
        if rule.credential != "none":
            await self._enter(rule, context)
        elif rule.by_address and self.gateway.public is not None:
            address = client_address(context.peer, headers, self._trusted)
            context.response_headers += await self.gateway.public.admit(address, rule.by_address)
        context.timeout_s = timeout_of(headers, self._timeout_s)
        if rule.idempotent:
            context.idempotency_key = idempotency_key(headers)
        held = self._held.get(context.path)
        if held is not None:
            await _send_json(send, 200, await held())
            return
        if rule.body is not None:
            check_media(headers.get(b"content-type"), rule.body)
        if rule.body is not None and not rule.stream:
            most = self._max_message if rule.message else self._max_body
            context.body = await read_body(receive, headers.get(b"content-length"), most)
            context.body_read = True
            receive = Replay(context.body, receive)
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        principal = context.principal
        if principal is None or principal.workspace_id == NO_WORKSPACE:
            await self.api(scope, receive, send)  # nobody pays for the runtime's own work
            return
        call = Call(principal.workspace_id, principal.key_id, priority=priority_of(headers))
        # Whoever calls a model within this does so for this key, and tells of the cache.
        with calling(call), cache_note() as context.cached:
            endpoint = self._short.get(context.path) if method == "POST" else None
            if endpoint is None:
                await self.api(scope, receive, send)
            else:
                response = await endpoint(Request(scope, receive))
                await response(scope, receive, send)

    async def _enter(self, rule: Rule, context: RequestContext) -> None:
        """Credential, scope and rate limit."""
        principal = await self.authenticator.authenticate(
            context.headers.get(b"authorization"),
            rule.credential,
            lambda: client_address(context.peer, context.headers, self._trusted),
        )
        context.principal = principal
        context.recheck = lambda: self.authenticator.authenticate(
            context.headers.get(b"authorization"), rule.credential
        )
        decision = await self.gateway.limiter.hit(principal.key_id)
        context.response_headers += limit_headers(decision)
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

    async def _options(self, template: str, headers: dict[bytes, bytes], send: _Sender) -> None:
        methods = allowed_methods(template)
        answer = [(b"allow", ", ".join(methods).encode())]
        if b"access-control-request-method" in headers:
            answer += [
                pair
                for pair in self._cors.preflight(headers.get(b"origin"), methods)
                if pair[0].startswith(b"access-control-")
                and pair[0] != b"access-control-expose"
                and not pair[0].endswith((b"-origin", b"-expose-headers"))
            ]
        await send({"type": "http.response.start", "status": 204, "headers": answer})
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(
        self,
        error: MailyError,
        send: _Sender,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
    ) -> None:
        """Answer with the error, unless an answer has begun or nobody is there to read it."""
        if send.status or (isinstance(error, Cancelled) and not context.body_read):
            return
        body = dumps(error_body(error, context.trace_id, context.flavour))
        extra = [(n.encode(), v.encode()) for n, v in error_headers(error).items()]
        if error.status == 401 and context.route.startswith(("/docs", "/openapi.json")):
            extra.append((b"www-authenticate", b'Basic realm="maily", charset="UTF-8"'))
        if not context.body_read and _sends_body(scope) and not await discard(receive):
            extra.append((b"connection", b"close"))
        await _send_json(send, error.status, body, extra)

    def _finish(
        self, current: Span, context: RequestContext, status: int, failure: Exception | None
    ) -> None:
        seconds = self._monotonic() - context.started
        metrics.observe_request(context.route, context.method, status, seconds)
        if current.is_recording():
            current.update_name(f"{context.method[:20]} {context.route}")
            current.set_attribute("http.request.method", context.method[:20])
            current.set_attribute("http.route", context.route)
            current.set_attribute("http.response.status_code", status)
        worth = status >= 500 or self._access == "all"
        if not worth and self._access == "errors":
            endless = context.route.endswith("/events")
            worth = (status >= 400 and status != 499) or (seconds > self._slow_s and not endless)
        if not worth and failure is None:
            return
        fields = {
            "method": context.method[:20],
            "route": context.route,
            "status": status,
            "seconds": round(seconds, 4),
            "key_id": context.principal.key_id if context.principal else None,
            "trace_id": context.trace_id,
        }
        if failure is not None:
            _log.error("request failed", exc_info=failure, **fields)
        else:
            _log.info("request", **fields)


@contextmanager
def _fresh() -> Iterator[None]:
    """Forget the surrounding trace: a kept-alive connection's callbacks run in the context of an
    earlier request, and behind a proxy that was another client's."""
    token = otel_context.attach(otel_context.Context())
    try:
        yield
    finally:
        otel_context.detach(token)


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _sends_body(scope: Scope) -> bool:
    """Whether a body is on its way. Who asked (``Expect: 100-continue``) has not begun."""
    sends = False
    for name, value in scope["headers"]:
        if name == b"expect":
            return False
        sends = (
            sends or name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        )
    return sends


async def _send_json(
    send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
    if extra:
        headers += extra
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
