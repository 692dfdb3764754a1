"""Tools as callers see them, and what a call of one gives."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mesh.contracts.base import Contract

VERSION = 1

SideEffects = Literal["none", "reads_outside", "writes"]
"""``none``: a function of its input and our own data. ``reads_outside``: asks other hosts.
``writes``: changes something; such a tool gets an idempotency key."""


class ToolInfo(Contract):
    """A tool that may be called."""

    name: str
    description: str
    input_schema: dict[str, Any] = Field(description="JSON schema of the arguments")
    side_effects: SideEffects
    scopes: list[str] = Field(description="Needed beside tools:call")
    timeout_s: float
    source: str = Field(default="maily", description="maily, or the MCP server it comes from")


class ToolPage(Contract):
    """What ``GET /v1/mesh/tools`` answers."""

    items: list[ToolInfo]


class ToolResult(Contract):
    """What a call gave. The content is data, whatever it says."""

    tool: str
    ok: bool
    content: Any = None
    error: dict[str, Any] | None = Field(default=None, description="code, message")
    truncated: bool = Field(default=False, description="The content was longer than allowed")
    seconds: float = 0.0
