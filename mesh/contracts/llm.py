"""What callers may ask of the models: OpenAI's request bodies, validated and closed.

Every field that an official OpenAI client sends is known here. The few that cannot matter to a
model we run ourselves (``user``, ``metadata``, ``store``, ``service_tier`` …) are accepted and
dropped; three sampling fields that OpenAI lacks and local engines have (``top_k``, ``min_p``,
``repeat_penalty``) are accepted as extensions; anything else is refused by name. ``to_wire``
gives the plain ``dict`` that engines take.

Source: OpenAI's API reference, "Create chat completion", "Create completion", "Create
embeddings".
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from mesh.contracts.base import Contract
from mesh.contracts.json_schema import check_schema

VERSION = 1

ModelId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class _Closed(Contract):
    """Wrong types are refused, not converted: ``"5"`` is no number."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class TextPart(_Closed):
    """The one kind of content part that a text model reads."""

    type: Literal["text"]
    text: Text


class FunctionCall(_Closed):
    name: Name
    arguments: Text


class ToolCall(_Closed):
    """A call that the model made in an earlier turn."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Closed):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=256)] | None = None
    name: Annotated[str, StringConstraints(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=128)] | None = None
    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    refusal: Text | None = None

    @model_validator(mode="after")
    def _has_something_to_say(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a {self.role} message needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant message may hold tool_calls")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool_call_id belongs to tool messages, and they need it")
        return self


class StreamOptions(_Closed):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchemaFormat(_Closed):
    name: Name
    description: Annotated[str, StringConstraints(max_length=4_000)] | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None

    @model_validator(mode="after")
    def _bounded(self) -> JsonSchemaFormat:
        check_schema(self.schema_)
        return self


class TextFormat(_Closed):
    type: Literal["text"]


class JsonObjectFormat(_Closed):
    type: Literal["json_object"]


class JsonSchemaResponse(_Closed):
    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaResponse, Field(discriminator="type")
]


class FunctionDefinition(_Closed):
    name: Name
    description: Annotated[str, StringConstraints(max_length=4_000)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _bounded(self) -> FunctionDefinition:
        if self.parameters is not None:
            check_schema(self.parameters)
        return self


class Tool(_Closed):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(_Closed):
    name: Name


class NamedTool(_Closed):
    type: Literal["function"]
    function: NamedFunction


class _Generation(_Closed):
    """What chat and completions share."""

    DROPPED: ClassVar[frozenset[str]] = frozenset(
        {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
    )

    model: ModelId
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: Literal[1] | None = Field(default=None, description="One answer per request")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(min_length=1, max_length=16)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(pattern=r"^[0-9]{1,7}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=1_024),
        ]
        | None
    ) = Field(default=None, description="Token id → bias")
    top_k: int | None = Field(default=None, ge=0, le=1_000, description="Extension; 0: off")
    min_p: float | None = Field(default=None, ge=0, le=1, description="Extension")
    repeat_penalty: float | None = Field(default=None, ge=0.5, le=2, description="Extension")
    user: Annotated[str, StringConstraints(max_length=1_000)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: bool | None = None
    service_tier: Annotated[str, StringConstraints(max_length=64)] | None = None
    safety_identifier: Annotated[str, StringConstraints(max_length=1_000)] | None = None
    prompt_cache_key: Annotated[str, StringConstraints(max_length=1_000)] | None = None

    @model_validator(mode="after")
    def _options_need_stream(self) -> _Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream: true")
        return self

    def to_wire(self) -> dict[str, Any]:
        """The body for an engine: what was given, without the fields that we drop."""
        wire: dict[str, Any] = self.model_dump(exclude_none=True, by_alias=True)
        for name in self.DROPPED:
            wire.pop(name, None)
        if "seed" in wire:
            wire["seed"] %= 2**32 - 1  # engines take 32 bits; all ones means "random" to them
        return wire


class ChatRequest(_Generation):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=1_024)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=64)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice not in (None, "none") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, NamedTool):
            wanted = self.tool_choice.function.name
            if all(tool.function.name != wanted for tool in self.tools or ()):
                raise ValueError(f"tool_choice names {wanted!r}, which is not among the tools")
        if (
            self.max_tokens is not None
            and self.max_completion_tokens is not None
            and self.max_tokens != self.max_completion_tokens
        ):
            raise ValueError("max_tokens and max_completion_tokens differ; send one of them")
        return self

    def to_wire(self) -> dict[str, Any]:
        wire = super().to_wire()
        limit = wire.pop("max_completion_tokens", None)
        if limit is not None:
            wire["max_tokens"] = limit
        for name in ("modalities", "reasoning_effort", "verbosity"):
            wire.pop(name, None)
        for message in wire["messages"]:
            if message["role"] == "developer":
                message["role"] = "system"
            message.pop("refusal", None)
        return wire


class CompletionRequest(_Generation):
    """Body of ``POST /v1/completions``: one prompt, one answer."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    def to_wire(self) -> dict[str, Any]:
        wire = super().to_wire()
        wire.pop("echo", None)
        wire.pop("best_of", None)
        if isinstance(wire["prompt"], list):
            wire["prompt"] = wire["prompt"][0]
        return wire


class EmbeddingRequest(_Closed):
    """Body of ``POST /v1/embeddings``."""

    model: ModelId
    input: (
        Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=100_000)]],
            Field(min_length=1, max_length=256),
        ]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=65_536)
    user: Annotated[str, StringConstraints(max_length=1_000)] | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else list(self.input)

    def to_wire(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude={"user"})
