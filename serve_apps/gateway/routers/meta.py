"""Health, metrics, the OpenAPI document and a page that shows it."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from mesh.core import metrics
from mesh.core.errors import NotFound
from serve_apps.gateway.answers import Json
from serve_apps.gateway.deps import Gateway, Probe
from serve_apps.gateway.documented import good, problems
from serve_apps.gateway.schemas import Health, Part, Readiness

PROBE_TIMEOUT_S = 2.0
PROBE_CACHE_S = 0.5
"""Anybody may ask; the parts are asked at most this often."""

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
_DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' "
    "'unsafe-inline'; script-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)


class Readings:
    """The newest look at every part."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._parts: dict[str, Part] = {}

    async def parts(self) -> dict[str, Part]:
        async with self._lock:
            now = self._gateway.clock.monotonic()
            if now - self._at >= PROBE_CACHE_S:
                probes = self._gateway.probes
                states = await asyncio.gather(*(self._ask(p) for p in probes.values()))
                self._parts = dict(zip(probes, states, strict=True))
                self._at = self._gateway.clock.monotonic()
            return self._parts

    async def _ask(self, probe: Probe) -> Part:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return Part(status="ok", detail=await probe())
        except Exception as error:
            # The kind of error and no more: its text may hold an address or a name.
            return Part(status="down", detail=type(error).__name__)


def meta_router(gateway: Gateway, document: Callable[[], bytes]) -> APIRouter:
    router = APIRouter(tags=["meta"])
    readings = Readings(gateway)
    assets = _assets()

    @router.get(
        "/healthz",
        summary="The process answers",
        responses=good(Health, "It does") | problems(guarded=False),
        response_class=Json,
    )
    async def healthz(request: Request) -> Response:
        return Json(b'{"status":"ok"}')

    @router.get(
        "/readyz",
        summary="Every part answers",
        responses=good(Readiness, "They do")
        | problems(guarded=False)
        | {503: {"model": Readiness, "description": "At least one does not"}},
        response_class=Json,
    )
    async def readyz(request: Request) -> Response:
        parts = await readings.parts()
        ready = all(part.status == "ok" for part in parts.values())
        view = Readiness(status="ready" if ready else "not ready", parts=parts)
        return Json(view.model_dump(mode="json"), 200 if ready else 503)

    @router.get(
        "/metrics",
        summary="Prometheus metrics of every process",
        responses=_METRICS | problems(),
        response_class=Response,
    )
    async def metrics_text(request: Request) -> Response:
        body = await asyncio.to_thread(gateway.render_metrics)
        return Response(body, headers={"content-type": metrics.CONTENT_TYPE})

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return Json(document())

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Maily Mesh",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon.png",
        )
        return HTMLResponse(page.body, headers={"content-security-policy": _DOCS_POLICY})

    @router.get("/docs/{asset}", include_in_schema=False)
    async def docs_asset(request: Request, asset: str) -> Response:
        if asset not in ASSETS:
            raise NotFound("There is no such file", {"name": asset[:100]})
        return FileResponse(
            assets / asset,
            media_type=ASSETS[asset],
            headers={"cache-control": "private, max-age=86400"},
        )

    return router


def _assets() -> Path:
    """Swagger UI's files come with a package of ours: the page works without the internet."""
    spec = importlib.util.find_spec("fastapi_offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package fastapi-offline is missing; install the requirements")
    return Path(spec.origin).parent / "static"
