"""Streams over HTTP: several topics in one answer, and messages to rooms.

The WebSocket, ``/v1/mesh/ws``, is served before the framework: see ``serve_apps.gateway.ws``.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from mesh.contracts.streams import Published, RoomMessage
from mesh.streams.filters import Filter
from serve_apps.gateway.answers import Json
from serve_apps.gateway.body import parse_body
from serve_apps.gateway.context import context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.documented import good, header, problems, reads
from serve_apps.gateway.event_streams import open_topics, topic_frames
from serve_apps.gateway.failures import failure_frame
from serve_apps.gateway.rooms import speak
from serve_apps.gateway.sse import MEDIA, EventStream
from serve_apps.gateway.topics import Topics

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "id: an opaque place in all topics; event: its type; data: topic, cursor "
        "and the event as JSON",
        "content": {MEDIA: {"schema": {"type": "string"}}},
    },
    204: {"description": "Nothing comes after this Last-Event-ID: stop reconnecting"},
}
_LAST_EVENT_ID = header(
    "Last-Event-ID",
    "The id of the last event seen, of the same topics in the same order",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]{9,8000}$", "example": "4Fv2qDEtMTc"},
)


class TopicQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    topics: str = Field(
        min_length=1,
        max_length=16_000,
        description="task:{id}, workspace:tasks, trust:{id}, room:{name} …",
    )
    types: str | None = Field(default=None, max_length=2_000, description="tokens, task.* …")
    steps: str | None = Field(default=None, max_length=2_000)


def streams_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/mesh", tags=["streams"])
    topics = Topics(gateway.tasks, lambda: gateway.trust)
    limits = gateway.settings.gateway

    @router.get(
        "/events",
        status_code=200,
        summary="Several topics as server-sent events",
        responses=_EVENTS | problems(404),
        response_class=EventStream,
        openapi_extra={"parameters": [_LAST_EVENT_ID]},
    )
    async def events(request: Request, query: Annotated[TopicQuery, Query()]) -> Response:
        context = context_of(request)
        chosen = Filter.of(_words(query.types), _words(query.steps))
        start = await open_topics(gateway, topics, context, _words(query.topics))
        if all(start.over):
            return Response(status_code=204)
        return EventStream(
            topic_frames(gateway, context, start, chosen),
            lambda error: failure_frame(error, context, "topics"),
        )

    @router.post(
        "/rooms/{room}/messages",
        status_code=201,
        summary="Say something in a room",
        responses=good(Published, "In the log, for all who listen", 201) | problems(body=True),
        response_class=Json,
        openapi_extra=reads(RoomMessage),
    )
    async def say(request: Request, room: str) -> Response:
        context = context_of(request)
        message = parse_body(RoomMessage, context.body, limits.max_json_depth)
        event = await speak(gateway, context.who, room, message.data, message.key)
        published = Published(topic=f"room:{room}", cursor=str(event.cursor))
        return Json(published.model_dump(mode="json"), 201)

    return router


def _words(text: str | None) -> list[str]:
    return [] if text is None else [word for word in text.split(",") if word]
