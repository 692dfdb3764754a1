"""OAuth 2.0 client credentials (RFC 6749 §4.4): an API key for a short-lived token, and a client
assertion (RFC 7523) for a token of one of the runtime's own services."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from mesh.core.errors import InvalidInput, MailyError, MalformedBody, Unauthenticated
from mesh.security.scopes import known_scopes
from mesh.security.tokens import ServiceToken
from serve_apps.gateway.answers import JSON, Json, dumps, error_body, error_headers, from_validation
from serve_apps.gateway.auth import parse_basic
from serve_apps.gateway.body import FORM
from serve_apps.gateway.context import RequestContext, context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import IF_NONE_MATCH, good, problems, reads
from serve_apps.gateway.logins import claimed_id, client_address
from serve_apps.gateway.schemas import Jwks, OAuthProblem, Token, TokenForm

MAX_FIELDS = 10
JWKS_AGE_S = 60
"""How long verifiers may keep the key set without asking."""
T = TypeVar("T")


def oauth_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["oauth"])

    @router.post(
        "/oauth/token",
        summary="A token for an API key",
        responses=good(Token, "A bearer token")
        | problems(401, 429, body=True, guarded=False, model=OAuthProblem),
        response_class=Json,
        openapi_extra=reads(TokenForm, media=FORM),
    )
    async def token(request: Request) -> Response:
        context = context_of(request)
        try:
            form = parse_form(context.body)
            if form.client_assertion is not None or form.client_assertion_type is not None:
                access = await _for_service(gateway, form, context)
            else:
                access = await _for_key(gateway, form, context)
        except MailyError as error:
            return refusal(error, context)
        return Json(
            {
                "access_token": access.token,
                "token_type": "Bearer",
                "expires_in": max(0, access.expires_in_s),
                "scope": " ".join(sorted(access.scopes)),
            },
            headers={"cache-control": "no-store", "pragma": "no-cache"},
        )

    @router.get(
        "/.well-known/jwks.json",
        summary="Public keys that verify our tokens",
        responses=good(Jwks, "RFC 7517; exp of a key: when it retires")
        | {304: {"description": "Those that If-None-Match names"}}
        | problems(guarded=False),
        response_class=Json,
        openapi_extra={"parameters": [IF_NONE_MATCH]},
    )
    async def jwks(request: Request) -> Response:
        body = dumps(await gateway.tokens.jwks())
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"cache-control": f"public, max-age={JWKS_AGE_S}", "etag": etag}
        asked = context_of(request).headers.get(b"if-none-match", b"").decode("latin-1")
        if asked == "*" or etag in [tag.strip().removeprefix("W/") for tag in asked.split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=JSON, headers=headers)

    return router


async def _for_key(gateway: Gateway, form: TokenForm, context: RequestContext) -> ServiceToken:
    if form.workspace is not None:
        raise InvalidInput("A key has its own workspace", {"field": "workspace"})
    secret = _client_secret(form, context)
    principal = await _login(
        gateway, context, claimed_id(secret), lambda: gateway.keys.verify(secret)
    )
    scopes = None if form.scope is None else form.scope.split()
    granted = principal.scopes if scopes is None else known_scopes(scopes)
    lifetime = gateway.settings.security.token_ttl_s
    if principal.expires_at is not None:
        lifetime = min(lifetime, int(principal.expires_at - gateway.clock.now()))
    return ServiceToken(await gateway.tokens.issue(principal, granted), granted, lifetime)


async def _for_service(gateway: Gateway, form: TokenForm, context: RequestContext) -> ServiceToken:
    services, assertion = gateway.services, form.client_assertion
    if services is None:
        raise Unauthenticated("Services get no tokens here")
    if assertion is None or form.client_assertion_type is None:
        field = "client_assertion" if assertion is None else "client_assertion_type"
        raise InvalidInput("An assertion comes with its type", {"field": field})
    if form.client_secret is not None or b"authorization" in context.headers:
        raise InvalidInput("Authenticate in one way", {"field": "client_assertion"})
    scopes = None if form.scope is None else form.scope.split()
    return await _login(
        gateway, context, "service", lambda: services.admit(assertion, form.workspace, scopes)
    )


async def _login(
    gateway: Gateway, context: RequestContext, key_id: str, verify: Callable[[], Awaitable[T]]
) -> T:
    """Not even looked at where too many came that were wrong."""
    guard = gateway.logins
    if guard is None:
        return await verify()
    trusted = gateway.settings.security.trusted_proxies
    address = client_address(context.peer, context.headers, trusted)
    guard.check(address, key_id)
    try:
        verified = await verify()
    except Unauthenticated:
        await guard.failed(address, key_id, "client")
        raise
    guard.succeeded(address, key_id)
    return verified


def parse_form(body: bytes) -> TokenForm:
    """Raises MalformedBody, InvalidInput: a field twice (RFC 6749 §3.2), unknown or wrong."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise MalformedBody("The body is no form", {"field": "body"}) from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields:
            raise MalformedBody("A field is sent twice", {"field": "body", "name": name[:100]})
        if "\x00" in name or "\x00" in value:
            raise MalformedBody("A text holds a NUL byte", {"field": "body"})
        fields[name] = value
    try:
        return TokenForm.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from None


def _client_secret(form: TokenForm, context: RequestContext) -> str:
    """By HTTP Basic (form-encoded first, RFC 6749 §2.3.1) or in the form, never both."""
    header = context.headers.get(b"authorization")
    if header is not None:
        scheme, _, value = header.partition(b" ")
        if scheme.lower() != b"basic":
            raise Unauthenticated("The client authenticates by HTTP Basic or in the form")
        if form.client_secret is not None:
            raise InvalidInput("Authenticate in one way", {"field": "client_secret"})
        user, password = (unquote_plus(part) for part in parse_basic(value.strip()))
    elif form.client_secret is not None:
        user, password = form.client_id or "", form.client_secret
    else:
        raise Unauthenticated("Send the API key as client_secret")
    if user and not password.startswith(f"mk_{user}_"):
        raise Unauthenticated("client_id is not the id of this key")
    return password


def refusal(error: MailyError, context: RequestContext) -> Response:
    """RFC 6749 §5.2 answers 400 where a field is wrong or a scope is not granted."""
    status = 400 if error.status in (403, 422) else error.status
    headers = error_headers(error)
    if status == 401:
        headers["www-authenticate"] = 'Basic realm="maily", charset="UTF-8"'
    return Json(error_body(error, context.trace_id, "oauth"), status, headers=headers)
