"""An engine replica's own socket, for callers on its host."""

from __future__ import annotations

import os

from ray import serve

from actors.near_engine import socket_prefix
from mesh.core.logging import get_logger
from mesh.core.settings import SETTINGS_VARIABLE, settings_from_json
from mesh.llm.local.server import LocalServer, Served

_log = get_logger("llm.socket")


class EngineSocket:
    """Of one replica. ``keep`` as often as you like: it opens once, on the replica's loop."""

    def __init__(self, engine: str, served: Served) -> None:
        self._prefix = socket_prefix(engine)
        self._served = served
        self._server: LocalServer | None = None

    async def keep(self) -> None:
        """Does nothing where the process knows no settings, or these name no directory."""
        text = os.environ.get(SETTINGS_VARIABLE)
        if self._server is not None or not text:
            return
        directory = settings_from_json(text).llm.sockets
        if directory is None:
            return
        replica = serve.get_replica_context().replica_id.unique_id
        self._server = server = LocalServer(
            self._served, directory / f"{self._prefix}-{replica}.sock"
        )
        try:
            await server.start()
        except OSError as error:  # calls take Serve's way
            _log.warning("socket.not_opened", error=str(error)[:200])

    async def aclose(self) -> None:
        if self._server is not None:
            await self._server.aclose()
