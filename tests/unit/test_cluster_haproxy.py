"""The wrapper around HAProxy, against the real binary and Serve's own template."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.haproxy import NO_TRACE, write_wrapper
from cluster.layout import Layout
from mesh.core.settings import Settings

CONFIG = """global
    log 127.0.0.1:514 local0 info
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    maxconn 100
defaults
    mode http
    option abortonclose
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
frontend prometheus
    bind :{metrics}
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend http_frontend
    bind 127.0.0.1:{front}
    acl is_gateway path_beg /v1
    use_backend gateway if is_gateway
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
backend gateway
    server one 127.0.0.1:{dead} check
listen stats
  bind *:{stats}
  stats enable
  stats uri /stats
"""


@pytest.fixture
def ports() -> dict[str, int]:
    sockets = {name: socket.socket() for name in ("metrics", "front", "dead", "stats")}
    try:
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}
    finally:
        for one in sockets.values():
            one.close()


@pytest.fixture
def haproxy(tmp_path: Path, ports: dict[str, int]) -> Iterator[subprocess.Popen[bytes]]:
    layout = Layout(tmp_path)
    layout.make()
    wrapper = write_wrapper(layout, Settings(home=tmp_path))
    (tmp_path / "500.http").write_bytes(b"HTTP/1.1 500 Oh\r\n\r\n")
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(folder=tmp_path, **ports))
    process = subprocess.Popen([str(wrapper), "-db", "-f", str(config)])
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", ports["front"]), 1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_every_socket_is_on_loopback(
    haproxy: subprocess.Popen[bytes], ports: dict[str, int], tmp_path: Path
) -> None:
    family = [psutil.Process(haproxy.pid), *psutil.Process(haproxy.pid).children(recursive=True)]
    heard = {
        (c.laddr.ip, c.laddr.port)
        for process in family
        for c in process.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    wanted = {("127.0.0.1", ports[name]) for name in ("metrics", "front", "stats")}
    assert heard == wanted
    assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("path", ["/", "/v1/models"])
def test_its_own_errors_have_our_shape(
    haproxy: subprocess.Popen[bytes], ports: dict[str, int], path: str
) -> None:
    response = httpx.get(f"http://127.0.0.1:{ports['front']}{path}", trust_env=False)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "1"
    body = response.json()
    assert body["code"] == "unavailable"
    assert body["traceId"] == NO_TRACE
    assert body["message"]
    assert set(body) == {"code", "message", "details", "traceId"}


def test_the_edits_meet_what_serve_writes() -> None:
    """When Ray changes its template, the edits would do nothing and say nothing."""
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    for line in (
        "    bind :{{ config.metrics_port }}",
        "  bind *:{{ config.stats_port }}",
        "    stats socket {{ config.socket_path }} mode 666 ",
        "    option abortonclose\n",
        "timeout client {{",
        "    errorfile 502 ",
        "    errorfile 503 ",
        "    errorfile 504 ",
        "    http-request return status 404 content-type text/plain lf-string ",
    ):
        assert line in HAPROXY_CONFIG_TEMPLATE, line


def test_a_websocket_is_not_cut_by_the_limits_of_requests(
    haproxy: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """The real HAProxy has read this file and runs."""
    lines = [line.strip() for line in (tmp_path / "haproxy.cfg").read_text().splitlines()]
    assert lines.count("timeout tunnel 3600s") == 1
    assert lines.index("timeout tunnel 3600s") == lines.index("timeout client 5s") + 1
    assert haproxy.poll() is None


def test_editing_twice_changes_nothing_more(tmp_path: Path, ports: dict[str, int]) -> None:
    layout = Layout(tmp_path)
    layout.make()
    write_wrapper(layout, Settings(home=tmp_path))
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(folder=tmp_path, **ports))
    edits = layout.runtime / "haproxy" / "edits.sed"

    def edit() -> str:
        subprocess.run(["sed", "-i", "-f", str(edits), str(config)], check=True)
        return config.read_text()

    once = edit()
    assert once != CONFIG.format(folder=tmp_path, **ports)
    assert edit() == once
    assert once.count("option forwardfor") == 1
    assert json.dumps(NO_TRACE).strip('"') in once
