"""What a process of ours holds: logging, tracing, database, Valkey, stream log, repositories.

Opened once per process and handed down; nothing below it reads a setting or an environment.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import redis.asyncio as redis_asyncio

from mesh.core.clock import Clock, SystemClock
from mesh.core.logging import configure_logging
from mesh.core.settings import SETTINGS_VARIABLE, Settings, SettingsError, settings_from_json
from mesh.core.tracing import configure_tracing
from mesh.storage.idempotency import IdempotencyRepository
from mesh.storage.leases import Leases
from mesh.storage.pool import Database
from mesh.storage.tasks import TaskRepository
from mesh.streams.connect import connect
from mesh.streams.log import StreamLog
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog


def settings_of_process(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings that the parent process passed on. Raises SettingsError."""
    environ = os.environ if environ is None else environ
    text = environ.get(SETTINGS_VARIABLE)
    if not text:
        raise SettingsError(f"{SETTINGS_VARIABLE} is not set: this process has no parent of ours")
    return settings_from_json(text)


def stream_options(settings: Settings) -> StreamOptions:
    """The stream log's options that the settings name."""
    return StreamOptions(
        coalesce_s=settings.streams.coalesce_ms / 1000,
        coalesce_most_s=settings.streams.coalesce_most_ms / 1000,
        hold_most_s=settings.streams.coalesce_most_ms / 1000,
        max_events=settings.streams.max_events,
        ttl_s=float(settings.streams.ttl_s),
    )


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """Open with ``ProcessContext.open``; belongs to the event loop that opened it."""

    settings: Settings
    service: str
    clock: Clock
    db: Database
    redis: redis_asyncio.Redis
    streams: StreamLog
    tasks: TaskRepository
    leases: Leases
    idempotency: IdempotencyRepository
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    """What was opened on top of this context and closes before it."""

    @classmethod
    async def open(
        cls, settings: Settings, service: str, clock: Clock | None = None
    ) -> ProcessContext:
        """Set up logging and tracing, connect. Waits some seconds for a database that is
        starting, then raises Unavailable; Valkey is connected to when it is first used."""
        configure_logging(service, settings.observability.log_level)
        configure_tracing(
            service, settings.observability.otlp_endpoint, settings.observability.trace_ratio
        )
        clock = clock or SystemClock()
        db = await Database.open(
            settings.postgres_url,
            min_size=settings.postgres.pool_min,
            max_size=settings.postgres.pool_max,
            command_timeout_s=settings.postgres.command_timeout_s,
            application_name=service,
        )
        client = connect(settings.redis_url)
        return cls(
            settings=settings,
            service=service,
            clock=clock,
            db=db,
            redis=client,
            streams=ValkeyStreamLog(client, stream_options(settings), clock),
            tasks=TaskRepository(db),
            leases=Leases(db),
            idempotency=IdempotencyRepository(db),
        )

    async def aclose(self) -> None:
        """Close everything, also when a part fails to."""
        await asyncio.gather(self.closing.aclose(), return_exceptions=True)
        await asyncio.gather(
            self.streams.aclose(), self.redis.aclose(), self.db.aclose(), return_exceptions=True
        )
