"""``maily mcp``: our tools as an MCP server over standard input and output.

It passes what it hears on to a running gateway, with the caller's key: the same tools, scopes and
lists as over HTTP. Nothing but MCP's messages goes to standard output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import load

if TYPE_CHECKING:
    from mcp.client import Client
    from mcp.server.lowlevel import Server


def mcp(
    url: Annotated[str | None, typer.Option(help="Of another gateway.")] = None,
) -> None:
    """Serve the tools to an MCP client that starts this command (standard input and output)."""
    import asyncio

    from cluster.cli.write import api_key

    settings = load()
    key = api_key(settings.home / "secrets" / "api-key")
    asyncio.run(serve(f"{url or settings.gateway_url}/v1/mcp", key))


async def serve(endpoint: str, key: str) -> None:
    """Until standard input ends. Failure when there is no gateway."""
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server.stdio import stdio_server

    from cluster.failures import NOT_RUNNING, Failure

    async with httpx2.AsyncClient(
        headers={"authorization": f"Bearer {key}"}, timeout=httpx2.Timeout(60.0), trust_env=False
    ) as http:
        try:
            async with Client(streamable_http_client(endpoint, http_client=http)) as client:
                server = relay(client)
                async with stdio_server() as (reading, writing):
                    await server.run(reading, writing, server.create_initialization_options())
        except* httpx2.HTTPError as errors:
            why = type(errors.exceptions[0]).__name__
            raise Failure(
                f"the gateway at {endpoint} does not answer ({why})",
                "start it with `maily up`",
                NOT_RUNNING,
            ) from None


def relay(client: Client) -> Server[Any]:
    """A server that passes lists and calls on to ``client``."""
    import mcp_types as types
    from mcp.server.lowlevel import Server

    async def list_tools(_context: Any, params: Any) -> types.ListToolsResult:
        cursor = None if params is None else params.cursor
        return await client.list_tools(cursor=cursor, cache_mode="bypass")

    async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return await client.call_tool(params.name, params.arguments or {})

    return Server("maily", on_list_tools=list_tools, on_call_tool=call_tool)
