"""The proxy of ``make show-trust``: a call is held at the moment that was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from benchmarks.show.trust_proxy import Proxy, Side, proxy


class Upstream:
    """A node that answers with the method's name."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        call: dict[str, Any] = json.loads(await request.read())
        self.seen.append(call["method"])
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": call["method"]})


@pytest.fixture
async def node() -> AsyncIterator[tuple[Upstream, Proxy]]:
    upstream = Upstream()
    application = web.Application()
    application.router.add_post("/", upstream.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with proxy(f"http://127.0.0.1:{runner.addresses[0][1]}", 0) as between:
            yield upstream, between
    finally:
        await runner.cleanup()


async def ask(between: Proxy, method: str, *parameters: str) -> str:
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    async with aiohttp.ClientSession() as session, session.post(between.url, json=call) as answer:
        return str((await answer.json())["result"])


async def test_what_is_not_held_passes(node: tuple[Upstream, Proxy]) -> None:
    upstream, between = node
    assert await ask(between, "eth_sendRawTransaction", "0x02") == "eth_sendRawTransaction"
    assert await ask(between, "eth_chainId") == "eth_chainId"
    assert between.order == upstream.seen == ["eth_sendRawTransaction", "eth_chainId"]
    assert between.raw == ["0x02"]


@pytest.mark.parametrize(("side", "reaches_the_node"), [("request", False), ("answer", True)])
async def test_a_held_call_of_somebody_who_died(
    node: tuple[Upstream, Proxy], side: Side, reaches_the_node: bool
) -> None:
    """Its request is never passed on; its answer was the node's doing already."""
    upstream, between = node
    async with between.holding("eth_sendRawTransaction", side) as hold:
        asking = asyncio.create_task(ask(between, "eth_sendRawTransaction", "0x02"))
        await asyncio.wait_for(hold.reached.wait(), 5)
        assert await ask(between, "eth_chainId") == "eth_chainId"  # others go on
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while between.asking:  # noqa: ASYNC110  (the proxy sees that it ended)
            await asyncio.sleep(0.01)
    assert upstream.seen.count("eth_sendRawTransaction") == int(reaches_the_node)
    assert len(between.raw) == int(reaches_the_node)


async def test_a_held_call_goes_on_when_it_is_let_go(node: tuple[Upstream, Proxy]) -> None:
    upstream, between = node
    async with between.holding("eth_chainId", "request") as hold:
        asking = asyncio.create_task(ask(between, "eth_chainId"))
        await asyncio.wait_for(hold.reached.wait(), 5)
        assert upstream.seen == []
    assert await asyncio.wait_for(asking, 5) == "eth_chainId"
