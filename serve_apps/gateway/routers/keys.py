"""API keys of the caller's workspace."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mesh.core.errors import Forbidden, NotFound
from mesh.security.scopes import known_scopes
from serve_apps.gateway.answers import Json
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import IDEMPOTENCY_KEY, good, problems, reads
from serve_apps.gateway.idempotency import once
from serve_apps.gateway.schemas import KeyPage, KeyRequest, KeyView, NewKeyView
from serve_apps.gateway.views import key_view

MAX_ID = 64


def keys_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/keys", tags=["keys"])
    limits = gateway.settings.gateway

    @router.post(
        "",
        status_code=201,
        summary="Make a key; it is shown this once",
        responses=good(NewKeyView, "The key", 201) | problems(409, body=True),
        response_class=Json,
        openapi_extra=reads(KeyRequest, IDEMPOTENCY_KEY),
    )
    async def create_key(request: Request) -> Response:
        context = context_of(request)
        body = parse_body(KeyRequest, context.body, limits.max_json_depth)
        # Nobody grants what they do not hold: a key can't make itself a stronger one.
        missing = sorted(known_scopes(body.scopes) - context.who.scopes)
        if missing:
            raise Forbidden(f"Your own key lacks the scope {missing[0]}.", {"scope": missing[0]})

        async def answer() -> Response:
            new = await gateway.keys.create(
                context.who.workspace_id, body.name, body.scopes, body.expires_in_s
            )
            return Json({**key_view(new.info), "key": new.key}, 201)

        return await once(gateway, context, answer)

    @router.get(
        "",
        summary="The workspace's keys, oldest first, revoked ones too",
        responses=good(KeyPage, "Without their secrets") | problems(),
        response_class=Json,
    )
    async def list_keys(request: Request) -> Response:
        infos = await gateway.keys.list(context_of(request).who.workspace_id)
        return Json({"items": [key_view(info) for info in infos]})

    @router.delete(
        "/{key_id}",
        summary="Revoke a key, and the tokens that rest on it",
        responses=good(KeyView, "Revoked") | problems(404),
        response_class=Json,
    )
    async def revoke_key(request: Request, key_id: str) -> Response:
        if len(key_id) > MAX_ID or not key_id.isalnum() or not key_id.isascii():
            raise NotFound("There is no such key.", {"id": key_id[:MAX_ID]})
        info = await gateway.keys.revoke(key_id, context_of(request).who.workspace_id)
        return Json(key_view(info))

    return router
