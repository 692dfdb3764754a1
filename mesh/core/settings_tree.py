"""The settings themselves: sections, types, units, defaults and the rules between them.

How they are found (file, variables, flags) is ``mesh.core.settings``. Building a tree here never
reads a file or a variable, save for the default of ``home``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mesh.contracts.tasks import TaskKind
from mesh.core.settings_llm import LLMSettings
from mesh.core.settings_memory import MemorySettings
from mesh.core.settings_section import LeasedSection, Section
from mesh.core.settings_streams import StreamSettings
from mesh.core.settings_tools import ToolSettings
from mesh.core.settings_trust import TrustSettings

Port = int


class GatewaySettings(Section):
    host: str = "127.0.0.1"
    port: Port = Field(default=8000, ge=1, le=65535)
    replicas: int = Field(default=2, ge=1, le=64)
    max_body_bytes: int = Field(default=1_048_576, ge=1_024)
    max_json_depth: int = Field(default=32, ge=4, le=200)
    max_output_tokens: int = Field(default=4_096, ge=1)
    request_timeout_s: float = Field(default=300.0, gt=0)
    cors_origins: tuple[str, ...] = ()
    rate_limit_per_minute: int = Field(default=600_000, ge=1)
    """Per key."""
    rate_limit_burst_block: int = Field(default=200, ge=1)
    """Hits that a replica takes from the shared window at once."""
    queue_limit: int = Field(default=1_000, ge=1)
    """Open tasks per workspace."""
    sse_heartbeat_s: float = Field(default=15.0, gt=0)
    access_log: Literal["all", "errors", "none"] = "errors"
    """Which answers are logged: ``errors`` means 4xx, 5xx and slow ones; 5xx always are."""
    slow_request_s: float = Field(default=5.0, gt=0)
    """An answer that takes longer counts as slow (event streams never do)."""
    max_ongoing_requests: int = Field(default=2_000, ge=10)
    """Of one replica; readers of event streams stay open and count."""
    haproxy: bool = True
    """False: Serve's own Python proxy (slower; for platforms without HAProxy)."""
    haproxy_metrics_port: Port = Field(default=9101, ge=1, le=65535)
    haproxy_stats_port: Port = Field(default=8404, ge=1, le=65535)
    direct_port_min: Port = Field(default=30_000, ge=1_024, le=65535)
    """HAProxy speaks to the replicas on ports from here …"""
    direct_port_max: Port = Field(default=30_999, ge=1_024, le=65535)
    """… to here (loopback in the embedded profile)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.direct_port_max < self.direct_port_min + 9:
            raise ValueError("direct_port_max must be at least direct_port_min + 9")
        return self


class AgentSettings(LeasedSection):
    workers: int = Field(default=2, ge=1)
    slots: int = Field(default=8, ge=1)
    """Tasks that a worker runs at once."""
    lease_s: float = Field(default=3.0, gt=0.2)
    heartbeat_s: float = Field(default=0.5, gt=0.05)
    max_tries: int = Field(default=3, ge=1, le=10)
    """Of the model, per step."""
    coordinators: int = Field(default=2, ge=1, le=32)
    """Shards of the coordinator; each looks after its workspaces and, when others are dead,
    after theirs."""
    max_share: float = Field(default=0.75, gt=0, le=1)
    """Largest share of a worker's slots for one workspace while others are about: what is left
    lets them in at once. Alone it may have all."""
    specialisations: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Kinds of task by worker name (``agent-worker-0``). Who isn't named takes every kind."""

    classifier: str = Field(default="builtin", pattern="^[A-Za-z0-9._-]{1,64}$")
    """Which trained classifier judges: ``builtin``, ``latest`` of the model store, or a version."""

    @model_validator(mode="after")
    def _somebody_takes_every_kind(self) -> Self:
        names = {f"agent-worker-{index}" for index in range(self.workers)}
        if unknown := sorted(set(self.specialisations) - names):
            raise ValueError(f"specialisations names no worker of ours: {', '.join(unknown)}")
        known = {kind.value for kind in TaskKind}
        taken = {kind for kinds in self.specialisations.values() for kind in kinds}
        if wrong := sorted(taken - known):
            raise ValueError(f"specialisations: there is no kind {', '.join(wrong)}")
        if not names - set(self.specialisations) and taken != known:
            missing = ", ".join(sorted(known - taken))
            raise ValueError(f"specialisations: no worker would take {missing}")
        return self


class PostgresSettings(Section):
    url: SecretStr | None = None
    """Unset in the embedded profile: ours, over its socket."""
    pool_min: int = Field(default=1, ge=0)
    pool_max: int = Field(default=8, ge=1)
    command_timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.pool_min > self.pool_max:
            raise ValueError("pool_min must be at most pool_max")
        return self


class RedisSettings(Section):
    url: SecretStr | None = None
    """Of Valkey or Redis. Unset in the embedded profile: ours, over its socket."""


class RaySettings(Section):
    address: str | None = None
    """``host:port`` of a Ray head. Unset in the embedded profile: ours."""
    port: Port = Field(default=7379, ge=1, le=65535)
    dashboard_port: Port = Field(default=8265, ge=1, le=65535)
    cpus: int | None = Field(default=None, ge=1)
    """Unset: as many as there are."""
    object_store_bytes: int = Field(default=200_000_000, ge=80_000_000)
    worker_port_min: Port = Field(default=10_002, ge=1_024, le=65535)
    worker_port_max: Port = Field(default=19_999, ge=1_024, le=65535)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.worker_port_max < self.worker_port_min + 99:
            raise ValueError("worker_port_max must be at least worker_port_min + 99")
        return self


class EvmSettings(Section):
    enabled: bool = True
    url: str | None = None
    """Of a node of your own. Unset in the embedded profile: ours (anvil)."""
    port: Port = Field(default=8545, ge=1, le=65535)
    chain_id: int = Field(default=31_337, ge=1, lt=2**53)
    """Of the node at ``url``. Ours has 31337."""
    standby: bool = False
    """Run a second one, chain 31338: the network that trust falls back to."""
    standby_port: Port = Field(default=8546, ge=1, le=65535)
    source: str = "npm:@foundry-rs/anvil-linux-amd64@1.7.1#package/bin/anvil"
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the node's binary; unset: the known sum of a known source, else not checked."""


class SecuritySettings(Section):
    token_ttl_s: int = Field(default=900, ge=60, le=86_400)
    issuer: str = "maily"
    audience: str = "maily-api"
    clock_skew_s: int = Field(default=30, ge=0, le=300)
    key_cache_s: float = Field(default=5.0, ge=0)
    service_token_ttl_s: int = Field(default=300, ge=30, le=3_600)
    """Of the runtime's own services; never longer than ``token_ttl_s``."""
    rotate_signing_days: float = Field(default=30.0, ge=0, le=3_650)
    """A signing key older than this gets a successor; 0: only ``maily key rotate-signing``."""
    failed_logins_per_minute: int = Field(default=60, ge=1)
    """Of one address; a tenth of it (at least 5) of one address with one key's id."""
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """Whose ``X-Forwarded-For`` is believed, for the address of a failed login."""
    secret: SecretStr | None = None
    """Encrypts signing keys at rest. Unset: ``$MAILY_HOME/secrets/instance.key``."""


class ObservabilitySettings(Section):
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    otlp_endpoint: str | None = None
    trace_ratio: float = Field(default=1.0, ge=0, le=1)


def default_home(environ: Mapping[str, str]) -> Path:
    """``$MAILY_HOME``, else ``$XDG_DATA_HOME/maily``, else ``~/.local/share/maily``."""
    if home := environ.get("MAILY_HOME"):
        return Path(home).expanduser().absolute()
    base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base).expanduser().absolute() / "maily"


class Settings(BaseSettings):
    """The whole tree. Build it with ``mesh.core.settings.load_settings``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    profile: Literal["embedded", "external"] = "embedded"
    """embedded: we run PostgreSQL, Valkey, Ray and the EVM node. external: you do."""
    home: Path = Field(default_factory=lambda: default_home(os.environ))
    store: Path | None = None
    """Where model files and binaries are kept; unset: ``home/store``."""
    gateway: GatewaySettings = GatewaySettings()
    llm: LLMSettings = LLMSettings()
    agents: AgentSettings = AgentSettings()
    streams: StreamSettings = StreamSettings()
    tools: ToolSettings = ToolSettings()
    memory: MemorySettings = MemorySettings()
    trust: TrustSettings = TrustSettings()
    postgres: PostgresSettings = PostgresSettings()
    redis: RedisSettings = RedisSettings()
    ray: RaySettings = RaySettings()
    evm: EvmSettings = EvmSettings()
    security: SecuritySettings = SecuritySettings()
    observability: ObservabilitySettings = ObservabilitySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Only what load_settings merged: a Settings(...) in a test reads no variable behind its
        # back, and load_settings alone knows which source a wrong value came from.
        return (init_settings,)

    @model_validator(mode="after")
    def _services_fit_the_profile(self) -> Self:
        if self.profile == "external":
            missing = [
                name
                for name, value in (
                    ("postgres.url (MAILY_POSTGRES_URL)", self.postgres.url),
                    ("redis.url (MAILY_REDIS_URL)", self.redis.url),
                    ("ray.address (RAY_ADDRESS)", self.ray.address),
                )
                if not value
            ]
            if missing:
                raise ValueError(f"profile 'external' needs {', '.join(missing)}")
        elif self.ray.address not in (None, f"127.0.0.1:{self.ray.port}"):
            raise ValueError(
                f"ray.address (RAY_ADDRESS) is {self.ray.address!r}, but profile 'embedded' runs "
                "its own Ray: unset it, or use profile 'external'"
            )
        return self

    @property
    def store_directory(self) -> Path:
        return self.store or self.home / "store"

    @property
    def postgres_url(self) -> str:
        """The connection URL, revealed. RuntimeError before the embedded server is resolved."""
        return _reveal("postgres.url", self.postgres.url)

    @property
    def redis_url(self) -> str:
        """The connection URL, revealed. RuntimeError before the embedded server is resolved."""
        return _reveal("redis.url", self.redis.url)

    @property
    def gateway_url(self) -> str:
        """Where clients on this machine reach the gateway."""
        host = "127.0.0.1" if self.gateway.host in ("0.0.0.0", "::", "") else self.gateway.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.gateway.port}"


def _reveal(name: str, secret: SecretStr | None) -> str:
    if secret is None:
        raise RuntimeError(f"{name} is not known in this process: the supervisor fills it in")
    return secret.get_secret_value()
