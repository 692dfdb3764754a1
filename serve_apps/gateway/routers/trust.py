"""Trust within a workspace: batches of messages, what became of them, taking back, forgetting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mesh.contracts.events import Cursor
from mesh.contracts.trust import (
    MAX_IDS,
    AheadIds,
    BatchFilled,
    BatchPage,
    BatchView,
    CertificatePage,
    CertificateView,
    DocumentTrustView,
    ForgetRecipient,
    ForgetTrustReceipt,
    NetworksView,
    NewBatch,
    NewMessage,
    RevokeRequest,
)
from mesh.core.errors import Unavailable
from mesh.trust.client import ROLLING, TrustClient
from serve_apps.gateway.answers import Json, invalid_field
from serve_apps.gateway.body import NDJSON, parse_body
from serve_apps.gateway.context import RequestContext, context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import IDEMPOTENCY_KEY, LAST_EVENT_ID, good, problems, reads
from serve_apps.gateway.failures import failure_frame
from serve_apps.gateway.sse import MEDIA, EventStream
from serve_apps.gateway.trust_events import batch_frames
from serve_apps.gateway.trust_filling import Filling

_PAGE = 1_000
_LINES = {
    "description": "A CertificateLine a line, as JSON",
    "content": {NDJSON: {"schema": {"type": "string"}}},
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "snapshot (the BatchView) first, then trust.batch and trust.certificate "
        "as they happen; id: the cursor",
        "content": {MEDIA: {"schema": {"type": "string"}}},
    }
}
_PLACE = r"^(rolling|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"


class FillQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", max_length=200, pattern=r"^[^\x00-\x1f]*$")
    close: bool = Field(default=True, description="Whether the end of the body closes the batch")


class BatchesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(default=None, max_length=200, pattern=r"^[!-~]+$")
    limit: int = Field(default=50, ge=1, le=500)


class IdsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: int | None = Field(default=None, ge=0, lt=2**31, description="Default: the next place")
    count: int = Field(default=1_000, ge=1, le=MAX_IDS)


class LinesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=-1, ge=-1, lt=2**31, description="Those behind this index")
    limit: int | None = Field(default=None, ge=1, le=2**31, description="At most so many")


Place = Annotated[str, Path(pattern=_PLACE, description="A batch's id, or: rolling")]
Name = Annotated[str, Path(pattern=r"^[a-zA-Z2-7]{32}$", description="A certificate's id")]
Words = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


def trust_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/trust", tags=["trust"])
    limits = gateway.settings.gateway
    filling = Filling(gateway)

    def trust() -> TrustClient:
        return trust_of(gateway)

    def left(context: RequestContext) -> float:
        return max(0.01, context.timeout_s - (gateway.clock.monotonic() - context.started))

    @router.post(
        "/batches",
        status_code=201,
        summary="Certify messages: a stream of lines, of any length, into a batch of its own",
        responses=good(BatchFilled, "The batch, and what of this stream is in it", 201)
        | problems(409, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(NewMessage, IDEMPOTENCY_KEY, media=NDJSON),
    )
    async def new_batch(request: Request, query: Annotated[FillQuery, Query()]) -> Response:
        close: Literal["now", "later"] = "now" if query.close else "later"
        return await filling.new_batch(request, trust(), NewBatch(name=query.name, close=close))

    @router.get(
        "/batches",
        summary="The batches, newest first",
        responses=good(BatchPage, "A page of them") | problems(engine=True),
        response_class=Json,
    )
    async def batches(request: Request, query: Annotated[BatchesQuery, Query()]) -> Response:
        context = context_of(request)
        page = await trust().batches(
            context.who.workspace_id, after=query.after, limit=query.limit, timeout_s=left(context)
        )
        return view_answer(page)

    @router.get(
        "/batches/{batch}",
        summary="How far a batch is",
        responses=good(BatchView, "Its state, its root, and where that is kept")
        | problems(404, engine=True),
        response_class=Json,
    )
    async def batch_view(request: Request, batch: UUID) -> Response:
        context = context_of(request)
        view = await trust().batch(context.who.workspace_id, batch, timeout_s=left(context))
        return view_answer(view)

    @router.get(
        "/batches/{batch}/ids",
        summary="Ids of certificates ahead, for messages that are to show their own",
        responses=good(AheadIds, "Of the batch's next places; nothing is reserved")
        | problems(404, 409, engine=True),
        response_class=Json,
    )
    async def ids(request: Request, batch: UUID, query: Annotated[IdsQuery, Query()]) -> Response:
        context = context_of(request)
        ahead = await trust().ids(
            context.who.workspace_id,
            batch,
            first=query.first,
            count=query.count,
            timeout_s=left(context),
        )
        return view_answer(ahead)

    @router.post(
        "/batches/{batch}/messages",
        summary="More messages for a batch that is open; rolling: single mails",
        responses=good(BatchFilled, "What of this stream is in it")
        | problems(404, 409, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(NewMessage, media=NDJSON),
    )
    async def more(request: Request, batch: Place) -> Response:
        return await filling.more(request, trust(), ROLLING if batch == ROLLING else UUID(batch))

    @router.post(
        "/batches/{batch}/close",
        summary="Take no more: build the tree, sign its root, have it anchored",
        responses=good(BatchView, "Closed, now or before") | problems(404, 409, engine=True),
        response_class=Json,
    )
    async def close(request: Request, batch: UUID) -> Response:
        context = context_of(request)
        view = await trust().close_batch(context.who.workspace_id, batch, timeout_s=left(context))
        return view_answer(view)

    @router.get(
        "/batches/{batch}/certificates",
        summary="Index, certificate's id and Message-ID of each message, as lines of JSON",
        responses={200: _LINES, **problems(404, engine=True)},
        response_class=StreamingResponse,
    )
    async def certificates(
        request: Request, batch: UUID, query: Annotated[LinesQuery, Query()]
    ) -> Response:
        context = context_of(request)
        pages = _certificates(trust(), context, batch, query)
        # Its first page before the status goes out: what fails at once fails as an error.
        first = await anext(pages, b"")
        return StreamingResponse(_after(first, pages), media_type=NDJSON)

    @router.get(
        "/batches/{batch}/events",
        status_code=200,
        summary="What happens to a batch and its certificates, as server-sent events",
        responses=_EVENTS | problems(404, engine=True),
        response_class=EventStream,
        openapi_extra={"parameters": [LAST_EVENT_ID]},
    )
    async def events(request: Request, batch: UUID) -> Response:
        context = context_of(request)
        after = _cursor(context.headers.get(b"last-event-id"))
        client = trust()
        await client.batch(context.who.workspace_id, batch, timeout_s=left(context))
        return EventStream(
            batch_frames(gateway, client, context, batch, after),
            lambda error: failure_frame(error, context, "trust events"),
        )

    @router.post(
        "/batches/{batch}/forget",
        summary="Forget a person's certificates of one batch for good",
        responses=good(ForgetTrustReceipt, "Which ones; the others' proofs hold")
        | problems(404, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(ForgetRecipient),
    )
    async def forget_recipient(request: Request, batch: UUID) -> Response:
        context = context_of(request)
        body = parse_body(ForgetRecipient, context.body, limits.max_json_depth)
        receipt = await trust().forget_recipient(
            context.who.workspace_id, batch, body.recipient, timeout_s=left(context)
        )
        return view_answer(receipt)

    @router.post(
        "/certificates/{certificate}/revoke",
        summary="Take a certificate back, at once and for good",
        responses=good(CertificateView, "As anybody sees it now")
        | problems(404, 409, 410, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(RevokeRequest),
    )
    async def revoke(request: Request, certificate: Name) -> Response:
        context = context_of(request)
        body = parse_body(RevokeRequest, context.body, limits.max_json_depth)
        view = await trust().revoke(
            context.who.workspace_id, certificate.lower(), body.reason, timeout_s=left(context)
        )
        return view_answer(view)

    @router.post(
        "/certificates/{certificate}/forget",
        summary="Forget what a certificate tells of a person and a message, for good",
        responses=good(ForgetTrustReceipt, "The others' proofs hold")
        | problems(404, 409, engine=True),
        response_class=Json,
    )
    async def forget(request: Request, certificate: Name) -> Response:
        context = context_of(request)
        receipt = await trust().forget(
            context.who.workspace_id, certificate.lower(), timeout_s=left(context)
        )
        return view_answer(receipt)

    @router.get(
        "/documents/{document}/{version}",
        summary="How far the certificates of a document's version are",
        responses=good(DocumentTrustView, "The least of its states, and how many there are")
        | problems(404, engine=True),
        response_class=Json,
    )
    async def document(request: Request, document: Words, version: Words) -> Response:
        context = context_of(request)
        view = await trust().document_state(
            context.who.workspace_id, document, version, timeout_s=left(context)
        )
        return view_answer(view)

    @router.get(
        "/networks",
        summary="The networks that keep the roots, and how they are doing",
        responses=good(NetworksView, "In order of preference") | problems(engine=True),
        response_class=Json,
    )
    async def networks(request: Request) -> Response:
        context = context_of(request)
        return view_answer(await trust().networks(timeout_s=left(context)))

    return router


def trust_of(gateway: Gateway) -> TrustClient:
    """Raises Unavailable where nothing is certified."""
    if gateway.trust is None:
        raise Unavailable("Nothing is certified here.", retry_after_s=30.0)
    return gateway.trust


def view_answer(view: BaseModel, status: int = 200) -> Response:
    """By pydantic: amounts of wei are longer than other encoders' numbers."""
    return Json(view.model_dump_json().encode(), status)


async def _certificates(
    trust: TrustClient, context: RequestContext, batch: UUID, query: LinesQuery
) -> AsyncIterator[bytes]:
    after: int | None = query.after
    most = query.limit
    while after is not None and (most is None or most > 0):
        page: CertificatePage = await trust.certificates(
            context.who.workspace_id,
            batch,
            after=after,
            limit=_PAGE if most is None else min(_PAGE, most),
            timeout_s=context.timeout_s,  # of each page: the whole may take as long as it takes
        )
        lines = [orjson.dumps(line.model_dump(mode="json")) for line in page.certificates]
        after = page.next
        most = None if most is None else most - len(lines)
        if lines:
            yield b"\n".join(lines) + b"\n"


async def _after(first: bytes, pages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for page in pages:
        yield page


def _cursor(value: bytes | None) -> Cursor | None:
    if value is None:
        return None
    try:
        return Cursor.parse(value.decode("latin-1"))
    except ValueError:
        raise invalid_field("header.Last-Event-ID", "must look like 3-17") from None
