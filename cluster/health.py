"""Ask every part how it is: in its own protocol, all at once, each with a deadline.

``maily status`` and the demonstrations use this. Nothing here imports Ray: its dashboard answers
over HTTP. A part is healthy when it answered just now; what the supervisor believes is only the
reason given when it did not.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import asyncpg
import httpx

from actors.names import (
    EMBEDDER_DEPLOYMENT,
    GATEWAY_APP,
    LLM_APP,
    engine_app,
    engine_deployment,
)
from actors.snapshots import newest, read_snapshots
from cluster.layout import Layout
from mesh.contracts.mesh import Snapshot
from mesh.core.ring import Ring
from mesh.core.settings import Settings
from mesh.memory.placement import RING as MEMORY
from mesh.streams.connect import connect
from mesh.trust.placement import ANCHORING
from mesh.trust.placement import RING as TRUST

LIMIT_S = 4.0
SNAPSHOT_FRESH_S = 5.0
_HELD = """
SELECT key FROM leases
WHERE (starts_with(key, $1) OR starts_with(key, $2)) AND expires_at > now()
"""

_PENDING = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(closed_at)), 0)::float8,
    EXISTS (SELECT FROM leases WHERE key = $1 AND expires_at > now())
FROM trust_batches WHERE root IS NOT NULL AND state IN ('included', 'submitted', 'orphaned')
"""


@dataclass(frozen=True, slots=True)
class PartHealth:
    part: str
    healthy: bool
    detail: str
    """What it said, or why it is not healthy."""
    seconds: float = 0.0
    """How long the answer took."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Check = Callable[[], Awaitable[str]]


async def check_all(settings: Settings) -> list[PartHealth]:
    """``settings`` must be resolved (``cluster.layout.resolve``). Takes at most ``LIMIT_S``."""
    serve = asyncio.create_task(_serve_applications(settings))
    snapshots = asyncio.create_task(_snapshots(settings))
    checks: dict[str, Check] = {
        "postgres": lambda: _postgres(settings),
        "valkey": lambda: _valkey(settings),
    }
    if settings.evm.enabled and settings.evm.url:
        checks["evm"] = lambda: _evm(str(settings.evm.url))
        if settings.profile == "embedded" and settings.evm.standby:
            checks["evm-standby"] = lambda: _evm(f"http://127.0.0.1:{settings.evm.standby_port}")
    checks["ray"] = lambda: _ray(settings)
    if settings.profile == "embedded":  # elsewhere the gateway's readiness speaks for the models
        for name, engine in settings.llm.engine_table().items():
            app, deployment = engine_app(name, engine.kind), engine_deployment(name)
            checks[deployment.lower()] = partial(_deployment, serve, app, deployment)
        checks["embedder"] = lambda: _deployment(serve, LLM_APP, EMBEDDER_DEPLOYMENT)
    checks["gateway"] = lambda: _gateway(settings, serve)
    checks["coordinator"] = lambda: _coordinator(snapshots, settings.agents.coordinators)
    if settings.memory.hosts:
        checks["memory"] = lambda: _memory(settings)
    if settings.trust.hosts:
        checks["trust"] = lambda: _trust(settings)
    checks["workers"] = lambda: _workers(snapshots, settings.agents.workers)
    if settings.gateway.haproxy and settings.profile == "embedded":
        checks["haproxy"] = lambda: _haproxy(settings)
    try:
        return list(await asyncio.gather(*(_timed(name, run) for name, run in checks.items())))
    finally:
        for task in (serve, snapshots):
            task.cancel()
        await asyncio.gather(serve, snapshots, return_exceptions=True)


async def _timed(name: str, check: Check) -> PartHealth:
    began = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT_S):
            detail = await check()
    except TimeoutError:
        return PartHealth(name, False, f"no answer within {LIMIT_S:g} s", LIMIT_S)
    except Exception as error:  # whatever its client raises: the part is not well
        words = str(error) or type(error).__name__
        return PartHealth(name, False, words[:500], round(time.monotonic() - began, 4))
    return PartHealth(name, True, detail, round(time.monotonic() - began, 4))


def _http() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=LIMIT_S, trust_env=False, verify=_trusted())


@cache
def _trusted() -> ssl.SSLContext:
    """Once: reading all the authorities takes longer than most of the questions."""
    return httpx.create_ssl_context()


async def _postgres(settings: Settings) -> str:
    connection = await asyncpg.connect(settings.postgres_url, timeout=LIMIT_S)
    try:
        version = await connection.fetchval("SHOW server_version")
    finally:
        connection.terminate()
    return f"PostgreSQL {version}"


async def _valkey(settings: Settings) -> str:
    client = connect(settings.redis_url, max_connections=1, timeout_s=LIMIT_S)
    try:
        info = await client.info("server")
    finally:
        await client.aclose()
    name = "Valkey" if "valkey_version" in info else "Redis"
    return f"{name} {info.get('valkey_version') or info.get('redis_version')}"


async def _evm(url: str) -> str:
    async with _http() as client:
        response = await client.post(
            url, json={"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}
        )
    return f"block {int(response.json()['result'], 16)}"


async def _ray(settings: Settings) -> str:
    if settings.profile != "embedded":
        host, _, port = str(settings.ray.address).rpartition(":")
        _, writer = await asyncio.open_connection(host.removeprefix("ray://"), int(port))
        writer.close()
        return f"GCS listens at {settings.ray.address}"
    answer = await _dashboard(settings, "/api/version")
    return f"Ray {answer.get('ray_version')}"


async def _serve_applications(settings: Settings) -> dict[str, Any]:
    answer = await _dashboard(settings, "/api/serve/applications/")
    applications: dict[str, Any] = answer["applications"]
    return applications


async def _dashboard(settings: Settings, path: str) -> dict[str, Any]:
    if settings.profile != "embedded":
        raise RuntimeError("only known in the embedded profile")
    token = Layout(settings.home).secret("ray-token")
    async with _http() as client:
        response = await client.get(
            f"http://127.0.0.1:{settings.ray.dashboard_port}{path}",
            headers={"authorization": f"Bearer {token}"},
        )
    if response.status_code != 200:
        raise RuntimeError(f"Ray's dashboard says {response.status_code}: {response.text[:200]}")
    answer: dict[str, Any] = response.json()
    return answer


async def _deployment(serve: asyncio.Task[dict[str, Any]], app: str, name: str) -> str:
    applications = await asyncio.shield(serve)
    if app not in applications:
        raise RuntimeError(f"the application {app} is not deployed")
    deployments = applications[app]["deployments"]
    if name not in deployments:
        raise RuntimeError(f"the deployment {name} is not there")
    return _replicas(deployments[name])


def _replicas(deployment: dict[str, Any]) -> str:
    states = [replica["state"] for replica in deployment["replicas"]]
    running = states.count("RUNNING")
    words = f"{running} of {deployment['target_num_replicas']} replicas run"
    if deployment["status"] != "HEALTHY" or running < deployment["target_num_replicas"]:
        raise RuntimeError(f"{words} ({deployment['status']}): {deployment['message']}"[:400])
    return words


async def _gateway(settings: Settings, serve: asyncio.Task[dict[str, Any]]) -> str:
    """Its own readiness, as clients see it, and its replicas."""
    async with _http() as client:
        response = await client.get(f"{settings.gateway_url}/readyz")
    if response.status_code != 200:
        raise RuntimeError(f"/readyz says {response.status_code}: {response.text[:300]}")
    if settings.profile != "embedded":
        return "ready"
    deployments = (await asyncio.shield(serve))[GATEWAY_APP]["deployments"]
    return "ready, " + ", ".join(_replicas(item) for item in deployments.values())


async def _haproxy(settings: Settings) -> str:
    """Serve's own health rule in HAProxy: at least one replica of a backend is up."""
    async with _http() as client:
        response = await client.get(f"{settings.gateway_url}/-/healthz")
    if response.status_code != 200:
        raise RuntimeError(f"/-/healthz says {response.status_code}: {response.text[:200]}")
    return f"listens on {settings.gateway.host}:{settings.gateway.port}"


async def _snapshots(settings: Settings) -> dict[int, Snapshot]:
    client = connect(settings.redis_url, max_connections=1, timeout_s=LIMIT_S)
    try:
        return await read_snapshots(client, settings.agents.coordinators)
    finally:
        await client.aclose()


async def _coordinator(task: asyncio.Task[dict[int, Snapshot]], shards: int) -> str:
    snapshots = await asyncio.shield(task)
    newer = [s for s in snapshots.values() if time.time() - s.at <= SNAPSHOT_FRESH_S]
    last = newest(snapshots)
    if last is None:
        raise RuntimeError("no shard has published a snapshot of late")
    age = max(0.0, time.time() - last.at)
    words = f"{len(newer)} of {shards} shards publish, the newest snapshot is {age:.1f} s old"
    if len(newer) < shards:
        raise RuntimeError(words)
    return words


async def _memory(settings: Settings) -> str:
    return await _owners(settings, MEMORY, settings.memory.hosts)


async def _trust(settings: Settings) -> str:
    words = await _owners(settings, TRUST, settings.trust.hosts)
    connection = await asyncpg.connect(settings.postgres_url, timeout=LIMIT_S)
    try:
        pending = await connection.fetchrow(_PENDING, ANCHORING)
    finally:
        connection.terminate()
    count, oldest_s, spoken = pending or (0, 0.0, False)
    words += f"; {count} batches wait for a network, the oldest for {oldest_s:.0f} s"
    if not spoken:
        words += "; nobody speaks to the networks"
    if oldest_s > settings.trust.pending_alarm_s or not spoken:
        raise RuntimeError(words)
    return words


async def _owners(settings: Settings, ring: Ring, wanted: int) -> str:
    """The shards' leases in the database say who owns them."""
    connection = await asyncpg.connect(settings.postgres_url, timeout=LIMIT_S)
    try:
        rows = await connection.fetch(_HELD, ring.host_prefix, ring.shard_prefix)
    finally:
        connection.terminate()
    keys = [row["key"] for row in rows]
    hosts = sum(key.startswith(ring.host_prefix) for key in keys)
    words = f"{hosts} of {wanted} hosts own {len(keys) - hosts} of {ring.shards} shards"
    if hosts < wanted or len(keys) - hosts < ring.shards:
        raise RuntimeError(words)
    return words


async def _workers(task: asyncio.Task[dict[int, Snapshot]], wanted: int) -> str:
    snapshot = newest(await asyncio.shield(task))
    workers = () if snapshot is None else snapshot.workers
    slots = sum(worker.slots for worker in workers)
    active = sum(worker.active for worker in workers)
    words = f"{len(workers)} of {wanted} workers, {active} of {slots} slots busy"
    if len(workers) < wanted:
        raise RuntimeError(words)
    return words
