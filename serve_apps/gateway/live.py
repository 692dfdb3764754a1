"""The streams that are being read through this process: looked after, and handed over at the end.

One task ticks for all of them, so an idle socket has no timer of its own. When the process is to
go, each reader is told where it is and sent to another replica; nothing waits for it to finish.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from mesh.core.errors import MailyError
from mesh.core.logging import get_logger
from mesh.core.metrics import STREAM_SOCKETS
from mesh.streams.presence import Presence

_log = get_logger("gateway.streams")


class Socket(Protocol):
    """A WebSocket as its keeper sees it."""

    def tick(self, now: float) -> None:
        """Look at every deadline; ``now`` is monotonic. Must not block."""
        ...

    def drain(self) -> None:
        """Say goodbye: this process goes away."""
        ...

    def recheck(self, key_id: str | None) -> None:
        """What this key (None: any) was allowed may have changed."""
        ...

    def present(self, stream: str, count: int) -> None:
        """So many subscribe to this room in all."""
        ...


class LiveStreams:
    """One per process; starts with its first socket. ``tick_s``: between two looks at all
    deadlines; ``presence_every_s``: between two counts of rooms that nobody came to or left."""

    def __init__(self, tick_s: float = 0.5, presence_every_s: float = 2.0) -> None:
        self._tick_s = tick_s
        self._presence_every_s = presence_every_s
        self._sockets: set[Socket] = set()
        self._streams: set[Callable[[], None]] = set()
        self._rooms: dict[str, dict[Socket, int]] = {}
        self._told: dict[str, int] = {}
        """What the members of a room were told last."""
        self._fresh: dict[str, set[Socket]] = {}
        """Members who were told nothing yet."""
        self._changed = False
        """Whether somebody left since the last count."""
        self._ticker: asyncio.Task[None] | None = None
        self._presence: Presence | None = None
        self.draining = False
        self.drained = 0

    def join(self, socket: Socket, presence: Presence) -> None:
        self._presence = presence
        self._sockets.add(socket)
        STREAM_SOCKETS.set(len(self._sockets))
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())
        if self.draining:
            socket.drain()

    def leave(self, socket: Socket) -> None:
        self._sockets.discard(socket)
        STREAM_SOCKETS.set(len(self._sockets))
        for members in self._rooms.values():
            self._changed = members.pop(socket, 0) > 0 or self._changed

    def enter_room(self, stream: str, socket: Socket) -> None:
        members = self._rooms.setdefault(stream, {})
        members[socket] = members.get(socket, 0) + 1
        self._fresh.setdefault(stream, set()).add(socket)

    def leave_room(self, stream: str, socket: Socket) -> None:
        members = self._rooms.get(stream, {})
        left = members.get(socket, 0) - 1
        if left > 0:
            members[socket] = left
        else:
            self._changed = members.pop(socket, 0) > 0 or self._changed

    def recheck(self, key_id: str | None) -> None:
        for socket in self._sockets:
            socket.recheck(key_id)

    def watch(self, stop: Callable[[], None]) -> None:
        """``stop`` is called once, when this process is to go: end the stream, it is resumed
        elsewhere."""
        self._streams.add(stop)
        if self.draining:
            stop()

    def unwatch(self, stop: Callable[[], None]) -> None:
        self._streams.discard(stop)

    async def drain(self, spread_s: float = 0.5) -> None:
        """Send every reader elsewhere, within ``spread_s`` seconds: at once they would all knock
        at the next replica's door in the same moment."""
        self.draining = True
        leaving: list[Callable[[], None]] = [socket.drain for socket in self._sockets]
        leaving += self._streams
        random.shuffle(leaving)
        self.drained += len(leaving)
        parts = 10
        for part in range(parts):
            for leave in leaving[part::parts]:
                leave()
            if leaving:
                await asyncio.sleep(spread_s / parts)

    async def aclose(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None

    def statistics(self) -> dict[str, int | float]:
        return {
            "sockets": len(self._sockets),
            "event_streams": len(self._streams),
            "rooms": len(self._rooms),
            "drained": self.drained,
        }

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        counted = 0.0
        while True:
            await asyncio.sleep(self._tick_s)
            now = loop.time()
            for socket in list(self._sockets):
                try:
                    socket.tick(now)
                except Exception:  # one socket's trouble is not the others'
                    _log.exception("socket tick failed")
            if now - counted >= self._presence_every_s or self._fresh or self._changed:
                counted = now
                await self._count()

    async def _count(self) -> None:
        """Tell what we have of each room, and our members what all have."""
        if self._presence is None or not self._rooms:
            return
        fresh, self._fresh = self._fresh, {}
        self._changed = False
        ours = {stream: sum(members.values()) for stream, members in self._rooms.items()}
        try:
            async with asyncio.timeout(self._presence_every_s):
                totals = await self._presence.tell(ours)
        except (MailyError, TimeoutError) as error:
            _log.info("presence.away", error=type(error).__name__)
            return
        for stream, total in totals.items():
            members = self._rooms.get(stream, {})
            if ours[stream] == 0 and not members:
                self._rooms.pop(stream, None)
                self._told.pop(stream, None)
                continue
            told = list(members)
            if self._told.get(stream) == total:
                told = [socket for socket in fresh.get(stream, ()) if socket in members]
            self._told[stream] = total
            for socket in told:
                socket.present(stream, total)
