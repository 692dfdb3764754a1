"""An engine replica says on which node its models lie, so that work is rather done beside them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from functools import partial

import ray

from actors.places import keep_saying, model_place
from mesh.core.clock import SystemClock
from mesh.core.settings import SETTINGS_VARIABLE, settings_from_json
from mesh.streams.connect import connect


class ModelPlaces:
    """Of one replica. ``keep`` as often as you like: it starts once, on the replica's loop."""

    def __init__(self, models: Iterable[str]) -> None:
        self._places = [model_place(model) for model in models]
        self._task: asyncio.Task[None] | None = None

    def keep(self) -> None:
        """Does nothing where the process knows no settings (tests, other hosts of the class)."""
        text = os.environ.get(SETTINGS_VARIABLE)
        if self._task is None and text:
            settings = settings_from_json(text)
            if settings.redis.url is not None:
                self._task = asyncio.create_task(self._say(settings.redis_url))

    async def _say(self, redis_url: str) -> None:
        context = ray.get_runtime_context()
        client = connect(redis_url, max_connections=1)
        try:
            await keep_saying(
                client,
                partial(iter, self._places),
                context.get_node_id(),
                f"{os.getpid()}@{context.get_node_id()[:8]}",
                SystemClock(),
            )
        finally:
            await client.aclose()
