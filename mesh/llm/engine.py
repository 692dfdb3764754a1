"""The engine protocol: what llama.cpp, a remote server and the fake all are.

Bodies and chunks are OpenAI's wire objects (``dict``), already validated by
``mesh.contracts.llm``: translating them twice would cost more than it protects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Wire = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself."""

    name: str
    """Which engine: ``llama.cpp``, ``openai``, ``fake``."""
    models: tuple[str, ...]
    """Model ids that it answers to."""
    context_tokens: int
    """Tokens of prompt and answer together, per request."""
    slots: int
    """Requests that run at once; more wait in a bounded queue."""
    embedding_dimensions: int | None = None
    """Length of an embedding; None: no embeddings here."""


INTERNAL = frozenset({"cache_prompt", "priority", "prefix_chars"})
"""Fields of a body that are ours: no caller can set them, and no foreign server sees them.
cache_prompt: reuse a prompt that was read before, though that changes rounding. priority: in the
engine's queue. prefix_chars: so much of the prompt's end is an answer that broke off."""


def priority_of(body: Wire) -> int:
    """Higher goes first."""
    return int(body.get("priority") or 0)


class Engine(Protocol):
    """Errors: UnknownModel, InvalidInput, Overloaded (queue full), DeadlineExceeded,
    EngineError. Cancelling the awaiting task or closing the iterator frees the slot."""

    @property
    def info(self) -> EngineInfo: ...

    def stream_raw(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[list[bytes], None]:
        """JSON chunks as bytes, in bursts of what there is, so that relaying them needs no
        parsing. An empty burst says that the request has its slot, or that its prompt makes
        progress. An error is raised, never yielded."""
        ...

    def stream_chat(self, body: Wire, *, timeout_s: float) -> AsyncIterator[Wire]:
        """``chat.completion.chunk`` objects; the last ones carry finish_reason and usage."""
        ...

    async def chat(self, body: Wire, *, timeout_s: float) -> Wire:
        """A ``chat.completion`` object."""
        ...

    def stream_completion(self, body: Wire, *, timeout_s: float) -> AsyncIterator[Wire]: ...

    async def complete(self, body: Wire, *, timeout_s: float) -> Wire: ...

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]: ...

    def statistics(self) -> dict[str, int | float]:
        """active, queued, slots, requests, tokens_generated, cancelled, tokens_after_cancel (and
        the most of one request), cancel_p99_s (of the last cancels, until the slot was free)."""
        ...

    async def check(self) -> None:
        """Raises when the engine can't answer."""
        ...

    async def aclose(self) -> None: ...


class LLMClient(Protocol):
    """What agents hold: the LLM service, wherever it runs. Same errors as Engine."""

    def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]: ...

    async def chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire: ...
