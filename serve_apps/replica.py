"""What a replica of ours undoes of Serve's ways, in its own process.

Each function looks for one inner name of Serve and leaves everything as it is when a later Serve
no longer has it: what is lost then is said in each docstring, and nothing else breaks.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

SAY_GOODBYE_S = 1.5
"""For what is to be said to clients when the replica goes: less than Serve's grace."""
_AS_IT_IS = (b"x-request-disconnect-disabled", b"?1")
"""Serve's own header: the application looks after disconnects by itself."""


def plain_stderr() -> bool:
    """Let our JSON log lines reach the process's standard error as they are.

    Serve's replicas redirect it into Serve's own log, where each line gets a prefix that is no
    JSON. Without this the lines are still there, behind that prefix.
    """
    original = getattr(sys.stderr, "_original_object", None)
    if original is None:
        return False
    sys.stderr = original
    return True


def readable_headers() -> bool:
    """Let requests through whose headers are not UTF-8.

    Serve decodes some of them (``x-request-id`` …) before the application is asked, and its
    failure there becomes a 500 that anybody can cause. Re-encoded, the bytes stay what they were
    to whoever reads headers as Latin-1, and the application refuses what it does not like.
    """
    from ray.serve._private.replica import Replica

    inner = getattr(Replica, "_direct_ingress_asgi", None)
    if inner is None:
        return False
    if getattr(inner, "readable", False):
        return True

    async def direct_ingress(self: Any, scope: Any, receive: Any, send: Any) -> None:
        headers = scope.get("headers")
        if headers is not None and not all(value.isascii() for _, value in headers):
            scope["headers"] = readable(headers)
        await inner(self, scope, receive, send)

    direct_ingress.readable = True  # type: ignore[attr-defined]
    Replica._direct_ingress_asgi = direct_ingress
    return True


def direct_bodies(streams: Callable[[str, str], bool]) -> bool:
    """Let bodies without end reach the application as it reads them, and no faster.

    Serve reads every body ahead into a queue without bounds, so that it hears when a client
    leaves. It does not where a header of its own says so; then the application's reads are the
    socket's, and a client that sends more than is taken is made to wait. ``streams``: whether a
    method and path has such a body. Without this a gigabyte that is sent is a gigabyte in memory.
    """
    from ray.serve._private.replica import Replica

    inner = getattr(Replica, "_direct_ingress_asgi", None)
    if inner is None:
        return False
    original = getattr(inner, "original", None)
    if original is not None:
        inner = original

    async def direct_ingress(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and streams(scope["method"], scope["path"]):
            others = [pair for pair in scope["headers"] if pair[0] != _AS_IT_IS[0]]
            scope["headers"] = [*others, _AS_IT_IS]
        await inner(self, scope, receive, send)

    direct_ingress.original = inner  # type: ignore[attr-defined]
    direct_ingress.readable = getattr(inner, "readable", False)  # type: ignore[attr-defined]
    Replica._direct_ingress_asgi = direct_ingress
    return True


def readable(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Values that are not ASCII, from Latin-1 to UTF-8."""
    return [
        (name, value if value.isascii() else value.decode("latin-1").encode("utf-8"))
        for name, value in headers
    ]


def lean_sockets(message_bytes: int) -> bool:
    """Serve WebSockets without compression, and refuse messages that are larger than ours may be.

    Compression would be done for each socket anew, though all of them are sent the same bytes,
    and holds some 45 KB for each. Without this everything works, for more memory and time.
    """
    import uvicorn

    inner = uvicorn.Config
    if getattr(inner, "lean", False):
        return True
    if not isinstance(inner, type):
        return False

    class Config(inner):  # type: ignore[misc, valid-type]
        lean = True

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("ws_per_message_deflate", False)
            kwargs.setdefault("ws_max_size", 2 * message_bytes)
            super().__init__(*args, **kwargs)

    uvicorn.Config = Config  # type: ignore[misc]
    return True


def before_shutdown(hook: Callable[[], Awaitable[None]]) -> bool:
    """Run ``hook`` as soon as Serve wants this replica to go, beside Serve's own drain.

    Serve tells the application last, when it has given up waiting for its streams. Without this
    they are cut then, and their clients reconnect without having been told.
    """
    from ray.serve._private.replica import Replica

    inner = getattr(Replica, "_perform_graceful_shutdown", None)
    if inner is None:
        return False
    original = getattr(inner, "original", inner)

    async def shutdown(self: Any) -> None:
        await asyncio.gather(original(self), _said(hook))

    shutdown.original = original  # type: ignore[attr-defined]
    Replica._perform_graceful_shutdown = shutdown
    return True


async def _said(hook: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(SAY_GOODBYE_S):
            await hook()
    except Exception as error:  # a shutdown goes on whatever happens
        sys.stderr.write(f"goodbye failed: {type(error).__name__}\n")
