"""The tools of a process, from its settings: ours, the web's, other MCP servers'."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from mesh.agents.tools.box import ToolBox, ToolBoxOptions
from mesh.agents.tools.mcp_client import McpServer, McpServerOptions, McpTools
from mesh.agents.tools.own import OWN
from mesh.agents.tools.tool import Tool
from mesh.agents.tools.web import WebFetchTool, WebOptions
from mesh.agents.tools.web_guard import WebRules
from mesh.core.clock import Clock
from mesh.core.settings_tools import ToolSettings


@dataclass(slots=True)
class OpenTools:
    """Belongs to the event loop that opened it."""

    box: ToolBox
    mcp: McpTools
    _fresh: asyncio.Task[None] | None = field(default=None)

    def start(self) -> None:
        """Connect to the MCP servers, if there are any, and keep what they have fresh."""
        if self.mcp.servers and self._fresh is None:
            self._fresh = asyncio.create_task(self.mcp.keep_fresh())

    async def aclose(self) -> None:
        if self._fresh is not None:
            self._fresh.cancel()
            await asyncio.gather(self._fresh, return_exceptions=True)
        await self.mcp.aclose()


def open_tools(settings: ToolSettings, clock: Clock) -> OpenTools:
    """Nothing is connected to before ``start``."""
    own: list[Tool] = [*OWN]
    if settings.web_fetch:
        schemes = {"https", "http"} if settings.web_plain_http else {"https"}
        own.append(
            WebFetchTool(
                WebOptions(rules=WebRules(schemes=frozenset(schemes), hosts=settings.web_hosts))
            )
        )
    mcp = McpTools(
        [
            McpServer(
                McpServerOptions(
                    name=name,
                    tools=server.tools,
                    url=server.url,
                    command=server.command,
                    token=None if server.token is None else server.token.get_secret_value(),
                    timeout_s=server.timeout_s,
                    connect_timeout_s=server.connect_timeout_s,
                ),
                clock,
            )
            for name, server in settings.mcp_servers.items()
        ],
        clock,
    )
    options = ToolBoxOptions(max_result_bytes=settings.max_result_bytes)
    ours = ToolBox.of(own, options)
    box = ToolBox(
        mcp.beside(ours.tools),
        None if settings.allow is None else frozenset(settings.allow),
        options,
        {UUID(space): frozenset(names) for space, names in settings.workspaces.items()},
    )
    return OpenTools(box, mcp)
