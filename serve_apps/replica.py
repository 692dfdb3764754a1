"""What a replica of ours undoes of Serve's ways, in its own process.

Each function looks for one inner name of Serve and leaves everything as it is when a later Serve
no longer has it: what is lost then is said in each docstring, and nothing else breaks.
"""

from __future__ import annotations

import sys
from typing import Any


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


def readable(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Values that are not ASCII, from Latin-1 to UTF-8."""
    return [
        (name, value if value.isascii() else value.decode("latin-1").encode("utf-8"))
        for name, value in headers
    ]
