"""Streams of Maily Mesh that survive whatever the network does: a client to copy or import.

``Streams`` holds one WebSocket with any number of topics; ``events`` reads topics over HTTP where
WebSockets do not pass. Both reconnect by themselves, with a growing, random wait, and go on after
the last event that you were given: each event comes once and in order, whichever replica answers.

    async with Streams("http://127.0.0.1:8000", token) as streams:
        async for event in streams.task(task_id):
            print(event["type"], event["data"])

Needs ``websockets`` and ``httpx``.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection

Event = dict[str, Any]
Token = str | Callable[[], Awaitable[str]]
"""An API key or a token, or what fetches a fresh token: it is asked before each connection and
whenever the server warns that the last one is about to expire."""

PROTOCOL = "maily.v1"
GONE_S = 45.0
"""A server that says nothing for so long (it pings every 15 s) is taken for gone."""


class StreamError(Exception):
    """The server refused: ``code``, ``message``, ``details`` and ``trace_id`` are its own."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(f"{body.get('code')}: {body.get('message')}")
        self.code = str(body.get("code", "unknown"))
        self.message = str(body.get("message", ""))
        self.details: dict[str, Any] = body.get("details") or {}
        self.trace_id = body.get("traceId")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: doubled each time, drawn at random from the upper half."""

    first_s: float = 0.2
    most_s: float = 10.0

    def wait_s(self, attempt: int) -> float:
        limit = min(self.most_s, self.first_s * 2.0 ** min(attempt, 30))
        return random.uniform(limit / 2, limit)  # noqa: S311 (nothing secret)


@dataclass(slots=True, eq=False)
class _Subscription:
    id: str
    topic: str
    after: str | None
    filter: dict[str, Sequence[str]]
    queue: asyncio.Queue[Event | StreamError | None] = field(
        default_factory=lambda: asyncio.Queue(1_000)
    )
    count: int | None = None
    """Of a room: how many subscribe to it."""
    left: bool = False
    """Nobody takes its events any more."""

    async def put(self, item: Event | StreamError | None) -> None:
        """A full queue stops the reading of the socket, and then the server waits."""
        if not self.left:
            await self.queue.put(item)

    def leave(self) -> None:
        self.left = True
        while not self.queue.empty():
            self.queue.get_nowait()


class Streams:
    """One WebSocket, opened with the block and reopened whenever it breaks."""

    def __init__(self, base_url: str, token: Token, backoff: Backoff = Backoff()) -> None:
        scheme, _, rest = base_url.rstrip("/").partition("://")
        self._url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/v1/mesh/ws"
        self._token = token
        self._backoff = backoff
        self._subscriptions: dict[str, _Subscription] = {}
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._socket: ClientConnection | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: StreamError | None = None
        self._ids = 0
        self._heard = False
        """Whether the newest connection brought anything: then the waits begin anew."""
        self.reconnects = 0

    async def __aenter__(self) -> Streams:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # What you use

    def task(self, task_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """All events of a task, to its end."""
        return self.subscribe(f"task:{task_id}", after=after)

    async def subscribe(
        self,
        topic: str,
        *,
        after: str | None = None,
        types: Sequence[str] = (),
        steps: Sequence[str] = (),
    ) -> AsyncIterator[Event]:
        """Events of a topic; ends when the topic does. Leave the loop to unsubscribe.

        ``after``: a cursor, ``start`` or ``now``. Raises StreamError where the server refuses.
        """
        self._ids += 1
        one = _Subscription(f"s{self._ids}", topic, after, {"types": types, "steps": steps})
        self._subscriptions[one.id] = one
        if self._ready.is_set():
            await self._say(_subscribe(one))
        try:
            while True:
                if self._failure is not None:
                    raise self._failure
                item = await one.queue.get()
                if item is None:
                    return
                if isinstance(item, StreamError):
                    raise item
                yield item
        finally:
            one.leave()
            if self._subscriptions.pop(one.id, None) is not None and self._ready.is_set():
                await self._say({"type": "unsubscribe", "id": one.id})

    async def publish(self, room: str, data: dict[str, Any], timeout_s: float = 30.0) -> str:
        """Say something in a room; gives its cursor. Published once, also when the connection
        breaks before the answer: it is sent again with the same key."""
        self._ids += 1
        id, key = f"p{self._ids}", uuid.uuid4().hex
        message = {"type": "publish", "id": id, "topic": f"room:{room}", "data": data, "key": key}
        async with asyncio.timeout(timeout_s):
            while True:
                await self._ready.wait()
                if self._failure is not None:
                    raise self._failure
                answer = asyncio.get_running_loop().create_future()
                self._answers[id] = answer
                try:
                    await self._say(message)
                    return str((await answer)["cursor"])
                except ConnectionError:
                    await asyncio.sleep(self._backoff.wait_s(0))
                finally:
                    self._answers.pop(id, None)

    # How it works

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                token = self._token if isinstance(self._token, str) else await self._token()
                async with websockets.connect(
                    self._url,
                    additional_headers={"Authorization": f"Bearer {token}"},
                    subprotocols=[PROTOCOL],  # type: ignore[list-item]
                    max_size=None,
                    compression=None,
                    ping_interval=None,  # the protocol has its own, which both sides see
                ) as socket:
                    try:
                        await self._talk(socket)
                    finally:
                        attempt = 0 if self._heard else attempt
            except websockets.InvalidStatus as error:
                refused = _refusal(error)
                if refused is not None:
                    self._fail(refused)
                    return
            except (OSError, websockets.WebSocketException, TimeoutError, httpx.HTTPError):
                pass
            finally:
                self._lost()
            self.reconnects += 1
            await asyncio.sleep(self._backoff.wait_s(attempt))
            attempt += 1

    async def _talk(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._heard = False
        for one in list(self._subscriptions.values()):
            await socket.send(json.dumps(_subscribe(one)))
        self._ready.set()
        while True:
            async with asyncio.timeout(GONE_S):
                text = await socket.recv()
            await self._handle(json.loads(text))

    async def _handle(self, message: dict[str, Any]) -> None:
        kind, id = message["type"], message.get("id", "")
        one = self._subscriptions.get(id)
        self._heard = self._heard or kind not in ("welcome", "closing")
        if kind == "ping":
            await self._say({"type": "pong"})
        elif kind == "auth.expiring" and not isinstance(self._token, str):
            await self._say({"type": "auth", "token": await self._token()})
        elif kind == "subscribed" and one is not None:
            # Where `now` was: an interruption before the first event loses nothing, either.
            one.after = message["cursor"]
        elif kind == "events" and one is not None:
            for event in message["events"]:
                await one.put(event)
                one.after = event["cursor"]
        elif kind == "ended" and one is not None:
            del self._subscriptions[id]
            await one.put(None)
        elif kind == "presence" and one is not None:
            one.count = message["count"]
        elif kind == "error":
            error = StreamError(message)
            answer = self._answers.get(id)
            if answer is not None and not answer.done():
                answer.set_exception(error)
            elif one is not None:
                del self._subscriptions[id]
                await one.put(error)
        elif kind == "published" and id in self._answers and not self._answers[id].done():
            self._answers[id].set_result(message)

    async def _say(self, message: dict[str, Any]) -> None:
        """What a broken connection does not take is said again by whoever reconnects."""
        if self._socket is not None:
            with suppress(websockets.ConnectionClosed):
                await self._socket.send(json.dumps(message))

    def _lost(self) -> None:
        self._ready.clear()
        self._socket = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the connection broke"))

    def _fail(self, error: StreamError) -> None:
        self._failure = error
        self._ready.set()
        for one in self._subscriptions.values():
            with suppress(asyncio.QueueFull):
                one.queue.put_nowait(error)


def _subscribe(one: _Subscription) -> dict[str, Any]:
    message = {"type": "subscribe", "id": one.id, "topic": one.topic, "filter": one.filter}
    return message if one.after is None else {**message, "after": one.after}


def _refusal(error: websockets.InvalidStatus) -> StreamError | None:
    """What trying again would not change; None: try again."""
    status = error.response.status_code
    if status == 429 or status >= 500:
        return None
    try:
        return StreamError(json.loads(error.response.body or b"{}"))
    except ValueError:
        return StreamError({"code": str(status), "message": "the handshake was refused"})


async def events(
    base_url: str,
    token: Token,
    topics: Sequence[str],
    *,
    types: Sequence[str] = (),
    last_event_id: str | None = None,
    backoff: Backoff = Backoff(),
) -> AsyncIterator[Event]:
    """Events of several topics over HTTP (server-sent events); each names its ``topic``. Ends when
    all topics have ended. Raises StreamError where the server refuses."""
    attempt = 0
    params = {"topics": ",".join(topics)} | ({"types": ",".join(types)} if types else {})
    timeout = httpx.Timeout(10.0, read=GONE_S)
    async with httpx.AsyncClient(base_url=base_url, timeout=timeout) as client:
        while True:
            secret = token if isinstance(token, str) else await token()
            headers = {"authorization": f"Bearer {secret}", "accept": "text/event-stream"}
            if last_event_id is not None:
                headers["last-event-id"] = last_event_id
            wait_s = backoff.wait_s(attempt)
            attempt += 1
            with suppress(httpx.TransportError):
                async with client.stream(
                    "GET", "/v1/mesh/events", params=params, headers=headers
                ) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code == 429 or answer.status_code >= 500:
                        wait_s = max(wait_s, float(answer.headers.get("retry-after", 0)))
                    elif answer.status_code != 200:
                        raise StreamError(json.loads(await answer.aread()))
                    else:
                        async with aclosing(_frames(answer)) as frames:
                            async for id, kind, data in frames:
                                attempt = 0
                                if kind == "error":
                                    break  # an expired token, say: ask for another and go on
                                if kind not in ("stream.open", "gap"):
                                    yield data
                                last_event_id = id or last_event_id
            await asyncio.sleep(wait_s)


async def _frames(
    answer: httpx.Response,
) -> AsyncGenerator[tuple[str | None, str, Event], None]:
    """Id, type and data of each server-sent event."""
    id: str | None = None
    kind, data = "message", ""
    async for line in answer.aiter_lines():
        if not line:
            if data:
                yield id, kind, json.loads(data)
            id, kind, data = None, "message", ""
            continue
        name, _, value = line.partition(": ")
        if name == "id":
            id = value
        elif name == "event":
            kind = value
        elif name == "data":
            data += value
