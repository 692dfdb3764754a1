"""Pieces of the OpenAPI document that routes share: errors, headers, bodies."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from serve_apps.gateway.answers import JSON
from serve_apps.gateway.schemas import OpenAIProblem, Problem

_TEXTS = {
    204: "Nothing more will come",
    400: "The body is not what it says it is",
    401: "The credential is missing, wrong, expired or revoked",
    403: "The credential lacks the scope",
    404: "There is no such thing in this workspace",
    405: "This path does not know this method",
    406: "No media type that the client accepts can be given",
    409: "The state of the thing, or a request still running, does not allow this",
    410: "It was forgotten for good",
    413: "The body is too large",
    415: "The body's media type is not read here",
    422: "A field is wrong; details.field names it",
    429: "Too many requests; see Retry-After",
    431: "The headers are too large",
    499: "Cancelled before it was done",
    500: "Something went wrong on our side",
    502: "The model engine failed",
    503: "A part is away or a queue is full; see Retry-After",
    504: "The deadline passed",
}
_OPEN = (422, 431, 500, 503)
_GUARDED = (401, 403, 429)
_BODY = (400, 413, 415)
_ENGINE = (499, 502, 504)


def problems(
    *more: int,
    guarded: bool = True,
    body: bool = False,
    engine: bool = False,
    model: type[BaseModel] = Problem,
) -> dict[int | str, dict[str, Any]]:
    """Every error that a route may answer with."""
    codes = {*_OPEN, *more}
    codes |= set(_GUARDED) if guarded else set()
    codes |= set(_BODY) if body else set()
    codes |= set(_ENGINE) if engine else set()
    return {code: {"model": model, "description": _TEXTS[code]} for code in sorted(codes)}


def openai_problems(*more: int, answers: bool = False) -> dict[int | str, dict[str, Any]]:
    """``answers``: the route reads a body and asks an engine."""
    return problems(*more, body=answers, engine=answers, model=OpenAIProblem)


def good(
    model: type[BaseModel], text: str, status: int = 200, *, stream: bool = False
) -> dict[int | str, dict[str, Any]]:
    """``stream``: the answer may be server-sent events instead."""
    answer: dict[str, Any] = {"model": model, "description": text}
    if stream:
        answer["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    return {status: answer}


def header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "Repeats with the same key and body get the first answer, for a day",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)
TIMEOUT = header(
    "X-Request-Timeout-Seconds",
    "The whole request's deadline",
    {
        "type": "string",
        "pattern": r"^([1-9][0-9]{0,5}(\.[0-9]{1,6})?|0\.[0-9]{0,5}[1-9])$",
        "example": "30",
    },
)
IF_NONE_MATCH = header(
    "If-None-Match",
    "304 where nothing has changed",
    {"type": "string"},
)
PRIORITY = header(
    "X-Priority",
    "Below 0: others that wait for the engine may go first",
    {"type": "string", "pattern": "^(0|-[0-9]|-10)$", "example": "-5"},
)
LAST_EVENT_ID = header(
    "Last-Event-ID",
    "Go on after this event",
    {"type": "string", "pattern": "^[0-9]{1,15}-[0-9]{1,15}$", "example": "3-17"},
)


def reads(model: type[BaseModel], *parameters: dict[str, Any], media: str = JSON) -> dict[str, Any]:
    """``openapi_extra`` of a route that validates its body itself. ``openapi`` adds the model."""
    return {
        "parameters": list(parameters),
        "requestBody": {
            "required": True,
            "content": {media: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}},
        },
    }
