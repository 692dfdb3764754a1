"""The page that shows and verifies a certificate, its pictures, and the verifier to take away.

The page is the same file for every certificate: the server says nothing in it that it would have
to be believed for. What it shows it reads from the public routes, and it verifies in the browser.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mesh.core.errors import NotFound
from mesh.trust.present.links import host_of, verify_url
from serve_apps.gateway.cached import A_DAY, ASK_AGAIN, OWN_COPY, PARAMETERS, cached, kept
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import problems
from serve_apps.gateway.routers.trust import Name, trust_of
from serve_apps.gateway.routers.trust_public import LOOKUP_S

PAGE = "page.html"
MEDIA = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "json": "application/json",
    "svg": "image/svg+xml",
    "png": "image/png",
    "woff2": "font/woff2",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-robots-tag": "noindex, nofollow",
}
_EMBEDDED = {"cross-origin-resource-policy": "cross-origin", "x-robots-tag": "noindex"}
"""Pictures stand in mails, which readers' web mail shows from another origin."""
_ID = re.compile(r"[a-zA-Z2-7]{32}")
_KEPT_PICTURES = 1_024
_OPEN_TO_ALL: dict[str, Any] = {"guarded": False, "engine": True}


class QrQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    proof: bool = Field(default=False, description="With the whole proof in the link's fragment")
    size: int | None = Field(
        default=None, ge=64, le=2048, description="Pixels that it is to keep within"
    )


class BadgeQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    theme: Annotated[str, Field(pattern="^(light|dark)$")] = "light"
    scale: int = Field(default=1, ge=1, le=3, description="Of the PNG, for dense displays")


def trust_pages_router(gateway: Gateway, public_url: str) -> APIRouter:
    router = APIRouter(tags=["trust"])
    assets = page_files()
    verifier = _verifier_source()
    pictures: OrderedDict[tuple[str, ...], bytes] = OrderedDict()

    async def picture(*key: str, **request: Any) -> bytes:
        """The same key is the same picture: the last ones are kept."""
        known = pictures.get(key)
        if known is None:
            known = pictures[key] = await gateway.apart.once(key[0], form=key[1], **request)
            if len(pictures) > _KEPT_PICTURES:
                pictures.popitem(last=False)
        pictures.move_to_end(key)
        return known

    async def qr(request: Request, certificate: str, form: str, query: QrQuery) -> Response:
        identity = certificate.lower()
        pixels = query.size
        if not query.proof:
            # Whether the certificate is there does not matter for its address, and isn't told.
            url = verify_url(public_url, identity)
            key = ("qr", form, identity, str(pixels))
            body = await picture(*key, text=url, whole=False, pixels=pixels)
            return cached(request, body, MEDIA[form], A_DAY, _EMBEDDED)
        proof = await trust_of(gateway).certificate_bytes(identity, "cbor", timeout_s=LOOKUP_S)
        url = verify_url(public_url, identity, proof)
        body = await gateway.apart.once("qr", form=form, text=url, whole=True, pixels=pixels)
        return cached(request, body, MEDIA[form], OWN_COPY, _EMBEDDED)

    async def badge(request: Request, form: str, query: BadgeQuery) -> Response:
        host = host_of(public_url)
        scale = query.scale if form == "png" else 1
        body = await picture(
            "badge", form, query.theme, str(scale), host=host, theme=query.theme, scale=scale
        )
        return cached(request, body, MEDIA[form], A_DAY, _EMBEDDED)

    qr_problems = problems(404, 409, 410, 429, **_OPEN_TO_ALL)
    badge_problems = problems(404, 429, **_OPEN_TO_ALL)

    @router.get(
        "/qr/{certificate}.png",
        summary="The certificate's link as a QR code; with proof: and all that proves it",
        responses=kept("PNG, black on white", MEDIA["png"]) | qr_problems,
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def qr_png(
        request: Request, certificate: Name, query: Annotated[QrQuery, Query()]
    ) -> Response:
        return await qr(request, certificate, "png", query)

    @router.get(
        "/qr/{certificate}.svg",
        summary="The same as SVG",
        responses=kept("SVG, black on white", MEDIA["svg"]) | qr_problems,
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def qr_svg(
        request: Request, certificate: Name, query: Annotated[QrQuery, Query()]
    ) -> Response:
        return await qr(request, certificate, "svg", query)

    @router.get(
        "/badge/{certificate}.png",
        summary="Says where to check this mail, the same for every mail: never a verdict",
        responses=kept("PNG", MEDIA["png"]) | badge_problems,
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def badge_png(
        request: Request, certificate: Name, query: Annotated[BadgeQuery, Query()]
    ) -> Response:
        return await badge(request, "png", query)

    @router.get(
        "/badge/{certificate}.svg",
        summary="The same as SVG",
        responses=kept("SVG", MEDIA["svg"]) | badge_problems,
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def badge_svg(
        request: Request, certificate: Name, query: Annotated[BadgeQuery, Query()]
    ) -> Response:
        return await badge(request, "svg", query)

    @router.get("/verify/{certificate}", include_in_schema=False)
    async def page(request: Request, certificate: str) -> Response:
        if not _ID.fullmatch(certificate) or PAGE not in assets:
            raise NotFound("There is no such page")
        return cached(request, assets[PAGE], _typed(PAGE), ASK_AGAIN, _PAGE_HEADERS)

    @router.get("/verify/assets/{name}", include_in_schema=False)
    async def asset(request: Request, name: str) -> Response:
        body = assets.get(name)
        if body is None:
            raise NotFound("There is no such file", {"name": name[:100]})
        return cached(request, body, _typed(name), ASK_AGAIN)

    @router.get(
        "/v1/trust/verifier.py",
        summary="The stand-alone verifier: one file, to be read and run anywhere",
        responses=kept("Python 3.11, with `cryptography`", "text/x-python") | badge_problems,
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def stand_alone(request: Request) -> Response:
        return cached(
            request,
            verifier,
            "text/x-python",
            ASK_AGAIN,
            {"content-disposition": 'attachment; filename="maily_verify.py"'},
        )

    return router


def page_files() -> dict[str, bytes]:
    """The page's files by name, read once: those of a known kind."""
    folder = resources.files("serve_apps").joinpath("trust_page")
    return {
        item.name: item.read_bytes()
        for item in folder.iterdir()
        if item.is_file() and item.name.rpartition(".")[2] in MEDIA and item.name != "package.json"
    }


def _verifier_source() -> bytes:
    return resources.files("mesh.trust.standalone").joinpath("maily_verify.py").read_bytes()


def _typed(name: str) -> str:
    media = MEDIA[name.rpartition(".")[2]]
    return f"{media}; charset=utf-8" if media.startswith("text/") else media
