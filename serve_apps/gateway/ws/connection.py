"""One WebSocket: a task that writes, a task that reads, and deadlines that its keeper looks at.

The writer sends what the commands answered and then one delivery after the other; while the client
does not read, it waits in ``send`` and everything else waits in bounded queues or stays in the log.
So a slow reader costs its own queue and nothing more: it is caught up from the log in merged
pieces, and one that cannot catch up is closed with a token to resume by.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Send

from mesh.core.errors import MailyError, Unauthenticated, Unavailable
from mesh.core.logging import get_logger
from mesh.core.metrics import STREAM_CLOSES, STREAM_DELIVERED, STREAM_SUBSCRIPTIONS
from mesh.security.principal import Principal
from mesh.streams.mux import Delivery, Mux, Subscription
from mesh.streams.reader import Bell
from mesh.streams.resume import Place, write_token
from serve_apps.gateway.auth import Authenticator
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.task_events import remembered
from serve_apps.gateway.topics import Topic, Topics
from serve_apps.gateway.ws.messages import Close, say, say_error, say_events

OUTBOX = 64
"""Answers that may wait; a client that does not read them is not read either."""
CHECK_S = 5.0
"""Between two looks at whether the credential still holds."""
CHECK_LIMIT_S = 2.0
LOST_HEARTBEATS = 3
RECONNECT_MS = 500

_log = get_logger("gateway.ws")
_delivered = STREAM_DELIVERED.labels("websocket")


@dataclass(frozen=True, slots=True)
class Parts:
    """What all connections of a process share."""

    gateway: Gateway
    authenticator: Authenticator
    topics: Topics


class Connection:
    """Made when the handshake is accepted; ``await run(read)`` until it is over."""

    def __init__(
        self,
        parts: Parts,
        receive: Receive,
        send: Send,
        trace_id: str,
        address: Callable[[], str],
    ) -> None:
        self.parts = parts
        self.trace_id = trace_id
        self.address = address
        """The client's, for those who fail to log in again and again."""
        self.principal: Principal | None = None
        """None: nobody has said yet who it is."""
        self.header: bytes | None = None
        """What to check again; in memory only."""
        self.topics: dict[str, Topic] = {}
        """By subscription."""
        self._receive = receive
        self._send = send
        self._bell = Bell()
        self.mux = Mux(parts.gateway.streams, self._bell.ring)
        self._outbox: deque[str] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._goodbye: tuple[Close, str] | None = None
        self._left = False
        self._task: asyncio.Task[Any] | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._settings = parts.gateway.settings.streams
        now = asyncio.get_running_loop().time()
        self._opened = now
        self._heard = now
        self._sending_since: float | None = None
        self._ping_at = now + self._settings.socket_heartbeat_s
        self._ping_due = False
        self._check_at = now + CHECK_S
        self._warned = False
        self._sent_since_ping = True

    # For the reading side and the keeper

    async def receive(self) -> str | None:
        """The client's next message; None: it has left, or is told to."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return None
        self._heard = asyncio.get_running_loop().time()
        text = message.get("text")
        if text is None:
            self.close(Close.UNSUPPORTED, "Send text messages: JSON")
            return None
        return str(text)

    def put(self, message: str) -> None:
        """Send it soon, in order."""
        self._outbox.append(message)
        if len(self._outbox) >= OUTBOX:
            self._room.clear()
        self._bell.ring()

    async def room(self) -> None:
        """Returns when the answers so far are nearly all sent."""
        await self._room.wait()

    def close(self, code: Close, reason: str) -> None:
        """Close once what waits is sent, with a token to resume by. The first reason counts."""
        if self._goodbye is None:
            self._goodbye = (code, reason)
            self._bell.ring()

    def admit(self, principal: Principal, header: bytes) -> None:
        """From now on it speaks for this principal."""
        self.principal = principal
        self.header = header
        self._warned = False
        self._check_at = asyncio.get_running_loop().time() + CHECK_S

    def subscribed(self, topic: Topic, subscription: Subscription) -> None:
        self.topics[subscription.id] = topic
        STREAM_SUBSCRIPTIONS.inc()
        if topic.kind == "room":
            self.parts.gateway.live.enter_room(topic.stream, self)

    def unsubscribe(self, id: str) -> bool:
        topic = self.topics.pop(id, None)
        if topic is not None:
            STREAM_SUBSCRIPTIONS.dec()
            if topic.kind == "room":
                self.parts.gateway.live.leave_room(topic.stream, self)
        return self.mux.remove(id) or topic is not None

    def token(self) -> str:
        """Where each subscription is."""
        return write_token(Place(s.id, s.topic, s.cursor, s.filter) for s in self.mux)

    def drain(self) -> None:
        self.close(Close.DRAINING, "This replica goes away: resume at once")

    def recheck(self, key_id: str | None) -> None:
        if self.principal is not None and key_id in (None, self.principal.key_id):
            self._spawn(self._check())

    def present(self, stream: str, count: int) -> None:
        for id, topic in self.topics.items():
            if topic.stream == stream:
                self.put(say("presence", id=id, topic=topic.name, count=count))

    def tick(self, now: float) -> None:
        settings, wall = self._settings, self.parts.gateway.clock.now()
        if self._sending_since is not None and now - self._sending_since > settings.socket_slow_s:
            self._give_up()
            return
        if self.principal is None:
            if now - self._opened > settings.socket_auth_s:
                self.close(Close.UNAUTHENTICATED, "No auth message came in time")
            return
        if self.mux.behind_s() > settings.socket_slow_s:
            self.close(Close.SLOW, "Events came faster than they were read: resume when you can")
        silent_s = now - self._heard
        if silent_s > LOST_HEARTBEATS * settings.socket_heartbeat_s:
            self.close(Close.SLOW, "No answer to pings")
        expires = self.principal.expires_at
        if expires is not None:
            if wall >= expires:
                self.close(Close.UNAUTHENTICATED, "The credential has expired")
            elif wall >= expires - settings.socket_auth_warning_s and not self._warned:
                self._warned = True
                left_s = round(expires - wall, 3)
                self.put(say("auth.expiring", expires_at=expires, expires_in_s=left_s))
        if now >= self._ping_at:
            self._ping_at = now + settings.socket_heartbeat_s
            self._ping_due = True
            self._bell.ring()
        if now >= self._check_at:
            self._check_at = now + CHECK_S
            self._spawn(self._check())

    # Life

    async def run(self, read: Coroutine[Any, Any, None]) -> None:
        """Write until either side ends it; ``read`` handles what the client says. Never raises
        for what the client does."""
        self._task = asyncio.current_task()
        live = self.parts.gateway.live
        reader = asyncio.create_task(self._read(read))
        live.join(self, self.parts.gateway.presence)
        try:
            await self._write()
        except OSError:
            pass  # the connection broke
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._goodbye is None or task is None or task.uncancel() > 0:
                raise
        finally:
            reader.cancel()
            for work in self._work:
                work.cancel()
            await asyncio.gather(reader, *self._work, return_exceptions=True)
            live.leave(self)
            STREAM_SUBSCRIPTIONS.dec(len(self.topics))
            self.mux.close()
            if self._goodbye is not None:
                STREAM_CLOSES.labels(str(int(self._goodbye[0]))).inc()

    async def _read(self, read: Coroutine[Any, Any, None]) -> None:
        try:
            await read
        except OSError:
            pass
        except Exception:
            _log.exception("socket reader failed", trace_id=self.trace_id)
            self.close(Close.INTERNAL, "Something went wrong on our side")
        finally:
            if self._goodbye is None:
                self._left = True
            self._bell.ring()

    async def _write(self) -> None:
        while not self._left:
            if self._outbox:
                await self._say(self._outbox.popleft())
                if len(self._outbox) < OUTBOX // 2:
                    self._room.set()
                continue
            if self._goodbye is not None:
                await self._end(*self._goodbye)
                return
            if self._ping_due:
                self._ping_due = False
                # The token is only worth sending again when something came since the last one.
                token = self.token() if self._sent_since_ping and len(self.mux) else None
                self._sent_since_ping = False
                await self._say(say("ping", at=self.parts.gateway.clock.now(), resume=token))
                continue
            delivery = self.mux.take()
            if delivery is None:
                await self._bell.wait()
            else:
                await self._deliver(delivery)

    async def _say(self, message: str) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        await self._send({"type": "websocket.send", "text": message})
        self._sending_since = None

    async def _deliver(self, delivery: Delivery) -> None:
        subscription = delivery.subscription
        if delivery.missing:
            self._spawn(self._look_up(subscription))
            return
        self._sent_since_ping = True
        if delivery.gap is not None:
            await self._say(say("gap", id=subscription.id, after=str(delivery.gap)))
        for message in say_events(delivery, self.parts.gateway.frames):
            await self._say(message)
        _delivered.inc(len(delivery.events))
        if delivery.ended:
            self.unsubscribe(subscription.id)
            await self._say(say("ended", id=subscription.id, cursor=str(subscription.cursor)))

    async def _end(self, code: Close, reason: str) -> None:
        kind = "server.draining" if code is Close.DRAINING else "closing"
        token = self.token() if len(self.mux) else None
        wait_ms = RECONNECT_MS if code is Close.DRAINING else None
        await self._say(
            say(kind, code=int(code), reason=reason, resume=token, reconnect_in_ms=wait_ms)
        )
        await self._send({"type": "websocket.close", "code": int(code), "reason": reason})

    def _give_up(self) -> None:
        """The client reads nothing at all: not even a goodbye would reach it."""
        self.close(Close.SLOW, "Nothing is read")
        if self._task is not None:
            self._task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _check(self) -> None:
        """A credential that was revoked ends its sockets. One that can't be checked lives on."""
        if self.header is None:
            return
        try:
            async with asyncio.timeout(CHECK_LIMIT_S):
                await self.parts.authenticator.authenticate(self.header, "bearer")
        except Unauthenticated as error:
            self.close(Close.UNAUTHENTICATED, error.message)
        except (MailyError, TimeoutError) as error:
            _log.info("socket credential not checked", error=type(error).__name__)

    async def _look_up(self, subscription: Subscription) -> None:
        """The log knows no such stream: the task's row says whether it is over."""
        topic = self.topics.get(subscription.id)
        if topic is None or topic.task_id is None or self.principal is None:
            return
        try:
            row = await self.parts.gateway.tasks.get(topic.task_id, self.principal.workspace_id)
        except Unavailable:
            return  # the subscription looks again by itself
        except MailyError as error:
            self.unsubscribe(subscription.id)
            self.put(say_error(error, self.trace_id, subscription.id))
            return
        if row.state.ended and self.mux.get(subscription.id) is subscription:
            event = remembered(row, subscription.cursor)
            self.unsubscribe(subscription.id)
            last = Delivery(subscription, [event], [1], ended=True)
            for message in say_events(last, self.parts.gateway.frames):
                self.put(message)
            self.put(say("ended", id=subscription.id, cursor=str(event.cursor)))
