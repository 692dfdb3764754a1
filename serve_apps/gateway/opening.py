"""Opens what a gateway process holds, from its settings, and keeps it fresh."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from redis.exceptions import RedisError

from actors.agent_services import open_services
from actors.context import ProcessContext
from actors.dispatch import Dispatcher
from actors.engine_desk import EngineDesk
from actors.llm_client import open_stack
from actors.trust_open import open_trust
from actors.trust_work import RayWork
from mesh.agents.catalogue import AGENTS
from mesh.agents.tools.box import ToolBox
from mesh.core import metrics
from mesh.core.errors import MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.core.settings import Settings
from mesh.llm.budgets.valkey import ValkeyCounters
from mesh.resilience.ratelimit import RateLimiter
from mesh.security.assertion import AssertionVerifier, Remember
from mesh.security.keys import KeyService
from mesh.security.tokens import SIGNING, TokenService
from mesh.storage.budgets import BudgetRepository
from mesh.storage.waits import WaitRepository
from mesh.streams.presence import ValkeyPresence
from serve_apps.gateway.apart import Apart, ApartOptions
from serve_apps.gateway.app import create_app
from serve_apps.gateway.auth import Authenticator
from serve_apps.gateway.budget_admin import Budgets
from serve_apps.gateway.deps import Gateway, Probe
from serve_apps.gateway.edge import Edge
from serve_apps.gateway.key_admin import REVOKED_CHANNEL, LinkedTokens, Publish, WorkspaceKeys
from serve_apps.gateway.logins import FailedLogins
from serve_apps.gateway.models import ServeModels
from serve_apps.gateway.public_door import PublicDoor
from serve_apps.gateway.sealing import AesSealer
from serve_apps.gateway.service_door import ServiceDoor

STARTING_S = 1.0
"""Between questions to an engine that does not answer yet …"""
FRESH_S = 60.0
"""… and to one that does."""
SWEEP_S = 3_600.0
KEPT_S = 86_400.0
"""Answers of requests with an Idempotency-Key are kept for a day."""
POLL_S = 5.0

_log = get_logger("gateway")


@dataclass(slots=True)
class OpenGateway:
    """One per replica; belongs to the event loop that opened it."""

    context: ProcessContext
    gateway: Gateway
    authenticator: Authenticator
    models: ServeModels
    tokens: TokenService
    app: Edge
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    async def open(cls, settings: Settings) -> OpenGateway:
        """Raises Unavailable when PostgreSQL stays away, SettingsError without a secret."""
        context = await ProcessContext.open(settings, "gateway")
        if settings.security.secret is None:
            raise Unavailable("security.secret is not set for this process")
        secret = settings.security.secret.get_secret_value().encode()
        keys = KeyService(context.db, context.clock)
        tokens = TokenService(context.db, settings.security, secret, context.clock)
        engines, router = open_stack(context)
        models = ServeModels(engines, settings.llm)
        agent_services = await open_services(context, engines)
        limits, security = settings.gateway, settings.security
        dispatcher = Dispatcher(context.redis, shards=context.settings.agents.coordinators)
        gateway = Gateway(
            settings=settings,
            clock=context.clock,
            tasks=context.tasks,
            idempotency=context.idempotency,
            sealer=AesSealer(secret),
            keys=WorkspaceKeys(keys, _publisher(context)),
            tokens=LinkedTokens(tokens, keys),
            streams=context.streams,
            models=models,
            dispatch=dispatcher,
            limiter=RateLimiter(
                settings.redis_url, limits.rate_limit_per_minute, limits.rate_limit_burst_block
            ),
            render_metrics=metrics.render,
            services=ServiceDoor(
                tokens,
                keys,
                AssertionVerifier(
                    secret,
                    security.issuer,
                    context.clock,
                    clock_skew_s=security.clock_skew_s,
                    remember=_remember(context),
                ),
                security.service_token_ttl_s,
            ),
            logins=_failed_logins(settings, context),
            agents=AGENTS,
            tools=agent_services.tools or ToolBox(),
            agent_services=agent_services,
            waits=WaitRepository(context.db),
            probes=_probes(context, models, dispatcher),
            engines=EngineDesk(settings.llm, router),
            budgets=Budgets(context.db, ValkeyCounters(context.redis)),
            memory=agent_services.memory,
            cited_memories=None if agent_services.memory is None else agent_services.memory.cited,
            presence=ValkeyPresence(context.redis, clock=context.clock),
            trust=open_trust(context, RayWork(settings.trust.tasks)),
            apart=Apart(_apart_options(settings)),
            public=_public_door(settings, context),
            version=_version(),
        )
        authenticator = Authenticator(
            gateway.keys,
            gateway.tokens,
            context.clock,
            cache_s=security.key_cache_s,
            logins=gateway.logins,
        )
        opened = cls(
            context, gateway, authenticator, models, tokens, create_app(gateway, authenticator)
        )
        for work in (opened._hear_revocations(), opened._refresh_models(), opened._sweep()):
            task = asyncio.create_task(work)
            opened._background.add(task)
        return opened

    async def drain(self) -> None:
        """This replica is to go: its streams are told where they are and sent elsewhere."""
        await self.gateway.live.drain()

    async def aclose(self) -> None:
        await self.gateway.live.aclose()
        await self.gateway.apart.aclose()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.context.aclose()

    async def _hear_revocations(self) -> None:
        """Forget revoked keys at once. What was said while we were away is unknown, so each new
        connection begins with an empty memory."""
        redis = self.context.redis
        while True:
            try:
                async with redis.pubsub() as subscription:
                    await subscription.subscribe(REVOKED_CHANNEL)
                    self.authenticator.forget()
                    self.tokens.refresh()
                    while True:
                        message = await subscription.get_message(
                            ignore_subscribe_messages=True, timeout=POLL_S
                        )
                        if message is None:
                            async with asyncio.timeout(POLL_S):
                                await subscription.ping()
                        elif message["type"] == "message":
                            self._revoked(message["data"].decode("latin-1"))
            except (RedisError, OSError) as error:
                _log.info("revocations.lost", error=type(error).__name__)
                await self.context.clock.sleep(1.0)

    def _revoked(self, what: str) -> None:
        if what == SIGNING:
            self.tokens.refresh()
            self.authenticator.forget()
        else:
            self.authenticator.forget(what)

    async def _refresh_models(self) -> None:
        while True:
            answered = await self.models.refresh()
            await self.context.clock.sleep(FRESH_S if answered else STARTING_S)

    async def _sweep(self) -> None:
        while True:
            await self.context.clock.sleep(SWEEP_S)
            with contextlib.suppress(MailyError):
                await self.context.idempotency.sweep(KEPT_S)
            with contextlib.suppress(MailyError):
                await BudgetRepository(self.context.db).sweep()
            with contextlib.suppress(MailyError):
                if days := self.context.settings.security.rotate_signing_days:
                    await self.tokens.rotate_if_older(days * 86_400)


def _probes(
    context: ProcessContext, models: ServeModels, dispatcher: Dispatcher
) -> dict[str, Probe]:
    async def database() -> str | None:
        await context.db.ping()
        return None

    async def valkey() -> str | None:
        await context.redis.ping()
        return None

    async def llm() -> str | None:
        return str((await models.info(timeout_s=1.5))["name"])

    async def agents() -> str | None:
        snapshot = await dispatcher.snapshot()
        if snapshot is None or not snapshot.workers:
            raise Unavailable("no worker")
        return f"{len(snapshot.workers)} workers"

    return {"database": database, "valkey": valkey, "llm": llm, "agents": agents}


def _failed_logins(settings: Settings, context: ProcessContext) -> FailedLogins:
    most = settings.security.failed_logins_per_minute
    by_address, by_pair = (
        RateLimiter(settings.redis_url, limit, 1, clock=context.clock)
        for limit in (most, max(5, most // 10))
    )
    return FailedLogins(by_address, by_pair, context.clock)


def _public_door(settings: Settings, context: ProcessContext) -> PublicDoor:
    trust, block = settings.trust, settings.gateway.rate_limit_burst_block
    reads, work = (
        RateLimiter(settings.redis_url, limit, block, clock=context.clock)
        for limit in (trust.public_per_minute, trust.public_work_per_minute)
    )
    return PublicDoor(reads, work)


def _apart_options(settings: Settings) -> ApartOptions:
    trust = settings.trust
    return ApartOptions(trust.verify_workers, trust.verify_queue, trust.verify_timeout_s)


def _remember(context: ProcessContext) -> Remember:
    async def remember(jti: str, seconds: float) -> bool:
        try:
            key = f"maily:assertion:{jti}"
            return bool(await context.redis.set(key, b"", nx=True, ex=math.ceil(seconds)))
        except (RedisError, OSError) as error:
            raise Unavailable("Valkey is away.") from error

    return remember


def _publisher(context: ProcessContext) -> Publish:
    async def publish(channel: str, message: str) -> None:
        try:
            await context.redis.publish(channel, message)
        except (RedisError, OSError) as error:
            # Caches then hold the key for key_cache_s at most.
            _log.warning("publish.lost", channel=channel, error=type(error).__name__)

    return publish


def _version() -> str:
    try:
        return version("maily-mesh")
    except PackageNotFoundError:
        return "0"
