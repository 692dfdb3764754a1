"""The engines behind the routes, for operators."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mesh.contracts.engines import EngineList, FaultsAnswer, FaultsRequest
from mesh.core.errors import Unavailable
from serve_apps.gateway.answers import Json
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import EngineService, Gateway
from serve_apps.gateway.documented import good, problems, reads


def engines_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/mesh", tags=["mesh"])

    def desk() -> EngineService:
        if gateway.engines is None:
            raise Unavailable("There are no engines here")
        return gateway.engines

    @router.get(
        "/engines",
        summary="The engines, their circuit breakers and figures",
        responses=good(EngineList, "All of them") | problems(),
        response_class=Json,
    )
    async def list_engines(request: Request) -> Response:
        return Json(EngineList(data=await desk().views()).model_dump(mode="json"))

    @router.put(
        "/engines/{engine}/faults",
        summary="Let a fake engine fail by plan",
        responses=good(FaultsAnswer, "Its replicas have been told") | problems(404, 502, body=True),
        response_class=Json,
        openapi_extra=reads(FaultsRequest),
    )
    async def put_faults(request: Request, engine: str) -> Response:
        body = parse_body(
            FaultsRequest, context_of(request).body, gateway.settings.gateway.max_json_depth
        )
        told = await desk().set_faults(engine, body.model_dump())
        return Json(FaultsAnswer(engine=engine, replicas=told).model_dump())

    return router
