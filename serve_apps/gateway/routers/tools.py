"""Kinds of task, tools, and the tools as an MCP server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mesh.agents.registry import registry
from mesh.contracts.kinds import KindInfo, KindPage
from mesh.contracts.tools import ToolInfo, ToolPage
from serve_apps.gateway.answers import JSON, Json
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import good, problems
from serve_apps.gateway.mcp import McpAnswer, McpDoor

_MCP = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"type": "object", "description": "A JSON-RPC message of MCP"}}
        },
    }
}

_RPC: dict[str, Any] = {
    JSON: {"schema": {"type": "object", "description": "Ours, or a JSON-RPC error of MCP"}}
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A JSON-RPC answer", "content": _RPC},
    202: {"description": "Noted"},
    400: {"description": "No JSON-RPC message, or one that is wrong", "content": _RPC},
    404: {"description": "A session that is not known here", "content": _RPC},
    406: {"description": "Accept JSON and event streams", "content": _RPC},
    413: {"description": "The body is too large", "content": _RPC},
}


def tools_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["mesh"])
    door = McpDoor(gateway)

    @router.get(
        "/mesh/kinds",
        summary="What tasks can be asked for: kinds, versions, schemas",
        responses=good(KindPage, "Newest version of each, and older ones that still run")
        | problems(),
        response_class=Json,
    )
    async def kinds(request: Request) -> Response:
        return Json(kind_page().model_dump(mode="json"))

    @router.get(
        "/mesh/tools",
        summary="The tools that this workspace may use",
        responses=good(ToolPage, "With the schemas of their arguments") | problems(),
        response_class=Json,
    )
    async def tools(request: Request) -> Response:
        who = context_of(request).who
        infos: list[ToolInfo] = gateway.tools.infos(who.workspace_id)
        allowed = [info for info in infos if set(info.scopes) <= who.scopes]
        return Json(ToolPage(items=allowed).model_dump(mode="json"))

    @router.post(
        "/mcp",
        summary="The tools as an MCP server (streamable HTTP, without sessions)",
        responses=problems(405, 409, 415, engine=True) | _ANSWERS,
        openapi_extra=_MCP,
    )
    async def mcp(request: Request) -> Response:
        return McpAnswer(door, context_of(request))

    return router


def kind_page() -> KindPage:
    """Every version of every kind, as callers see it."""
    known = registry()
    newest = {kind: known.spec_for(kind).version for kind in known.kinds()}
    return KindPage(
        items=[
            KindInfo(
                kind=spec.kind,
                version=spec.version,
                newest=spec.version == newest[spec.kind],
                graph=spec.graph,
                does=spec.does,
                reads=spec.reads,
                input_schema=spec.input_model.model_json_schema(),
                result_schema=None
                if spec.result_model is None
                else spec.result_model.model_json_schema(mode="serialization"),
            )
            for spec in known.specs()
        ]
    )
