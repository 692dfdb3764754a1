"""The gateway as an ASGI application, from its dependencies: testable without Ray."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mesh.core.errors import Internal, InvalidInput, MailyError, NotFound
from mesh.trust.present.links import public_base
from serve_apps.gateway.answers import Json, error_body, error_headers, invalid
from serve_apps.gateway.auth import Authenticator
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.edge import Edge
from serve_apps.gateway.openapi import build_document
from serve_apps.gateway.routers.approvals import approvals_router
from serve_apps.gateway.routers.budgets import budgets_router
from serve_apps.gateway.routers.engines import engines_router
from serve_apps.gateway.routers.keys import keys_router
from serve_apps.gateway.routers.memory import memory_router
from serve_apps.gateway.routers.mesh import mesh_router
from serve_apps.gateway.routers.meta import meta_router
from serve_apps.gateway.routers.oauth import oauth_router
from serve_apps.gateway.routers.openai import held_models, openai_router
from serve_apps.gateway.routers.replay import replay_router
from serve_apps.gateway.routers.streams import streams_router
from serve_apps.gateway.routers.tools import tools_router
from serve_apps.gateway.routers.trace import trace_router
from serve_apps.gateway.routers.trust import trust_router
from serve_apps.gateway.routers.trust_pages import trust_pages_router
from serve_apps.gateway.routers.trust_public import trust_public_router

_DESCRIPTION = """\
Email campaigns written by agents, and the models that they use.

Send `Authorization: Bearer <API key or token>`. Every error is
`{"code","message","details","traceId"}`; OpenAI's routes add their `error`.
"""


def create_app(gateway: Gateway, authenticator: Authenticator | None = None) -> Edge:
    """The whole gateway; ``.api`` is the FastAPI application inside."""
    app = FastAPI(
        title="Maily Mesh",
        version=gateway.version,
        description=_DESCRIPTION,
        openapi_url=None,  # our own routes serve both, behind a credential
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    document: list[bytes] = []

    def document_bytes() -> bytes:
        if not document:
            document.append(build_document(app))
        return document[0]

    openai = openai_router(gateway)
    app.include_router(openai)
    app.include_router(mesh_router(gateway))
    app.include_router(approvals_router(gateway))
    app.include_router(tools_router(gateway))
    app.include_router(replay_router(gateway))
    app.include_router(trace_router(gateway))
    app.include_router(streams_router(gateway))
    app.include_router(memory_router(gateway))
    public_url = public_base(gateway.settings.trust.public_url or gateway.settings.gateway_url)
    app.include_router(trust_router(gateway))
    app.include_router(trust_public_router(gateway, public_url))
    app.include_router(trust_pages_router(gateway, public_url))
    app.include_router(engines_router(gateway))
    app.include_router(keys_router(gateway))
    app.include_router(budgets_router(gateway))
    app.include_router(oauth_router(gateway))
    app.include_router(meta_router(gateway, document_bytes))
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    security = gateway.settings.security
    return Edge(
        app,
        gateway,
        authenticator
        or Authenticator(
            gateway.keys,
            gateway.tokens,
            gateway.clock,
            cache_s=security.key_cache_s,
            logins=gateway.logins,
        ),
        held={"/v1/models": held_models(gateway)},
        short={
            route.path: route.endpoint
            for route in openai.routes
            if isinstance(route, APIRoute) and route.methods == {"POST"}
        },
    )


def _answer(error: MailyError, request: Request) -> Response:
    context = context_of(request)
    return Json(
        error_body(error, context.trace_id, context.flavour),
        error.status,
        headers=error_headers(error),
    )


async def _on_ours(request: Request, error: Any) -> Response:
    return _answer(error, request)


async def _on_invalid(request: Request, error: Any) -> Response:
    """FastAPI's validation of paths and queries, without what the caller sent."""
    return _answer(
        invalid(
            [
                {**item, "loc": item["loc"][1:] if len(item["loc"]) > 1 else item["loc"]}
                for item in error.errors()
            ]
        ),
        request,
    )


async def _on_http(request: Request, error: Any) -> Response:
    """The framework's own refusals. The edge has checked path and method already."""
    known: MailyError
    if error.status_code == 404:
        known = NotFound("There is no such path")
    elif error.status_code < 500:
        known = InvalidInput(str(error.detail)[:200])
    else:
        known = Internal()
    return _answer(known, request)


async def _on_any(request: Request, error: Any) -> Response:
    """What nobody expected. The framework raises it again for the edge, which logs it."""
    return _answer(Internal(), request)


_HANDLERS: dict[Any, Any] = {
    Exception: _on_any,
    MailyError: _on_ours,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
}
