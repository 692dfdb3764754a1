"""The OpenAPI document: what FastAPI knows of the routes, and what only we know."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mesh.contracts.approvals import ApprovalRequest
from mesh.contracts.budgets import BudgetRequest
from mesh.contracts.engines import FaultsRequest
from mesh.contracts.llm import ChatRequest, CompletionRequest, EmbeddingRequest
from mesh.contracts.memory import (
    ConsolidateRequest,
    ForgetSelector,
    MemoryBatch,
    MemoryPatch,
    MemoryQuery,
    NewMemory,
)
from mesh.contracts.streams import RoomMessage
from mesh.contracts.tasks import TaskRequest
from mesh.contracts.trust import ForgetRecipient, NewMessage, RevokeRequest, VerifyRequest
from serve_apps.gateway.policy import RULES
from serve_apps.gateway.schemas import KeyRequest, TokenForm

BODIES: tuple[type[BaseModel], ...] = (
    FaultsRequest,
    ApprovalRequest,
    BudgetRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ConsolidateRequest,
    ForgetRecipient,
    ForgetSelector,
    KeyRequest,
    MemoryBatch,
    MemoryPatch,
    MemoryQuery,
    NewMemory,
    NewMessage,
    RevokeRequest,
    TaskRequest,
    RoomMessage,
    TokenForm,
    VerifyRequest,
)
_TEMPLATE = "#/components/schemas/{model}"


def build_document(app: FastAPI) -> bytes:
    """The document as JSON. Bodies that routes validate themselves are added by name."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _, bodies = models_json_schema(
        [(model, "validation") for model in BODIES], ref_template=_TEMPLATE
    )
    for name, schema in bodies["$defs"].items():
        # A model that is both read and written keeps the form that FastAPI gave it.
        schemas.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (mk_…) or a token of ours",
        },
        "client": {
            "type": "oauth2",
            "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": _scopes()}},
        },
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _secure(path, method.upper(), operation)
    return orjson.dumps(document)


def _scopes() -> dict[str, str]:
    return {
        rule.scope: f"{method} {path}"
        for path, rules in RULES.items()
        for method, rule in rules.items()
        if rule.scope is not None
    }


def _secure(path: str, method: str, operation: dict[str, Any]) -> None:
    rule = RULES[path][method]
    if rule.credential != "none":
        operation["security"] = [{"bearer": []}, {"client": [rule.scope] if rule.scope else []}]
    for response in operation["responses"].values():
        response.setdefault("headers", {})["X-Trace-Id"] = {"schema": {"type": "string"}}
