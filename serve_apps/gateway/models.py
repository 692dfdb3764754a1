"""The models as the gateway sees them: the process's client, and cards that cost no call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from actors.llm_client import serve_engines
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.core.settings import LLMSettings
from mesh.core.settings_llm import EMBED_ROUTE
from mesh.llm.client import ModelClient
from serve_apps.gateway.deps import ModelCard

_log = get_logger("gateway.models")


class ServeModels:
    """Implements ``deps.ModelService``; calls go straight to ``client``.

    The cards are those of the settings: every engine's model, every route (its context is that of
    its narrowest engine) and the embedding model, so that they can be listed while engines still
    start. ``refresh`` learns the embedding's dimensions and since when the engine runs.
    """

    def __init__(self, client: ModelClient, llm: LLMSettings) -> None:
        self._engines = serve_engines(llm)
        self._settings = llm
        self.stream_chat_encoded = client.stream_chat_encoded
        self.stream_completion_encoded = client.stream_completion_encoded
        self.chat = client.chat
        self.complete = client.complete
        self.embed = client.embed
        self._cards = self._made(int(time.time()), None)

    def _made(self, created: int, dimensions: int | None) -> tuple[ModelCard, ...]:
        engines = self._settings.engine_table()
        routes = self._settings.route_table()
        models = dict.fromkeys(engine.model for engine in engines.values())
        cards = [
            ModelCard(
                name,
                "chat",
                created,
                min(engines[engine].context_tokens for engine in routes[name]),
            )
            for name in (*models, *(route for route in routes if route not in models))
        ]
        embedder = (self._settings.embedding_model, EMBED_ROUTE)
        cards += [ModelCard(name, "embedding", created, None, dimensions) for name in embedder]
        return tuple(cards)

    async def cards(self) -> Sequence[ModelCard]:
        return self._cards

    async def info(self, *, timeout_s: float) -> dict[str, Any]:
        """Of the engine that answers first: one is enough to serve."""
        tasks = [asyncio.create_task(engine.info(timeout_s=timeout_s)) for engine in self._engines]
        try:
            failure: MailyError | None = None
            for task in asyncio.as_completed(tasks):
                try:
                    return await task
                except MailyError as error:
                    failure = error
            raise failure or Unavailable("there is no engine")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self, timeout_s: float = 5.0) -> bool:
        """Ask the engines what they are; False when one does not answer (the cards stay)."""
        try:
            info = await self.info(timeout_s=timeout_s)
            vectors = await self.embed(["dimensions"], timeout_s=timeout_s)
        except MailyError as error:
            _log.debug("models.refresh", error=error.code)
            return False
        cards = self._made(int(info["created"]), len(vectors[0]))
        if cards != self._cards:  # the same object means: nothing to encode anew
            self._cards = cards
        return True
