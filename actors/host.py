"""What every actor of ours has in common: it keeps one loop going and says how it is.

Ray starts an actor again only when its process dies, and never when its constructor raises. So
the constructor cannot fail: it starts a keeper that opens the process's context and runs the
loop, again and again with growing pauses, while the database is away or the loop has crashed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from actors.context import ProcessContext
from actors.patience import PatienceOptions, pause
from mesh.core.errors import MailyError
from mesh.core.logging import configure_logging, get_logger
from mesh.core.settings import Settings, settings_from_json, settings_to_json

log = get_logger("actor")

_PAUSES = PatienceOptions(first_pause_s=0.2, longest_pause_s=5.0)


def config_hash(settings: Settings) -> str:
    """Says which settings and which release a running actor was made from."""
    try:
        release = metadata.version("maily-mesh")
    except metadata.PackageNotFoundError:
        release = "source"
    return hashlib.sha256(f"{release}\n{settings_to_json(settings)}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ActorInfo:
    """What an actor says of itself. ``reason``: why it is not healthy, else None."""

    name: str
    config: str
    incarnation: str
    pid: int
    healthy: bool
    reason: str | None
    statistics: dict[str, int | float]


class ActorHost(ABC):
    """Base of the actors' Ray shells.

    Ray constructs an actor that has async methods on its main event loop, and serves each
    concurrency group on a loop and thread of its own. ``describe``, ``stop`` and ``drain`` may be
    called on any of them: in the group ``control`` they answer while the main loop is busy.
    """

    def __init__(self, name: str, settings_json: str) -> None:
        self.name = name
        self.settings = settings_from_json(settings_json)
        self.config = config_hash(self.settings)
        self.incarnation = secrets.token_hex(6)
        self._why: str | None = "it is starting"
        configure_logging(name, self.settings.observability.log_level)
        self._loop = asyncio.get_running_loop()
        self._keeper = self._loop.create_task(self._keep(), name=f"keep-{name}")

    @abstractmethod
    async def _run(self, context: ProcessContext) -> None:
        """Make the loop and run it until cancelled."""

    @abstractmethod
    def _unhealthy(self) -> str | None:
        """Why the running loop is not healthy."""

    @abstractmethod
    def _statistics(self) -> dict[str, int | float]: ...

    async def describe(self) -> dict[str, Any]:
        """An ``ActorInfo`` as a dict: what reconciler and health check look at."""
        reason = self._why or self._unhealthy()
        return asdict(
            ActorInfo(
                name=self.name,
                config=self.config,
                incarnation=self.incarnation,
                pid=os.getpid(),
                healthy=reason is None,
                reason=reason,
                statistics=self._statistics(),
            )
        )

    async def stop(self) -> None:
        """End the loop in order: leases are given back. The process stays until Ray ends it."""
        future = asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        await asyncio.wrap_future(future)

    async def _stop(self) -> None:
        self._why = "it was stopped"
        self._keeper.cancel()
        await asyncio.wait({self._keeper}, timeout=10.0)

    async def _keep(self) -> None:
        failures = 0
        while True:
            started = self._loop.time()
            try:
                context = await ProcessContext.open(self.settings, self.name)
                try:
                    self._why = None
                    await self._run(context)
                finally:
                    await context.aclose()
            except MailyError as error:
                self._why = error.message
                log.warning("actor.waits", actor=self.name, code=error.code)
            except Exception as error:
                self._why = f"its loop crashed: {type(error).__name__}"
                log.exception("actor.crashed", actor=self.name)
            failures = 1 if self._loop.time() - started > 60 else failures + 1
            await asyncio.sleep(pause(failures, _PAUSES))
