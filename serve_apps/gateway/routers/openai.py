"""OpenAI's API: models, chat, completions, embeddings."""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mesh.contracts.llm import ChatRequest, CompletionRequest, EmbeddingRequest
from mesh.core.errors import DeadlineExceeded, EngineError, UnknownModel
from mesh.llm.embeddings import Vectors
from mesh.llm.engine import Wire
from serve_apps.gateway.answers import Json, invalid_field
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.context import RequestContext, context_of
from serve_apps.gateway.deps import Gateway, ModelCard
from serve_apps.gateway.documented import (
    IDEMPOTENCY_KEY,
    PRIORITY,
    TIMEOUT,
    good,
    openai_problems,
    reads,
)
from serve_apps.gateway.edge import Held
from serve_apps.gateway.failures import failure_frame
from serve_apps.gateway.idempotency import once
from serve_apps.gateway.schemas import ChatCompletion, Completion, EmbeddingList, Model, ModelList
from serve_apps.gateway.sse import EventStream, until_left

DONE = b"data: [DONE]\n\n"
GRACE_S = 0.5
"""What an engine gets beyond its deadline to say so itself."""


def model_entry(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": "maily",
        "kind": card.kind,
        "context_tokens": card.context_tokens,
        "dimensions": card.dimensions,
    }


def held_models(gateway: Gateway) -> Held:
    """The list of models as bytes, made anew only when it changes."""
    known: Sequence[ModelCard] | None = None
    body = b""

    async def answer() -> bytes:
        nonlocal known, body
        cards = await gateway.models.cards()
        if cards is not known:
            known = cards
            body = orjson.dumps({"object": "list", "data": [model_entry(c) for c in cards]})
        return body

    return answer


async def find_model(gateway: Gateway, name: str, kind: str) -> ModelCard:
    """Raises UnknownModel: no such model, or not of this kind."""
    for card in await gateway.models.cards():
        if card.id == name and card.kind == kind:
            return card
    raise UnknownModel(
        f"There is no {kind} model {name[:200]!r} here", {"field": "model", "model": name[:200]}
    )


def remaining(gateway: Gateway, context: RequestContext) -> float:
    """Seconds left of the request. Raises DeadlineExceeded when there are none."""
    left = context.started + context.timeout_s - gateway.clock.monotonic()
    if left <= 0:
        raise DeadlineExceeded(details={"timeout_s": context.timeout_s})
    return left


def openai_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["openai"])
    limits = gateway.settings.gateway
    models = gateway.models

    def bounded(body: ChatRequest | CompletionRequest) -> Wire:
        """The wire body with a bound on the tokens to come."""
        wire = body.to_wire()
        most = limits.max_output_tokens
        if wire.setdefault("max_tokens", most) > most:
            raise invalid_field("max_tokens", f"must be at most {most}")
        return wire

    @router.get(
        "/models",
        summary="Models that may be named",
        responses=good(ModelList, "All of them") | openai_problems(),
        response_class=Json,
    )
    async def list_models(request: Request) -> Response:
        return Json(await held())

    held = held_models(gateway)

    @router.get(
        "/models/{model_id}",
        summary="One model",
        responses=good(Model, "It exists") | openai_problems(404),
        response_class=Json,
    )
    async def get_model(request: Request, model_id: str) -> Response:
        for card in await models.cards():
            if card.id == model_id:
                return Json(model_entry(card))
        raise UnknownModel(f"There is no model {model_id[:200]!r} here", {"field": "model_id"})

    async def generate(
        request: Request,
        model: type[ChatRequest] | type[CompletionRequest],
        whole: Callable[..., Any],
        stream: Callable[..., AsyncIterator[bytes]],
    ) -> Response:
        context = context_of(request)
        body = parse_body(model, context.body, limits.max_json_depth)
        await find_model(gateway, body.model, "chat")
        wire = bounded(body)

        async def answer() -> Response:
            if body.stream:
                return await _stream(gateway, request, wire, stream)
            return await _whole(gateway, request, wire, whole)

        return await once(gateway, context, answer)

    @router.post(
        "/chat/completions",
        summary="Continue a conversation",
        responses=good(ChatCompletion, "The answer, or a stream of its chunks", stream=True)
        | openai_problems(404, 409, answers=True),
        response_class=Json,
        openapi_extra=reads(ChatRequest, IDEMPOTENCY_KEY, TIMEOUT, PRIORITY),
    )
    async def chat(request: Request) -> Response:
        return await generate(request, ChatRequest, models.chat, models.stream_chat_encoded)

    @router.post(
        "/completions",
        summary="Continue a text",
        responses=good(Completion, "The answer, or a stream of its chunks", stream=True)
        | openai_problems(404, 409, answers=True),
        response_class=Json,
        openapi_extra=reads(CompletionRequest, IDEMPOTENCY_KEY, TIMEOUT, PRIORITY),
    )
    async def completions(request: Request) -> Response:
        return await generate(
            request, CompletionRequest, models.complete, models.stream_completion_encoded
        )

    @router.post(
        "/embeddings",
        summary="Texts as vectors",
        responses=good(EmbeddingList, "A vector for each text")
        | openai_problems(404, 409, answers=True),
        response_class=Json,
        openapi_extra=reads(EmbeddingRequest, IDEMPOTENCY_KEY, TIMEOUT, PRIORITY),
    )
    async def embeddings(request: Request) -> Response:
        context = context_of(request)
        body = parse_body(EmbeddingRequest, context.body, limits.max_json_depth)
        card = await find_model(gateway, body.model, "embedding")
        if body.dimensions is not None and body.dimensions != card.dimensions:
            raise invalid_field("dimensions", f"this model has {card.dimensions}")

        async def answer() -> Response:
            left = remaining(gateway, context)
            vectors = await until_left(
                request.receive, models.embed(body.texts, timeout_s=left), left
            )
            # An engine that does not count them: a guess would be no figure.
            read = vectors.prompt_tokens if isinstance(vectors, Vectors) else 0
            encode = _base64 if body.encoding_format == "base64" else _plain
            return Json(
                {
                    "object": "list",
                    "data": [
                        {"object": "embedding", "index": i, "embedding": encode(vector)}
                        for i, vector in enumerate(vectors)
                    ],
                    "model": body.model,
                    "usage": {"prompt_tokens": read, "total_tokens": read},
                }
            )

        return await once(gateway, context, answer)

    return router


def _plain(vector: list[float]) -> list[float]:
    return vector


def _base64(vector: list[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


async def _whole(
    gateway: Gateway, request: Request, wire: Wire, ask: Callable[..., Any]
) -> Response:
    context = context_of(request)
    left = remaining(gateway, context)
    work = ask(wire, timeout_s=left, traceparent=context.traceparent)
    answer = await until_left(request.receive, work, left)
    _tell_of_cache(context)
    return Json(answer)


async def _stream(
    gateway: Gateway, request: Request, wire: Wire, ask: Callable[..., AsyncIterator[bytes]]
) -> Response:
    """The status waits for the first chunk, so that a refusal is still a status of its own."""
    context = context_of(request)
    left = remaining(gateway, context)
    source = ask(wire, timeout_s=left, traceparent=context.traceparent)
    first = await until_left(request.receive, _first(source), left)
    _tell_of_cache(context)
    frames = _frames(first, source, asyncio.get_running_loop().time() + left + GRACE_S)
    return EventStream(frames, lambda error: failure_frame(error, context, "openai stream"))


def _tell_of_cache(context: RequestContext) -> None:
    if context.cached is not None and context.cached.outcome is not None:
        context.response_headers.append((b"x-maily-cache", context.cached.outcome.encode()))


async def _first(source: AsyncIterator[bytes]) -> bytes:
    async for frames in source:
        return frames
    raise EngineError("The engine gave no answer")


async def _frames(
    first: bytes, source: AsyncIterator[bytes], deadline: float
) -> AsyncIterator[bytes]:
    """``deadline``: of the loop's clock. The engine keeps its own; this is for one that hangs."""
    try:
        yield first
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    frames = await anext(source)
            except StopAsyncIteration:
                break
            except TimeoutError as error:
                raise DeadlineExceeded from error
            yield frames
        yield DONE
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
