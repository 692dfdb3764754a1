"""Trust for anybody: certificates by names that can't be guessed, receipts, keys, verifications.

Nothing here needs a credential or changes anything. An id that was never given out and one that
is another instance's are the same 404.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mesh.contracts.trust import (
    CertificateView,
    KeysView,
    RevocationPage,
    VerdictView,
    VerifyRequest,
)
from mesh.core.errors import Conflict, Gone
from mesh.trust.client import TrustClient
from serve_apps.gateway.answers import JSON, Json
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.cached import (
    ASK_AGAIN,
    NOT_MODIFIED,
    OWN_COPY,
    PARAMETERS,
    cached,
    kept,
)
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import good, problems, reads
from serve_apps.gateway.routers.trust import Name, trust_of, view_answer
from serve_apps.gateway.sse import until_left
from serve_apps.gateway.trust_verifying import Verifier, VerifierOptions

LOOKUP_S = 10.0
CBOR = "application/vnd.maily.certificate+cbor"
PDF = "application/pdf"
_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Canonical JSON, as the specification says",
        "content": {JSON: {"schema": {"type": "object"}}},
    },
    **NOT_MODIFIED,
}
_SHEET: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One page, with the proof as a QR code",
        "content": {PDF: {"schema": {"type": "string", "format": "binary"}}},
    }
}
_OPEN_TO_ALL: dict[str, Any] = {"guarded": False, "engine": True}


class RevocationsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    leaf: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="Of this one")
    after: str | None = Field(default=None, max_length=200, pattern=r"^[!-~]+$")
    limit: int = Field(default=100, ge=1, le=1_000)


def trust_public_router(gateway: Gateway, public_url: str) -> APIRouter:
    router = APIRouter(prefix="/v1/trust", tags=["trust"])
    limits = gateway.settings.gateway
    font = gateway.settings.trust.sheet_font

    def trust() -> TrustClient:
        return trust_of(gateway)

    async def form(request: Request, certificate: str, kind: Any, media: str) -> Response:
        body = await trust().certificate_bytes(certificate.lower(), kind, timeout_s=LOOKUP_S)
        return cached(request, body, media, OWN_COPY, _named(certificate, kind))

    @router.get(
        "/certificates/{certificate}.json",
        summary="The certificate in its full form, once its batch is closed",
        responses=_DOCUMENT | problems(404, 409, 410, 429, **_OPEN_TO_ALL),
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def full(request: Request, certificate: Name) -> Response:
        return await form(request, certificate, "json", JSON)

    @router.get(
        "/certificates/{certificate}.cbor",
        summary="The certificate in its small form, once its batch is closed",
        responses=kept("Deterministic CBOR, 800 bytes or less", CBOR)
        | problems(404, 409, 410, 429, **_OPEN_TO_ALL),
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def compact(request: Request, certificate: Name) -> Response:
        return await form(request, certificate, "cbor", CBOR)

    @router.get(
        "/certificates/{certificate}.pdf",
        summary="A sheet about the certificate, to print: what it says now, and how to check it",
        responses=_SHEET | problems(404, 429, **_OPEN_TO_ALL),
        response_class=Response,
    )
    async def sheet(request: Request, certificate: Name) -> Response:
        identity = certificate.lower()
        view = await trust().view(identity, timeout_s=LOOKUP_S)
        keys = await trust().keys(timeout_s=LOOKUP_S)
        proof: bytes | None
        try:
            proof = await trust().certificate_bytes(identity, "cbor", timeout_s=LOOKUP_S)
        except (Conflict, Gone):
            proof = None  # its batch is open, or it was forgotten: the sheet says so
        body = await gateway.apart.once(
            "sheet",
            view=view.model_dump_json(),
            base=public_url,
            keys=keys.keys,
            compact=proof,
            font=None if font is None else str(font),
        )
        return Response(body, media_type=PDF, headers=_named(certificate, "pdf"))

    @router.get(
        "/certificates/{certificate}",
        summary="How far a certificate is, and what it tells of its message",
        responses=good(CertificateView, "As of now") | problems(404, 429, **_OPEN_TO_ALL),
        response_class=Json,
    )
    async def view(request: Request, certificate: Name) -> Response:
        return view_answer(await trust().view(certificate.lower(), timeout_s=LOOKUP_S))

    @router.get(
        "/receipts/{root}",
        summary="Where on which chain a batch's root is: one for all of its certificates",
        responses=_DOCUMENT | problems(404, 429, **_OPEN_TO_ALL),
        response_class=Response,
        openapi_extra=PARAMETERS,
    )
    async def receipt(
        request: Request, root: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
    ) -> Response:
        body = await trust().receipt(bytes.fromhex(root), timeout_s=LOOKUP_S)
        return cached(request, body, JSON, ASK_AGAIN)

    @router.get(
        "/revocations",
        summary="Certificates that were taken back, each with its proof, oldest first",
        responses=good(RevocationPage, "A page of them, as of now") | problems(429, **_OPEN_TO_ALL),
        response_class=Json,
    )
    async def revocations(
        request: Request, query: Annotated[RevocationsQuery, Query()]
    ) -> Response:
        leaf = None if query.leaf is None else bytes.fromhex(query.leaf)
        page = await trust().revocations(
            leaf=leaf, after=query.after, limit=query.limit, timeout_s=LOOKUP_S
        )
        return view_answer(page)

    @router.get(
        "/keys",
        summary="The public keys that sign checkpoints, as verifier keys",
        responses=good(KeysView, "All that ever signed, and those that do now")
        | NOT_MODIFIED
        | problems(429, **_OPEN_TO_ALL),
        response_class=Json,
        openapi_extra=PARAMETERS,
    )
    async def keys(request: Request) -> Response:
        known = await trust().keys(timeout_s=LOOKUP_S)
        return cached(request, known.model_dump_json().encode(), JSON, ASK_AGAIN)

    @router.post(
        "/verify",
        summary="Check a message: against its certificate, one of ours by id, or the one in it",
        responses=good(VerdictView, "What holds, and what differs")
        | problems(404, 409, 410, 429, body=True, **_OPEN_TO_ALL),
        response_class=Json,
        openapi_extra=reads(VerifyRequest),
    )
    async def verify(request: Request) -> Response:
        context = context_of(request)
        body = parse_body(VerifyRequest, context.body, limits.max_json_depth)
        verifier = Verifier(
            trust(),
            gateway.apart,
            gateway.clock,
            VerifierOptions(public_url, gateway.settings.trust.networks_needed, LOOKUP_S),
        )
        left_s = context.timeout_s - (gateway.clock.monotonic() - context.started)
        work = verifier.verify(body)
        return view_answer(await until_left(request.receive, work, max(0.01, left_s)))

    return router


def _named(certificate: str, ending: str) -> dict[str, str]:
    return {"content-disposition": f'inline; filename="certificate-{certificate.lower()}.{ending}"'}
