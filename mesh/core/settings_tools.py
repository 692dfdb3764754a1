"""Settings of the tools: which there are, who may call them, which MCP servers add to them.

MCP servers come as tables (or JSON in a variable); what they offer appears as ``name.tool``::

    [tools.mcp_servers.crm]
    url = "https://crm.example/mcp"
    tools = ["find_contact"]
"""

from __future__ import annotations

import re
from typing import Self
from uuid import UUID

from pydantic import Field, SecretStr, model_validator

from mesh.core.settings_section import Section

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_OURS = frozenset({"memory", "email", "web", "analytics", "canvas", "trust"})


class McpServerSettings(Section):
    """One MCP server that we are a client of."""

    url: str | None = Field(default=None, pattern=r"^https?://")
    """Of its streamable HTTP endpoint; or ``command``."""
    command: tuple[str, ...] = ()
    """A program to start and to speak to over its standard input and output."""
    token: SecretStr | None = None
    """Sent as a bearer credential."""
    tools: tuple[str, ...] = Field(min_length=1)
    """Names of its tools that may be called; others are not seen."""
    timeout_s: float = Field(default=20.0, gt=0, le=300)
    """Of one call."""
    connect_timeout_s: float = Field(default=10.0, gt=0, le=60)

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.url is None) == (not self.command):
            raise ValueError("an MCP server has either a url or a command")
        return self


class ToolSettings(Section):
    allow: tuple[str, ...] | None = None
    """Tools that agents and callers may use; unset: all that there are."""
    workspaces: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Narrower lists by workspace id."""
    max_result_bytes: int = Field(default=16_384, ge=256, le=1_048_576)
    """A longer result is cut, and says so."""
    web_fetch: bool = False
    """Whether ``web.fetch`` exists: it lets models and callers read public pages from here."""
    web_hosts: tuple[str, ...] = ()
    """Hosts that may be fetched (``.example.com``: all below it); empty: every public one."""
    web_plain_http: bool = False
    """Whether http is fetched, too."""
    mcp_servers: dict[str, McpServerSettings] = Field(default_factory=dict)
    """MCP servers by name: lower case letters, digits and underscores."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.mcp_servers:
            if not _NAME.fullmatch(name) or name in _OURS:
                raise ValueError(f"mcp_servers: {name!r} is no name for a server")
        for space in self.workspaces:
            try:
                UUID(space)
            except ValueError:
                raise ValueError(f"workspaces: {space[:60]!r} is no workspace id") from None
        return self
