"""Tools of other MCP servers, by the official SDK: named in the settings, each by itself.

A server is connected to when it is first needed and kept; a connection that breaks is made anew
at the next call. One that keeps failing is left alone by its circuit breaker. Its tools are seen
only if the settings name them, under ``server.tool``. A server may be called by many tasks at
once; nothing of one call is seen by another.
"""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import mcp_types as types
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from mesh.agents.tools.schema import from_stranger
from mesh.agents.tools.tool import Tool, ToolCaller
from mesh.contracts.tools import SideEffects
from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import DeadlineExceeded, EngineError, MailyError, Unavailable
from mesh.core.logging import get_logger
from mesh.resilience.breaker import BreakerOptions, CircuitBreaker

log = get_logger("mcp")

Connect = Callable[[], AbstractAsyncContextManager[Client]]
"""A client that is connected within the block."""


@dataclass(frozen=True, slots=True)
class McpServerOptions:
    """How one server is reached."""

    name: str
    """Prefix of its tools' names."""
    tools: tuple[str, ...]
    """Its tools that may be called, by its own names."""
    url: str | None = None
    command: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    timeout_s: float = 20.0
    connect_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class McpTool:
    """One tool of another server, as ours."""

    server: McpServer
    remote: str
    name: str
    description: str
    input_schema: Mapping[str, Any]
    side_effects: SideEffects
    timeout_s: float
    scopes: frozenset[str] = frozenset()

    @property
    def source(self) -> str:
        return f"mcp:{self.server.options.name}"

    async def call(self, arguments: Mapping[str, Any], caller: ToolCaller) -> Any:
        left = max(0.001, min(self.timeout_s, caller.deadline.remaining()))
        return await self.server.call(self.remote, arguments, left)


class McpServer:
    """One server: its connection, its breaker, its tools."""

    def __init__(
        self,
        options: McpServerOptions,
        clock: Clock | None = None,
        connect: Connect | None = None,
        breaker: BreakerOptions | None = None,
    ) -> None:
        self.options = options
        self._clock = clock or SystemClock()
        self._connect = connect or (lambda: _connected(options))
        self._breaker = CircuitBreaker(f"mcp_{options.name}", breaker, self._clock)
        self._opening = asyncio.Lock()
        self._client: Client | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._close = asyncio.Event()
        self._calls = 0
        self._connects = 0

    async def tools(self) -> list[McpTool]:
        """Those that the settings name and the server has. Raises Unavailable."""
        found: list[types.Tool] = []
        cursor: str | None = None
        with self._breaker.guard():
            client = await self._open()
            try:
                for _ in range(20):
                    async with asyncio.timeout(self.options.connect_timeout_s):
                        page = await client.list_tools(cursor=cursor, cache_mode="bypass")
                    found += page.tools
                    cursor = page.next_cursor
                    if cursor is None:
                        break
            except Exception as error:
                await self._drop(client)
                raise self._away(error) from error
        return [tool for tool in map(self._tool, found) if tool is not None]

    async def call(self, tool: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """The tool's answer as JSON. Raises EngineError (the tool says it failed), Unavailable,
        DeadlineExceeded."""
        self._calls += 1
        answer: types.CallToolResult | None = None
        refused = ""
        with self._breaker.guard():
            client = await self._open()
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await client.call_tool(tool, dict(arguments))
            except TimeoutError:
                raise DeadlineExceeded(f"{self.options.name} did not answer in time.") from None
            except MCPError as error:
                if error.error.code == types.CONNECTION_CLOSED:
                    await self._drop(client)
                    raise self._away(error) from error
                refused = str(error.error.message)[:300]
            except Exception as error:
                await self._drop(client)
                raise self._away(error) from error
        if answer is None:
            raise ToolSaysNo(f"{self.options.name}: {refused}")
        content = _content(answer)
        if answer.is_error:
            raise ToolSaysNo(str(content)[:500])
        return content

    async def aclose(self) -> None:
        self._close.set()
        if self._keeper is not None:
            await asyncio.wait({self._keeper}, timeout=5.0)
            self._keeper.cancel()

    def statistics(self) -> dict[str, int | float | str]:
        return {
            "calls": self._calls,
            "connects": self._connects,
            "connected": int(self._client is not None),
            "breaker": self._breaker.state.value,
        }

    def _tool(self, remote: types.Tool) -> McpTool | None:
        if remote.name not in self.options.tools:
            return None
        try:
            schema = from_stranger(remote.input_schema)
        except ValueError as error:
            log.warning(
                "mcp.schema_refused", server=self.options.name, tool=remote.name, why=str(error)
            )
            return None
        hints = remote.annotations
        reads = hints is not None and hints.read_only_hint is True
        return McpTool(
            server=self,
            remote=remote.name,
            name=f"{self.options.name}.{remote.name}",
            description=(remote.description or remote.name)[:1_000],
            input_schema=schema,
            side_effects="reads_outside" if reads else "writes",
            timeout_s=self.options.timeout_s,
        )

    async def _open(self) -> Client:
        async with self._opening:
            if self._client is not None:
                return self._client
            ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
            closing = self._close = asyncio.Event()
            # Connection and closing belong to one task: the SDK's cancel scopes ask for it.
            self._keeper = asyncio.create_task(self._keep(ready, closing))
            try:
                async with asyncio.timeout(self.options.connect_timeout_s):
                    self._client = await asyncio.shield(ready)
            except Exception as error:
                closing.set()
                self._keeper.cancel()
                raise self._away(error) from error
            self._connects += 1
            return self._client

    async def _keep(self, ready: asyncio.Future[Client], closing: asyncio.Event) -> None:
        try:
            async with self._connect() as client:
                if not ready.done():
                    ready.set_result(client)
                await closing.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(Unavailable(f"{type(error).__name__}"))
                ready.exception()  # whoever waits has it; nobody may
            if isinstance(error, asyncio.CancelledError):
                raise
            log.info("mcp.connection_lost", server=self.options.name, error=type(error).__name__)

    async def _drop(self, client: Client) -> None:
        if self._client is client:
            self._client = None
            self._close.set()

    def _away(self, error: BaseException) -> MailyError:
        if isinstance(error, MailyError):
            return error
        name = type(error).__name__
        return Unavailable(f"The MCP server {self.options.name} does not answer ({name}).")


class ToolSaysNo(EngineError):
    """The tool answered that it could not do it: no fault of its server's."""

    retryable = False


class McpTools:
    """Every configured server's tools, in a mapping that a ``ToolBox`` may read live."""

    def __init__(self, servers: list[McpServer], clock: Clock | None = None) -> None:
        self.servers = servers
        self.tools: MutableMapping[str, Tool] = {}
        self._clock = clock or SystemClock()

    def beside(self, own: Mapping[str, Tool]) -> Mapping[str, Tool]:
        """Ours first, theirs as they come and go."""
        return ChainMap(dict(own), self.tools)

    async def refresh(self) -> None:
        """Ask every server what it has; one that does not answer keeps what it had."""

        async def one(server: McpServer) -> None:
            try:
                found = await server.tools()
            except MailyError as error:
                log.info("mcp.server_away", server=server.options.name, code=error.code)
                return
            prefix = f"{server.options.name}."
            fresh = {tool.name: tool for tool in found}
            for name in [n for n in self.tools if n.startswith(prefix) and n not in fresh]:
                del self.tools[name]
            self.tools.update(fresh)

        await asyncio.gather(*(one(server) for server in self.servers))

    async def keep_fresh(self, every_s: float = 60.0) -> None:
        """Until cancelled."""
        while True:
            await self.refresh()
            await self._clock.sleep(every_s if len(self.tools) else min(5.0, every_s))

    async def aclose(self) -> None:
        await asyncio.gather(*(server.aclose() for server in self.servers))


@asynccontextmanager
async def _connected(options: McpServerOptions) -> AsyncIterator[Client]:
    if options.url is None:
        command = StdioServerParameters(
            command=options.command[0], args=list(options.command[1:]), env={}
        )
        async with Client(command, read_timeout_seconds=options.timeout_s) as client:
            yield client
        return
    headers = {} if options.token is None else {"authorization": f"Bearer {options.token}"}
    async with (
        httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(options.timeout_s, connect=options.connect_timeout_s),
            follow_redirects=False,
            trust_env=False,
        ) as http,
        Client(
            streamable_http_client(options.url, http_client=http),
            read_timeout_seconds=options.timeout_s,
        ) as client,
    ):
        yield client


def _content(answer: types.CallToolResult) -> Any:
    if answer.structured_content is not None:
        return answer.structured_content
    parts = [
        part.text if isinstance(part, types.TextContent) else f"[{part.type}]"
        for part in answer.content
    ]
    return "\n".join(parts)
