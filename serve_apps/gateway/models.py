"""The models as the gateway sees them: the process's client, and cards that cost no call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from actors.llm_client import ServeLLMClient
from mesh.core.errors import MailyError
from mesh.core.logging import get_logger
from mesh.core.settings import LLMSettings
from mesh.llm.client import ModelClient
from serve_apps.gateway.deps import ModelCard

_log = get_logger("gateway.models")


class ServeModels:
    """Implements ``deps.ModelService``; calls go straight to ``client``.

    The cards begin with what the settings name, so that models can be listed while the engine
    still starts; ``refresh`` learns the rest from the engine itself.
    """

    def __init__(self, client: ModelClient, llm: LLMSettings) -> None:
        self._engine = ServeLLMClient()
        self._settings = llm
        self.stream_chat_encoded = client.stream_chat_encoded
        self.stream_completion_encoded = client.stream_completion_encoded
        self.chat = client.chat
        self.complete = client.complete
        self.embed = client.embed
        self._cards = self._made((llm.model,), int(time.time()), llm.context_tokens, None)

    def _made(
        self,
        names: Sequence[str],
        created: int,
        context_tokens: int | None,
        dimensions: int | None,
    ) -> tuple[ModelCard, ...]:
        chat = [ModelCard(name, "chat", created, context_tokens) for name in names]
        embedder = ModelCard(self._settings.embedding_model, "embedding", created, None, dimensions)
        return (*chat, embedder)

    async def cards(self) -> Sequence[ModelCard]:
        return self._cards

    async def info(self, *, timeout_s: float) -> dict[str, Any]:
        """Of the engine."""
        return await self._engine.info(timeout_s=timeout_s)

    async def refresh(self, timeout_s: float = 5.0) -> bool:
        """Ask the engine what it is; False when it does not answer (the cards stay)."""
        try:
            info: dict[str, Any] = await self.info(timeout_s=timeout_s)
            vectors = await self.embed(["dimensions"], timeout_s=timeout_s)
        except MailyError as error:
            _log.debug("models.refresh", error=error.code)
            return False
        names = list(info["models"]) or [self._settings.model]
        cards = self._made(names, int(info["created"]), info["context_tokens"], len(vectors[0]))
        if cards != self._cards:  # the same object means: nothing to encode anew
            self._cards = cards
        return True
