"""A JSON-RPC proxy between the runtime and its EVM node that can hold a call at a known moment.

A *hold* names a method and a side: ``request`` (the node has not seen it) or ``answer`` (the node
has done it, the runtime does not know yet). The first call that fits is kept until the hold is let
go. Whoever asked and is dead by then gets nothing, and a held request whose asker is gone is never
passed on: as if the process had died just before it sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from aiohttp import web

Side = Literal["request", "answer"]
SIDES: tuple[Side, ...] = ("request", "answer")


@dataclass(slots=True)
class Hold:
    """Waits for one call."""

    method: str
    side: Side
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call is held."""
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Proxy:
    """``seen`` and ``raw`` grow as long as it runs."""

    upstream: str
    """URL of the node."""
    port: int = 0
    """Where it listens."""
    seen: Counter[str] = field(default_factory=Counter)
    """Calls by method."""
    order: list[str] = field(default_factory=list)
    """Methods in the order in which each was first seen."""
    raw: list[str] = field(default_factory=list)
    """Signed transactions that were passed on, hex."""
    asking: int = 0
    """Calls that are under way."""
    _hold: Hold | None = None
    _session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Begin to count anew."""
        self.seen.clear()
        self.order.clear()

    @asynccontextmanager
    async def holding(self, method: str, side: Side) -> AsyncIterator[Hold]:
        """The next call of this method is held until the block ends, at the latest."""
        hold = self._hold = Hold(method, side)
        try:
            yield hold
        finally:
            hold.let_go.set()
            if self._hold is hold:
                self._hold = None

    async def _held(self, methods: list[str], side: Side) -> None:
        hold = self._hold
        if hold is None or hold.side != side or hold.method not in methods:
            return
        self._hold = None  # one call alone
        hold.reached.set()
        await hold.let_go.wait()

    async def _handle(self, request: web.Request) -> web.Response:
        self.asking += 1
        try:
            return await self._passed(request)
        finally:
            self.asking -= 1

    async def _passed(self, request: web.Request) -> web.Response:
        assert self._session is not None
        body = await request.read()
        calls = _calls(body)
        methods = [str(call.get("method")) for call in calls]
        for method in methods:
            if method not in self.seen:
                self.order.append(method)
            self.seen[method] += 1
        await self._held(methods, "request")
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=502)  # the asker is gone: nobody reads it
        self.raw += [
            str(call["params"][0])
            for call in calls
            if call.get("method") == "eth_sendRawTransaction"
        ]
        try:
            async with self._session.post(
                self.upstream, data=body, headers={"content-type": "application/json"}
            ) as response:
                answer, status = await response.read(), response.status
        except aiohttp.ClientError:
            # As a node that is gone: no answer, the connection ends.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)
        await self._held(methods, "answer")
        return web.Response(body=answer, status=status, content_type="application/json")


def _calls(body: bytes) -> list[dict[str, Any]]:
    with contextlib.suppress(ValueError):
        document = json.loads(body)
        return document if isinstance(document, list) else [document]
    return []


@asynccontextmanager
async def proxy(upstream: str, port: int) -> AsyncIterator[Proxy]:
    """Listens on loopback while the block runs."""
    made = Proxy(upstream, port)
    application = web.Application(client_max_size=16 << 20)
    application.router.add_post("/", made._handle)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        # As patient as a real node: who gives up is the runtime.
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            made._session = session
            await web.TCPSite(runner, "127.0.0.1", port).start()
            made.port = runner.addresses[0][1]
            yield made
    finally:
        await runner.cleanup()
