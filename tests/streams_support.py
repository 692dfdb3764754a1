"""A gateway on a real socket in the test's own event loop, and a WebSocket client for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import uvicorn
import websockets
from gateway_support import House, build_house
from websockets.asyncio.client import ClientConnection

from mesh.contracts.events import EventType
from mesh.contracts.streams import PROTOCOL
from mesh.core.ids import uuid7
from mesh.storage.pool import Database
from mesh.storage.task_rows import NewTask, TaskRow
from mesh.streams.connect import connect
from mesh.streams.options import StreamOptions
from mesh.streams.presence import ValkeyPresence
from mesh.streams.valkey import ValkeyStreamLog
from serve_apps.gateway.app import create_app
from serve_apps.gateway.live import LiveStreams

LIMIT_S = 20.0


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Gives ``127.0.0.1:port``."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws_ping_interval=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listener.close()


class Talk:
    """One WebSocket and what the server said on it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, **message: Any) -> None:
        await self.socket.send(orjson.dumps(message).decode())

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            message: dict[str, Any] = orjson.loads(await self.socket.recv())
        self.heard.append(message)
        if message["type"] == "ping":
            await self.say(type="pong")
        return message

    async def until(self, type: str, **parts: Any) -> dict[str, Any]:
        """Read on to the first message of this type with these parts."""
        while True:
            message = await self.next()
            if message["type"] == type and all(message.get(k) == v for k, v in parts.items()):
                return message

    async def events(self, id: str, count: int | None = None) -> list[dict[str, Any]]:
        """Events of a subscription: ``count`` of them, or to its end."""
        found: list[dict[str, Any]] = []
        while count is None or len(found) < count:
            message = await self.next()
            if message.get("id") != id:
                continue
            if message["type"] == "ended":
                break
            if message["type"] == "events":
                found += message["events"]
        return found

    async def closed(self) -> int:
        """Read to the end; gives the code."""
        with suppress(websockets.ConnectionClosed):
            while True:
                await self.next()
        assert self.socket.close_code is not None
        return self.socket.close_code


@asynccontextmanager
async def talk(address: str, key: str | None, **more: Any) -> AsyncIterator[Talk]:
    """A socket that has been welcomed. ``key`` None: without an Authorization header."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with websockets.connect(
        f"ws://{address}/v1/mesh/ws",
        additional_headers=headers,
        subprotocols=[PROTOCOL],  # type: ignore[list-item]
        **more,
    ) as socket:
        one = Talk(socket)
        await one.until("welcome")
        yield one


async def new_task(house: House, key: str | None = None) -> TaskRow:
    """A queued task of the key's workspace, with its first event."""
    principal = await house.keys.verify(key or house.key)
    row, _ = await house.tasks.create(
        NewTask(
            id=uuid7(),
            workspace_id=principal.workspace_id,
            kind="write_email",  # type: ignore[arg-type]
            request={},
            deadline_at=datetime.now(UTC) + timedelta(minutes=5),
        )
    )
    writer = house.streams.writer(str(row.id), 0, workspace=row.workspace_id)
    await writer.append(EventType.TASK_ACCEPTED, {"kind": "write_email"})
    await writer.aclose()
    return row


async def play(house: House, row: TaskRow, tokens: int = 20, end: bool = True) -> list[str]:
    """Work on a task as a worker would; gives the text of each token event's pieces in order."""
    writer = house.streams.writer(str(row.id), 1, workspace=row.workspace_id)
    said = [f"<{n}>" for n in range(tokens)]
    await writer.append(EventType.TASK_STARTED, {"worker": "w", "resumed_from": None})
    await writer.append(EventType.STEP_STARTED, {"step": "body", "agent": "writer"})
    for piece in said:
        await writer.token("body", piece)
        await asyncio.sleep(0)
    await writer.append(EventType.STEP_FINISHED, {"step": "body", "output": {}})
    if end:
        await writer.append(EventType.TASK_SUCCEEDED, {"degraded": False, "subject": "s"})
    await writer.aclose()
    return said


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(e["data"]["text"] for e in events if e["type"] == "tokens")


@asynccontextmanager
async def quick_house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    """A gateway over real parts whose sockets are looked after without leisure."""
    redis = connect(valkey_url)
    log = ValkeyStreamLog(redis, StreamOptions(coalesce_s=0.001))
    built = await build_house(database, valkey_url, streams=log)
    built.gateway.presence = ValkeyPresence(redis)
    built.gateway.live = quick_live()
    built.app = create_app(built.gateway)
    yield built
    await built.gateway.live.aclose()
    await log.aclose()
    await redis.aclose()
    await built.redis.aclose()


def quick_live() -> LiveStreams:
    return LiveStreams(tick_s=0.05, presence_every_s=0.3)


def changed(house: House, **streams: Any) -> House:
    """Another replica of the same gateway, with other settings of its streams."""
    settings = house.gateway.settings
    new = settings.model_copy(update={"streams": settings.streams.model_copy(update=streams)})
    gateway = replace(house.gateway, settings=new, live=quick_live())
    return replace(house, gateway=gateway, app=create_app(gateway))
