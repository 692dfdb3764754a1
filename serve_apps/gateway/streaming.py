"""What every answer of server-sent events does with its subscriptions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from mesh.streams.mux import Delivery, Mux
from mesh.streams.reader import Bell
from serve_apps.gateway.deps import Gateway

DRAINING = b": this replica goes away\nretry: 250\n\n"
"""The last words of a stream that another replica goes on with."""


@asynccontextmanager
async def subscribed(gateway: Gateway, *, merging: bool) -> AsyncIterator[tuple[Mux, Bell]]:
    """A mux for one answer, left however the answer ends."""
    bell = Bell()
    mux = Mux(gateway.streams, bell.ring, merging=merging)
    try:
        yield mux, bell
    finally:
        mux.close()


async def _deliveries(
    gateway: Gateway, mux: Mux, bell: Bell, heartbeat_s: float
) -> AsyncGenerator[Delivery | None, None]:
    """What the mux has, as it comes; None is a heartbeat. Ends when nothing is subscribed to any
    more, or when this process is to go."""
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        bell.ring()

    gateway.live.watch(stop)
    due = time.monotonic() + heartbeat_s
    try:
        while not stopped and len(mux):
            delivery = mux.take()
            if delivery is not None:
                yield delivery
                due = time.monotonic() + heartbeat_s
                continue
            await bell.wait(due - time.monotonic())
            if time.monotonic() >= due:
                yield None
                due = time.monotonic() + heartbeat_s
    finally:
        gateway.live.unwatch(stop)


def deliveries(
    gateway: Gateway, mux: Mux, bell: Bell, heartbeat_s: float
) -> AbstractAsyncContextManager[AsyncGenerator[Delivery | None, None]]:
    """``async with`` it: then it is left at once when its reader is."""
    return aclosing(_deliveries(gateway, mux, bell, heartbeat_s))
