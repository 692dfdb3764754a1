"""Scopes: what a credential may do. A closed set: unknown ones are refused."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.errors import InvalidInput

CHAT_WRITE = "chat:write"
EMBEDDINGS_WRITE = "embeddings:write"
MODELS_READ = "models:read"
TASKS_READ = "tasks:read"
TASKS_WRITE = "tasks:write"
TASKS_APPROVE = "tasks:approve"
TOOLS_CALL = "tools:call"
AGENTS_READ = "agents:read"
METRICS_READ = "metrics:read"
KEYS_ADMIN = "keys:admin"
BUDGETS_ADMIN = "budgets:admin"
ENGINES_ADMIN = "engines:admin"
MEMORY_READ = "memory:read"
MEMORY_WRITE = "memory:write"
MEMORY_FORGET = "memory:forget"
STREAMS_READ = "streams:read"
STREAMS_WRITE = "streams:write"
TRUST_READ = "trust:read"
TRUST_WRITE = "trust:write"
TRUST_REVOKE = "trust:revoke"

ALL_SCOPES = frozenset(
    {
        CHAT_WRITE,
        EMBEDDINGS_WRITE,
        MODELS_READ,
        TASKS_READ,
        TASKS_WRITE,
        TASKS_APPROVE,
        TOOLS_CALL,
        AGENTS_READ,
        METRICS_READ,
        KEYS_ADMIN,
        BUDGETS_ADMIN,
        ENGINES_ADMIN,
        MEMORY_READ,
        MEMORY_WRITE,
        MEMORY_FORGET,
        STREAMS_READ,
        STREAMS_WRITE,
        TRUST_READ,
        TRUST_WRITE,
        TRUST_REVOKE,
    }
)


def known_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes as a set. Raises InvalidInput when one is unknown or there is none."""
    wanted = frozenset(scopes)
    if unknown := sorted(wanted - ALL_SCOPES):
        raise InvalidInput(
            f"There is no scope {unknown[0]!r}.",
            {"field": "scopes", "unknown": unknown, "known": sorted(ALL_SCOPES)},
        )
    if not wanted:
        raise InvalidInput("Name at least one scope.", {"field": "scopes"})
    return wanted
