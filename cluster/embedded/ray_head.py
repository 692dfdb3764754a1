"""The Ray head on loopback, and the environment that every Ray process of ours shares."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence

import psutil

from cluster.embedded.service import Service
from cluster.failures import Failure
from cluster.haproxy import write_wrapper
from cluster.layout import Layout
from cluster.loopback import LOOPBACK_VARIABLE
from cluster.processes import INSTANCE_VARIABLE
from mesh.core.settings import SETTINGS_VARIABLE, Settings, settings_to_json

DRAIN_S = 2
"""How long a replica of the embedded profile is drained: `maily down` shall be quick."""
SESSIONS_KEPT = 3


def ray_environment(settings: Settings, layout: Layout) -> dict[str, str]:
    """Variables of the head, of every worker (they inherit them) and of every driver."""
    gateway = settings.gateway
    # HAProxy's own directory: Serve adds the node's id (56 digits), and HAProxy takes paths of at
    # most 97 bytes. So every name here is short; see Layout.
    sockets = layout.haproxy_sockets
    sockets.mkdir(mode=0o700, exist_ok=True)
    variables = {
        INSTANCE_VARIABLE: layout.instance,
        SETTINGS_VARIABLE: settings_to_json(settings),
        "PROMETHEUS_MULTIPROC_DIR": str(layout.metrics),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray starts workers at nice 15: on a busy machine the engine and the gateway would starve.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if gateway.haproxy else "0",
        # llama.cpp's and torch's threads are set by us, not guessed from the core count.
        "TOKENIZERS_PARALLELISM": "false",
        # Nothing is fetched behind the model store's back.
        "HF_HUB_OFFLINE": "1",
    }
    if settings.profile != "embedded":
        return variables
    threads = max(1, min(4, os.cpu_count() or 1))
    variables |= {
        LOOPBACK_VARIABLE: "1",
        "RAY_AUTH_TOKEN": layout.secret("ray-token"),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_wrapper(layout, settings)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(gateway.haproxy_metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(gateway.haproxy_stats_port),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(threads),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(gateway.direct_port_min),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(gateway.direct_port_max - 2),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(gateway.direct_port_max),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(gateway.direct_port_max - 1),
        # A dead HAProxy is noticed in about 3 s instead of 30 (three failed checks in a row).
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # On a busy machine it needs more than the 5 s after which it would be killed and tried
        # anew, again and again.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    }
    return variables


class RayHead(Service):
    name = "ray"
    title = "Ray"
    start_timeout_s = 60.0
    stop_timeout_s = 6.0
    unresponsive_s = 30.0
    end_orphans: Callable[[], None] | None = None
    """Ends what a dead head left running (it holds the ports). Blocks."""

    def ports(self) -> Mapping[str, int]:
        ray, gateway = self.settings.ray, self.settings.gateway
        ports = {
            "ray.port": ray.port,
            "ray.dashboard_port": ray.dashboard_port,
            "gateway.port": gateway.port,
        }
        if gateway.haproxy:
            ports["gateway.haproxy_metrics_port"] = gateway.haproxy_metrics_port
            ports["gateway.haproxy_stats_port"] = gateway.haproxy_stats_port
        return ports

    async def prepare(self) -> None:
        await asyncio.to_thread(self._tidy)

    def _tidy(self) -> None:
        """What a dead head left; old sessions (logs of earlier runs)."""
        if self.end_orphans is not None:
            self.end_orphans()
        self.layout.ray_temp.mkdir(exist_ok=True)
        shutil.rmtree(self.layout.haproxy_sockets, ignore_errors=True)  # of nodes that are gone
        sessions = sorted(self.layout.ray_temp.glob("session_2*"), key=lambda path: path.name)
        for session in sessions[: -SESSIONS_KEPT + 1 or None]:
            shutil.rmtree(session, ignore_errors=True)

    def command(self) -> Sequence[str]:
        ray = self.settings.ray
        cpus = ray.cpus or os.cpu_count() or 1
        return [
            *(sys.executable, "-m", "cluster.loopback", "start", "--head"),
            *("--node-ip-address=127.0.0.1", f"--port={ray.port}"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
            f"--dashboard-port={ray.dashboard_port}",
            "--dashboard-agent-listen-port=0",
            f"--min-worker-port={ray.worker_port_min}",
            f"--max-worker-port={ray.worker_port_max}",
            *(f"--num-cpus={cpus}", f"--object-store-memory={ray.object_store_bytes}"),
            f"--temp-dir={self.layout.ray_temp}",
            *("--disable-usage-stats", "--no-monitor", "--include-log-monitor=false", "--block"),
        ]

    def environ(self) -> dict[str, str]:
        return {**os.environ, **ray_environment(self.settings, self.layout)}

    async def probe(self) -> None:
        """GCS's own health service (gRPC), as Ray's raylets ask it."""
        await check_gcs(f"127.0.0.1:{self.settings.ray.port}", self.layout.secret("ray-token"))

    def version(self) -> str:
        from importlib.metadata import version

        return version("ray")

    def explain_exit(self, code: int) -> Failure:
        failure = super().explain_exit(code)
        text = self.last_words(lines=30)
        if match := re.search(r"address already in use|port \d+ .*in use", text, re.IGNORECASE):
            failure.fix = f"{match.group(0)}: choose other ports, e.g. MAILY_RAY__PORT=7400"
        return failure


async def check_gcs(address: str, token: str) -> None:
    """grpc.health.v1.Health/Check of the GCS. Raises when it does not say SERVING."""
    import grpc

    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        answer = await check(b"", timeout=2.0, metadata=(("authorization", f"Bearer {token}"),))
    if answer != b"\x08\x01":  # field 1 (status) = 1 (SERVING)
        raise RuntimeError(f"GCS is not serving: {answer!r}")


def is_of_ray(process: psutil.Process, layout: Layout) -> bool:
    """Whether Ray started it: a server of its session, a worker, HAProxy."""
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        return bool(command) and (
            command[0].startswith("ray::")
            or any(str(layout.ray_temp) in part for part in command)
            or any(str(layout.haproxy_sockets) in part for part in command)
        )
    return False


def forget_sockets(layout: Layout) -> None:
    """Remove socket files that Ray, HAProxy and the databases left in our directories."""
    for path in (*layout.runtime.rglob("*"), *layout.postgres_sockets.glob(".s.PGSQL.*")):
        with contextlib.suppress(OSError):
            if path.is_socket() or path.name.endswith(".lock"):
                path.unlink()
