"""Answers of the gateway that are nobody else's contract, as its OpenAPI document shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from mesh.contracts.base import Contract
from mesh.security.scopes import ALL_SCOPES

PRINTABLE = r"^[^\x00-\x1f\x7f-\xa0\u2028\u2029]+$"


class Problem(Contract):
    """Every error looks like this."""

    code: str
    message: str
    details: dict[str, Any]
    traceId: str = Field(pattern="^[0-9a-f]{32}$")


class OpenAIError(Contract):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(Problem):
    """An error where OpenAI clients read it: the same, and their ``error``."""

    error: OpenAIError


class OAuthProblem(Problem):
    """An error of the token endpoint: the same, and what RFC 6749 §5.2 asks for."""

    error: Literal[
        "invalid_request",
        "invalid_client",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
        "temporarily_unavailable",
        "server_error",
    ]
    error_description: str


class Health(Contract):
    status: Literal["ok"]


class Part(Contract):
    status: Literal["ok", "down"]
    detail: str | None = None


class Readiness(Contract):
    status: Literal["ready", "not ready"]
    parts: dict[str, Part]


class Token(Contract):
    """RFC 6749 §5.1."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str


class TokenForm(BaseModel):
    """Body of ``POST /oauth/token``; the client's name and key may come by HTTP Basic instead."""

    model_config = ConfigDict(extra="forbid")

    grant_type: Literal["client_credentials"]
    client_id: str | None = Field(default=None, max_length=200)
    client_secret: str | None = Field(default=None, max_length=400)
    client_assertion_type: (
        Literal["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"] | None
    ) = None
    client_assertion: str | None = Field(
        default=None, max_length=2_048, description="RFC 7523: of the runtime's own services"
    )
    workspace: UUID | None = Field(
        default=None, description="For which a service acts; only with an assertion"
    )
    scope: str | None = Field(default=None, max_length=1_000, description="Parted by blanks")


class Jwks(Contract):
    keys: list[dict[str, Any]]


Scope = Annotated[str, Field(json_schema_extra={"enum": sorted(ALL_SCOPES)})]


class KeyRequest(Contract):
    """Body of ``POST /v1/keys``."""

    name: str = Field(min_length=1, max_length=100, pattern=PRINTABLE)
    scopes: list[Scope] = Field(min_length=1, max_length=32)
    expires_in_s: int | None = Field(default=None, ge=60, le=315_360_000)


class KeyView(Contract):
    """A key as it may be shown."""

    id: str
    workspace: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyView(KeyView):
    """A fresh key: the only time that it is shown."""

    key: str


class KeyPage(Contract):
    items: list[KeyView]


class _Open(BaseModel):
    """OpenAI's own objects: engines may say more than is listed here."""

    model_config = ConfigDict(extra="allow")


class Model(_Open):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Open):
    object: Literal["list"]
    data: list[Model]


class Usage(_Open):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(_Open):
    role: Literal["assistant"]
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(_Open):
    index: int
    message: AnswerMessage
    finish_reason: str | None


class ChatCompletion(_Open):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class TextChoice(_Open):
    index: int
    text: str
    finish_reason: str | None


class Completion(_Open):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class EmbeddingEntry(_Open):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="base64: little-endian float32")


class EmbeddingUsage(_Open):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(_Open):
    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: EmbeddingUsage
