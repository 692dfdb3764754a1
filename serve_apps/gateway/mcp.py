"""Our MCP server behind the gateway's own door: same credentials, scopes and limits.

Stateless: any replica answers any request. The SDK's manager needs a task group that lives as
long as the process; it is opened with the first request.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mesh.agents.tools.mcp_server import build_server
from mesh.agents.tools.tool import ToolCaller
from mesh.core.errors import Unauthenticated, Unavailable
from mesh.resilience.deadline import Deadline
from serve_apps.gateway.context import RequestContext
from serve_apps.gateway.deps import Gateway

_caller: ContextVar[ToolCaller | None] = ContextVar("mcp_caller", default=None)


class McpDoor:
    """One per application. ``serve`` answers a request that the edge has let in."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._manager: StreamableHTTPSessionManager | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def serve(
        self, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        manager = await self._open()
        gateway = self._gateway
        token = _caller.set(
            ToolCaller(
                workspace_id=context.who.workspace_id,
                clock=gateway.clock,
                deadline=Deadline.after(context.timeout_s, gateway.clock),
                services=gateway.agent_services,
                scopes=context.who.scopes,
            )
        )
        try:
            await manager.handle_request(scope, receive, send)
        finally:
            _caller.reset(token)

    async def _open(self) -> StreamableHTTPSessionManager:
        async with self._opening:
            if self._manager is not None and self._keeper is not None and not self._keeper.done():
                return self._manager
            gateway = self._gateway
            manager = StreamableHTTPSessionManager(
                build_server(gateway.tools, _present, version=gateway.version),
                json_response=True,
                stateless=True,
                max_request_body_size=gateway.settings.gateway.max_body_bytes,
            )
            ready = asyncio.Event()
            self._keeper = asyncio.create_task(_keep(manager, ready), name="mcp")
            await ready.wait()
            if self._keeper.done():
                raise Unavailable("The MCP server did not start.")
            self._manager = manager
            return manager


class McpAnswer(Response):
    """Whatever the SDK answers."""

    def __init__(self, door: McpDoor, context: RequestContext) -> None:
        super().__init__()
        self._door = door
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door.serve(self._context, scope, receive, send)


def _present() -> ToolCaller:
    caller = _caller.get()
    if caller is None:
        raise Unauthenticated("Nobody asked.")
    return caller


async def _keep(manager: StreamableHTTPSessionManager, ready: asyncio.Event) -> None:
    try:
        async with manager.run():
            ready.set()
            await asyncio.Event().wait()
    finally:
        ready.set()
