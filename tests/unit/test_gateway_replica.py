"""What replicas change of Serve: addresses, log lines, headers."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from ray.serve._private import replica as serve_replica

from serve_apps import loopback, replica


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("[::]:0", "127.0.0.1:0"),
        ("0.0.0.0:5000", "127.0.0.1:5000"),
        ("127.0.0.1:7", "127.0.0.1:7"),
        ("192.0.2.1:7", "192.0.2.1:7"),
    ],
)
def test_wide_addresses_become_loopback(wide: str, narrow: str) -> None:
    assert loopback.narrow(wide) == narrow


def test_servers_of_replicas_open_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def add_port(server: Any, address: str) -> int:
        opened.append(address)
        return 7

    monkeypatch.setattr(serve_replica, "add_port_to_grpc_server", add_port)
    assert loopback.apply({}) is False
    assert serve_replica.add_port_to_grpc_server is add_port
    for _ in range(2):  # twice wraps once
        assert loopback.apply({loopback.LOOPBACK_VARIABLE: "1"}) is True
    assert serve_replica.add_port_to_grpc_server(None, "[::]:0") == 7
    assert opened == ["127.0.0.1:0"]


def test_serve_still_opens_that_port_through_that_name() -> None:
    """If this fails, Serve has changed: look how its replicas listen now."""
    import inspect

    source = inspect.getsource(serve_replica.Replica)
    assert 'add_port_to_grpc_server(self._server, "[::]:0")' in source
    assert "_direct_ingress_asgi" in source


def test_log_lines_reach_the_real_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Redirected:
        def __init__(self, original: Any) -> None:
            self._original_object = original

    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Redirected(plain))
    assert replica.plain_stderr() is True
    assert sys.stderr is plain
    assert replica.plain_stderr() is False


async def test_headers_that_are_no_utf8_do_not_stop_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    async def inner(self: Any, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    monkeypatch.setattr(serve_replica.Replica, "_direct_ingress_asgi", inner)
    assert replica.readable_headers()
    assert replica.readable_headers()
    patched: Any = serve_replica.Replica._direct_ingress_asgi
    plain = [(b"x-request-id", b"abc")]
    await patched(None, {"headers": plain}, None, None)
    await patched(None, {"headers": [(b"x-request-id", b"\xff\xfe")]}, None, None)
    assert seen[0] is plain
    assert seen[1] == [(b"x-request-id", "ÿþ".encode())]


async def test_bodies_without_end_are_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def inner(self: Any, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    monkeypatch.setattr(serve_replica.Replica, "_direct_ingress_asgi", inner)
    assert replica.readable_headers()
    for _ in range(2):  # twice wraps once, and the newest question counts
        assert replica.direct_bodies(lambda method, path: (method, path) == ("POST", "/stream"))
    patched: Any = serve_replica.Replica._direct_ingress_asgi
    claimed = [(b"x-request-disconnect-disabled", b"?0"), (b"a", b"b")]
    scope = {"type": "http", "method": "POST", "path": "/stream", "headers": claimed}
    await patched(None, dict(scope), None, None)
    await patched(None, {**scope, "method": "GET"}, None, None)
    await patched(None, {"type": "websocket", "path": "/stream", "headers": claimed}, None, None)
    assert seen == [
        [(b"a", b"b"), (b"x-request-disconnect-disabled", b"?1")],
        claimed,
        claimed,
    ]
    assert patched.original.readable, "headers are still made readable"


def test_serve_still_knows_the_header_that_leaves_bodies_alone() -> None:
    """If this fails, Serve reads bodies ahead again, without bounds: look how it is told not to."""
    import inspect

    from ray.serve._private.http_util import parse_disconnect_disabled_header

    assert parse_disconnect_disabled_header({b"x-request-disconnect-disabled": b"?1"})
    source = inspect.getsource(serve_replica.Replica)
    assert "receive_proxy = receive" in source


def test_sockets_are_served_without_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    monkeypatch.setattr(uvicorn, "Config", uvicorn.Config)
    for _ in range(2):  # twice wraps once
        assert replica.lean_sockets(1_000)
    config = uvicorn.Config("app")
    assert (config.ws_per_message_deflate, config.ws_max_size) == (False, 2_000)
    assert uvicorn.Config("app", ws_per_message_deflate=True).ws_per_message_deflate is True


async def test_streams_are_told_before_serve_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    async def inner(self: Any) -> None:
        order.append("serve drains")

    async def goodbye() -> None:
        order.append("goodbye")

    async def broken() -> None:
        raise ValueError("planned")

    monkeypatch.setattr(serve_replica.Replica, "_perform_graceful_shutdown", inner)
    assert replica.before_shutdown(broken)
    assert replica.before_shutdown(goodbye), "the newest hook counts"
    patched: Any = serve_replica.Replica._perform_graceful_shutdown
    await patched(None)
    assert sorted(order) == ["goodbye", "serve drains"]
    assert replica.before_shutdown(broken)
    patched = serve_replica.Replica._perform_graceful_shutdown
    await patched(None)
    assert order.count("serve drains") == 2, "a goodbye that fails stops nothing"
