"""The LLM service as its callers hold it. Layers (metering, caching, routing) all speak this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from mesh.llm.engine import LLMClient, Wire


class ModelClient(LLMClient, Protocol):
    """Errors are those of ``mesh.llm.engine.Engine``. Closing an iterator or cancelling the
    awaiting task frees the engine's slot, through every layer."""

    def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        """Whole SSE frames (``data: {…}``), several at once, without the closing ``[DONE]``."""
        ...

    def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]: ...

    def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]: ...

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire: ...

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]: ...
