"""OAuth 2.0 client credentials (RFC 6749 §4.4): an API key for a short-lived token."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from mesh.core.errors import InvalidInput, MailyError, MalformedBody, Unauthenticated
from mesh.security.scopes import known_scopes
from serve_apps.gateway.answers import Json, error_body, error_headers, from_validation
from serve_apps.gateway.auth import parse_basic
from serve_apps.gateway.body import FORM
from serve_apps.gateway.context import RequestContext, context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import good, problems, reads
from serve_apps.gateway.schemas import Jwks, OAuthProblem, Token, TokenForm

MAX_FIELDS = 10


def oauth_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["oauth"])

    @router.post(
        "/oauth/token",
        summary="A token for an API key",
        responses=good(Token, "A bearer token")
        | problems(401, body=True, guarded=False, model=OAuthProblem),
        response_class=Json,
        openapi_extra=reads(TokenForm, media=FORM),
    )
    async def token(request: Request) -> Response:
        context = context_of(request)
        try:
            form = parse_form(context.body)
            principal = await gateway.keys.verify(_client_secret(form, context))
            scopes = None if form.scope is None else form.scope.split()
            granted = principal.scopes if scopes is None else known_scopes(scopes)
            lifetime = gateway.settings.security.token_ttl_s
            if principal.expires_at is not None:
                lifetime = min(lifetime, int(principal.expires_at - gateway.clock.now()))
            access = await gateway.tokens.issue(principal, granted)
        except MailyError as error:
            return refusal(error, context)
        return Json(
            {
                "access_token": access,
                "token_type": "Bearer",
                "expires_in": max(0, lifetime),
                "scope": " ".join(sorted(granted)),
            },
            headers={"cache-control": "no-store", "pragma": "no-cache"},
        )

    @router.get(
        "/.well-known/jwks.json",
        summary="Public keys that verify our tokens",
        responses=good(Jwks, "RFC 7517") | problems(guarded=False),
        response_class=Json,
    )
    async def jwks(request: Request) -> Response:
        return Json(await gateway.tokens.jwks(), headers={"cache-control": "public, max-age=60"})

    return router


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
