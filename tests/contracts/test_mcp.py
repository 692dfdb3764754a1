"""MCP by the official SDK on both sides: its client against our server, ours against its server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
import pytest_asyncio
import uvicorn
from gateway_support import House, build_house
from graph_support import Echo, QuickClock
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from actors.tools import open_tools
from cluster.cli.mcp import relay
from mesh.agents.tools.box import ToolBox
from mesh.agents.tools.mcp_client import McpServer, McpServerOptions, McpTools
from mesh.agents.tools.own import OWN
from mesh.agents.tools.tool import ToolCaller
from mesh.core.clock import SystemClock
from mesh.core.settings import Settings, settings_from_json, settings_to_json
from mesh.core.settings_tools import McpServerSettings, ToolSettings
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.deadline import Deadline
from mesh.security.scopes import ALL_SCOPES
from mesh.storage.pool import Database

GOOD = {"text": "Buy shoes.", "brief": {"goal": "sell shoes"}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


@contextlib.asynccontextmanager
async def sdk_client(
    house: House, key: str | None = None, mode: str = "auto"
) -> AsyncIterator[Any]:
    """The SDK's own client at /v1/mcp, in process."""
    async with (
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(house.app),
            headers={"authorization": f"Bearer {key or house.key}"},
        ) as http,
        Client(
            streamable_http_client("http://gateway/v1/mcp", http_client=http), mode=mode
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_sdks_client_lists_and_calls_our_tools(house: House, mode: str) -> None:
    async with sdk_client(house, mode=mode) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(listed) == {tool.name for tool in OWN}
        assert listed["email.check"].input_schema["required"] == ["text", "brief"]
        assert listed["email.check"].annotations.read_only_hint is True
        good = await client.call_tool("email.check", GOOD)
        assert good.is_error is False
        assert good.structured_content["ok"] is True
        bad = await client.call_tool("email.check", {"text": "x"})
        assert bad.is_error is True
        assert "brief" in bad.content[0].text
        none = await client.call_tool("nothing.there", {})
        assert none.is_error is True
        many = await asyncio.gather(*(client.call_tool("email.check", GOOD) for _ in range(8)))
        assert all(answer.structured_content["ok"] for answer in many)


async def test_the_door_is_the_gateways(house: House) -> None:
    """Same credentials and scopes as everywhere."""
    weak = await house.keys.create("one", "weak", ALL_SCOPES - {"tools:call"})
    for key in (weak.key, "mk_none_none"):
        with pytest.raises((MCPError, ExceptionGroup, httpx2.HTTPError)):
            async with sdk_client(house, key) as client:
                await client.list_tools()
    async with house.client() as client:
        answer = await client.post("/v1/mcp", content=b"not json", headers=_JSON)
        assert answer.status_code == 400
        answer = await client.get("/v1/mcp")
        assert answer.status_code == 405
        huge = await client.post("/v1/mcp", content=b'"' + b"x" * 2_000_000, headers=_JSON)
        assert huge.status_code == 413


_JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


async def test_a_tools_own_scope_is_asked_for(house: House) -> None:
    narrow = await house.keys.create("one", "narrow", {"tools:call"})
    async with sdk_client(house, narrow.key) as client:
        answer = await client.call_tool("memory.search", {"query": "x"})
        assert answer.is_error is True
        assert "memory:read" in answer.content[0].text
        assert (await client.call_tool("email.check", GOOD)).is_error is False
    async with house.client(narrow.key) as plain:
        page = (await plain.get("/v1/mesh/tools")).json()
    assert [tool["name"] for tool in page["items"]] == ["email.check", "email.render"]


async def test_kinds_are_described(house: House) -> None:
    async with house.client() as client:
        kinds = {
            kind["kind"]: kind for kind in (await client.get("/v1/mesh/kinds")).json()["items"]
        }
    assert {"write_email", "generate", "workflow"} <= set(kinds)
    assert kinds["workflow"]["graph"].startswith("workflow:1:")
    assert kinds["generate"]["input_schema"]["required"] == ["messages"]
    assert kinds["write_email"]["reads"] == "brief"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (
            {"kind": "generate", "input": {"messages": [{"role": "user", "content": "x"}]}
             | {"tools": ["none.there"]}},
            422,
            "input.tools.0",
        ),
        (
            {"kind": "workflow"}
            | {"input": {"graph": {"type": "tool", "name": "a", "tool": "no.no"}}},
            422,
            "input.graph.tool",
        ),
    ],
)  # fmt: skip
async def test_tools_of_tasks_are_checked_at_the_door(
    house: House, body: dict[str, Any], status: int, field: str
) -> None:
    async with house.client() as client:
        answer = await client.post("/v1/mesh/tasks", json=body)
    assert (answer.status_code, answer.json()["details"]["field"]) == (status, field)


async def test_who_may_not_call_tools_may_not_have_them_called(house: House) -> None:
    weak = await house.keys.create("one", "weak", ALL_SCOPES - {"tools:call"})
    graph = {"type": "tool", "name": "a", "tool": "email.check", "input": GOOD}
    body = {"kind": "workflow", "input": {"graph": graph}}
    async with house.client(weak.key) as client:
        answer = await client.post("/v1/mesh/tasks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_the_relay_passes_on_what_the_gateway_says(house: House) -> None:
    """What ``maily mcp`` serves over standard input and output."""
    async with sdk_client(house) as client, Client(relay(client)) as through:
        names = {tool.name for tool in (await through.list_tools()).tools}
        assert names == {tool.name for tool in OWN}
        answer = await through.call_tool("email.check", GOOD)
        assert answer.structured_content["ok"] is True


# Our client


def other_server() -> MCPServer:
    server = MCPServer("other")
    server.settings.log_level = "ERROR"

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    async def slow() -> str:
        """Takes its time."""
        await asyncio.sleep(30)
        return "late"

    @server.tool()
    def breaks() -> str:
        """Raises."""
        raise ValueError("no")

    @server.tool()
    def secret() -> str:
        """Nobody named it."""
        return "seen"

    return server


class Other:
    """An SDK server behind a socket, that can be stopped and started again."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        app = other_server().streamable_http_app()
        config = uvicorn.Config(app, "127.0.0.1", self.port, log_level="error")
        self._server = uvicorn.Server(config)
        self._server.config.timeout_graceful_shutdown = 1
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        for _ in range(2_000):
            if self._server.started:
                return
            threading.Event().wait(0.01)
        raise AssertionError("uvicorn did not start")

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(20)
            self._server = None


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    started = Other()
    started.start()
    yield started
    started.stop()


def caller(seconds: float = 20.0) -> ToolCaller:
    clock = SystemClock()
    return ToolCaller(None, clock, Deadline.after(seconds, clock))


async def test_our_client_uses_an_sdk_servers_tools(other: Other) -> None:
    settings = ToolSettings(
        mcp_servers={
            "calc": McpServerSettings(url=other.url, tools=("add", "breaks", "slow", "missing"))
        }
    )
    opened = open_tools(settings, SystemClock())
    await opened.mcp.refresh()
    box = opened.box
    theirs = [name for name in box.names() if name.startswith("calc.")]
    assert theirs == ["calc.add", "calc.breaks", "calc.slow"]  # not what nobody named
    info = next(info for info in box.infos() if info.name == "calc.add")
    assert (info.source, info.description) == ("mcp:calc", "Add two numbers.")
    result = await box.call("calc.add", {"a": 2, "b": 3}, caller())
    assert (result.ok, result.content) == (True, {"result": 5})
    wrong = await box.call("calc.add", {"a": "two"}, caller())
    assert (wrong.error or {})["code"] == "invalid_input"
    broken = await box.call("calc.breaks", {}, caller())
    assert (broken.error or {})["code"] == "engine_error"
    opened.mcp.tools["calc.slow"] = replace(opened.mcp.tools["calc.slow"], timeout_s=0.3)
    slow = await box.narrow(["calc.slow"]).call("calc.slow", {}, caller())
    assert (slow.error or {})["code"] == "deadline_exceeded"
    again = await box.call("calc.add", {"a": 1, "b": 1}, caller())
    assert again.content == {"result": 2}
    many = await asyncio.gather(
        *(box.call("calc.add", {"a": n, "b": n}, caller()) for n in range(10))
    )
    assert [answer.content["result"] for answer in many] == [2 * n for n in range(10)]
    (server,) = opened.mcp.servers
    assert server.statistics()["connects"] == 1
    await opened.aclose()


async def test_a_server_that_goes_and_comes_back() -> None:
    other = Other()
    other.start()
    clock = QuickClock()
    options = McpServerOptions("calc", ("add",), url=other.url, connect_timeout_s=3.0)
    server = McpServer(options, clock, breaker=BreakerOptions(failures=3, open_s=30.0))
    tools = McpTools([server], clock)
    await tools.refresh()
    box = ToolBox(tools.beside({}))
    assert (await box.call("calc.add", {"a": 1, "b": 1}, caller())).ok
    other.stop()
    codes = set()
    for _ in range(6):
        result = await box.call("calc.add", {"a": 1, "b": 1}, caller())
        codes.add((result.error or {})["code"])
    assert codes == {"unavailable"}
    assert server.statistics()["breaker"] == "open"
    calls = server.statistics()["connects"]
    await tools.refresh()
    assert server.statistics()["connects"] == calls  # an open breaker asks nobody
    assert box.names() == ("calc.add",)  # what it had is kept meanwhile
    other.start()
    clock.time += 60
    assert (await box.call("calc.add", {"a": 2, "b": 2}, caller())).content == {"result": 4}
    await tools.aclose()
    other.stop()


async def test_a_server_over_standard_input_and_output(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "from mcp.server.mcpserver import MCPServer\n"
        "server = MCPServer('pipe')\n"
        "@server.tool()\n"
        "def twice(n: int) -> int:\n"
        "    '''Doubles.'''\n"
        "    return 2 * n\n"
        "server.run('stdio')\n"
    )
    assert StdioServerParameters(command=sys.executable).command == sys.executable
    options = McpServerOptions("pipe", ("twice",), command=(sys.executable, str(script)))
    tools = McpTools([McpServer(options, SystemClock())])
    await tools.refresh()
    box = ToolBox.of([Echo()])
    both = ToolBox(tools.beside(box.tools))
    assert both.names() == ("pipe.twice", "test.echo")
    assert (await both.call("pipe.twice", {"n": 4}, caller())).content == {"result": 8}
    await tools.aclose()


def test_settings_of_tools_pass_to_other_processes() -> None:
    space = str(uuid4())
    tools = {
        "workspaces": {space: ["email.check"]},
        "mcp_servers": {"crm": {"url": "http://crm.example/mcp", "token": "t", "tools": ["a"]}},
    }
    passed = settings_from_json(settings_to_json(Settings.model_validate({"tools": tools})))
    token = passed.tools.mcp_servers["crm"].token
    assert token is not None
    assert token.get_secret_value() == "t"
    opened = open_tools(passed.tools, SystemClock())
    assert opened.box.names(UUID(space)) == ("email.check",)
    assert "web.fetch" not in opened.box.names()
    fetching = open_tools(ToolSettings(web_fetch=True), SystemClock())
    assert "web.fetch" in fetching.box.names()
    wrong: list[dict[str, Any]] = [
        {"workspaces": {"mine": []}},
        {"mcp_servers": {"crm": {"tools": ["a"]}}},
        {"mcp_servers": {"crm": {"url": "http://x/", "command": ["x"], "tools": ["a"]}}},
        {"mcp_servers": {"crm": {"url": "http://x/", "tools": []}}},
        {"mcp_servers": {"memory": {"url": "http://x/", "tools": ["a"]}}},
        {"mcp_servers": {"No": {"url": "http://x/", "tools": ["a"]}}},
    ]
    for given in wrong:
        with pytest.raises(ValidationError):
            ToolSettings.model_validate(given)
