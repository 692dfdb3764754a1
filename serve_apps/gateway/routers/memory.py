"""Memory: remember, search, look after, forget for good, take out and bring in."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mesh.contracts.memory import (
    ConsolidateRequest,
    Consolidation,
    ForgetReceipt,
    ForgetSelector,
    ImportReport,
    MemoryAnswer,
    MemoryBatch,
    MemoryItem,
    MemoryPage,
    MemoryPatch,
    MemoryQuery,
    MemoryStats,
    Namespace,
    NamespaceKind,
    NewMemory,
)
from mesh.core.errors import Unavailable
from serve_apps.gateway.answers import Json, invalid_field
from serve_apps.gateway.body import NDJSON, parse_body
from serve_apps.gateway.context import RequestContext, context_of
from serve_apps.gateway.deps import Gateway, Memory
from serve_apps.gateway.documented import IDEMPOTENCY_KEY, good, problems, reads

_LINES = {
    "description": "A NewMemory a line, as JSON",
    "content": {NDJSON: {"schema": {"type": "string"}}},
}


class ExportQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: NamespaceKind | None = Field(default=None, description="Only this namespace's")
    id: str = Field(default="", max_length=200, description="Of the namespace, with its kind")
    vectors: bool = Field(default=False, description="With the embeddings")


def memory_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/memory", tags=["memory"])
    limits = gateway.settings.gateway

    def memory() -> Memory:
        if gateway.memory is None:
            raise Unavailable("Nothing is remembered here.", retry_after_s=30.0)
        return gateway.memory

    def left(context: RequestContext) -> float:
        return max(0.01, context.timeout_s - (gateway.clock.monotonic() - context.started))

    @router.post(
        "/items",
        status_code=201,
        summary="Remember: all of them or none, found as soon as this is answered",
        responses=good(MemoryPage, "Each as it is kept, new or there already", 201)
        | problems(409, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(MemoryBatch, IDEMPOTENCY_KEY),
    )
    async def remember(request: Request) -> Response:
        context = context_of(request)
        body = parse_body(MemoryBatch, context.body, limits.max_json_depth)
        items = _named(body.items, context.idempotency_key)
        kept = await memory().remember(context.who.workspace_id, items, timeout_s=left(context))
        return Json({"items": [item.model_dump(mode="json") for item in kept]}, 201)

    @router.get(
        "/items/{item_id}",
        summary="One memory, with its history",
        responses=good(MemoryItem, "As it is kept") | problems(404, engine=True),
        response_class=Json,
    )
    async def get_item(request: Request, item_id: UUID) -> Response:
        context = context_of(request)
        item = await memory().get(context.who.workspace_id, item_id, timeout_s=left(context))
        return Json(item.model_dump(mode="json"))

    @router.patch(
        "/items/{item_id}",
        summary="Pin it, or say how much it matters",
        responses=good(MemoryItem, "As it is kept now")
        | problems(404, 409, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(MemoryPatch),
    )
    async def patch_item(request: Request, item_id: UUID) -> Response:
        context = context_of(request)
        patch = parse_body(MemoryPatch, context.body, limits.max_json_depth)
        item = await memory().patch(
            context.who.workspace_id, item_id, patch, timeout_s=left(context)
        )
        return Json(item.model_dump(mode="json"))

    @router.delete(
        "/items/{item_id}",
        summary="Forget one memory, and what was derived from it",
        responses=good(ForgetReceipt, "What was erased") | problems(404, engine=True),
        response_class=Json,
    )
    async def delete_item(request: Request, item_id: UUID) -> Response:
        return await erase(context_of(request), ForgetSelector(item=item_id))

    @router.post(
        "/forget",
        summary="Forget a memory, a namespace or a person for good",
        responses=good(ForgetReceipt, "What was erased, and that it was looked for in vain")
        | problems(404, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(ForgetSelector),
    )
    async def forget(request: Request) -> Response:
        context = context_of(request)
        selector = parse_body(ForgetSelector, context.body, limits.max_json_depth)
        return await erase(context, selector)

    async def erase(context: RequestContext, selector: ForgetSelector) -> Response:
        receipt = await memory().forget(context.who.workspace_id, selector, timeout_s=left(context))
        return Json(receipt.model_dump(mode="json"))

    @router.get(
        "/receipts/{receipt_id}",
        summary="A receipt of forgetting, checked anew",
        responses=good(ForgetReceipt, "remaining: what can be found of it now") | problems(404),
        response_class=Json,
    )
    async def receipt(request: Request, receipt_id: UUID) -> Response:
        found = await memory().receipt(context_of(request).who.workspace_id, receipt_id)
        return Json(found.model_dump(mode="json"))

    @router.post(
        "/search",
        summary="Recall: by meaning and by words, ranked, packed to a budget of tokens",
        responses=good(MemoryAnswer, "Best first; degraded says when it may not be everything")
        | problems(body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(MemoryQuery),
    )
    async def search(request: Request) -> Response:
        context = context_of(request)
        query = parse_body(MemoryQuery, context.body, limits.max_json_depth)
        answer = await memory().recall(context.who.workspace_id, query, timeout_s=left(context))
        return Json(answer.model_dump(mode="json"))

    @router.get(
        "/stats",
        summary="How much is remembered, and who looks after it",
        responses=good(MemoryStats, "Of the workspace") | problems(),
        response_class=Json,
    )
    async def stats(request: Request) -> Response:
        found = await memory().stats(context_of(request).who.workspace_id)
        return Json(found.model_dump(mode="json"))

    @router.post(
        "/consolidate",
        summary="Merge near duplicates and end what is contradicted: one bounded pass",
        responses=good(Consolidation, "What it did") | problems(404, 409, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(ConsolidateRequest),
    )
    async def consolidate(request: Request) -> Response:
        context = context_of(request)
        body = parse_body(ConsolidateRequest, context.body, limits.max_json_depth)
        done = await memory().consolidate(
            context.who.workspace_id, body.namespace, timeout_s=left(context)
        )
        return Json(done.model_dump(mode="json"))

    @router.get(
        "/export",
        summary="Every memory, or one namespace's, as lines of JSON",
        responses={200: _LINES, **problems()},
        response_class=StreamingResponse,
    )
    async def export(request: Request, query: Annotated[ExportQuery, Query()]) -> Response:
        namespace = None
        if query.kind is not None or query.id:
            try:
                namespace = Namespace.model_validate({"kind": query.kind, "id": query.id})
            except ValidationError:
                raise invalid_field("id", "a workspace has none, other kinds have one") from None
        workspace = context_of(request).who.workspace_id
        pages = memory().export(workspace, namespace, vectors=query.vectors)
        # Its first page before the status goes out: what fails at once fails as an error.
        first = await anext(pages, b"")
        return StreamingResponse(_after(first, pages), media_type=NDJSON)

    @router.post(
        "/import",
        summary="Bring in lines of JSON, as export gives them; sending them again repeats nothing",
        responses=good(ImportReport, "What was new") | problems(409, body=True, engine=True),
        response_class=Json,
        openapi_extra=reads(NewMemory, media=NDJSON),
    )
    async def import_lines(request: Request) -> Response:
        context = context_of(request)
        report = await memory().import_(
            context.who.workspace_id, context.body, timeout_s=left(context)
        )
        return Json(report.model_dump(mode="json"))

    return router


def _named(items: list[NewMemory], key: str | None) -> list[NewMemory]:
    """With an Idempotency-Key each memory gets a name of its own from it: a repeat finds it, and
    no answer with what it says has to be kept for that."""
    if key is None:
        return items
    stem = hashlib.sha256(key.encode()).hexdigest()[:32]
    return [
        item
        if item.client_id is not None
        else item.model_copy(update={"client_id": f"key:{stem}:{number}"})
        for number, item in enumerate(items)
    ]


async def _after(first: bytes, pages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for page in pages:
        yield page
