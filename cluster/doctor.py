"""Look at everything that can be wrong before or while it runs; each finding says what to do."""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from cluster.downloads import artefacts, store_of
from cluster.embedded.evm import EvmNode, EvmStandby
from cluster.embedded.ray_head import RayHead
from cluster.embedded.service import Service
from cluster.layout import Layout, resolve
from cluster.preflight import MINIMUM_TO_START, free_bytes, port_is_free
from cluster.processes import descendants, find_instance, listeners, port_holder
from cluster.state import is_locked, read_state
from mesh.core.settings import Settings, config_file

Level = Literal["ok", "warning", "problem"]

MEMORY_NEEDED = 3_000_000_000
"""Bytes available: Ray's processes take about 100 MB each, models and torch about 1 GB."""
SOCKET_LIMIT_BYTES = 107


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    level: Level
    detail: str
    fix: str = ""


def examine(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Blocks for up to a few seconds. Makes nothing: a home that is not there stays so."""
    layout = Layout(settings.home)
    running = is_locked(layout.lock)
    resolved = resolve(settings) if layout.secrets.is_dir() else settings
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        lambda: _config(settings, environ),
        lambda: _disk(settings, layout),
        _memory,
        lambda: _clock(resolved, running),
        lambda: _files(settings, environ),
        lambda: _ports(settings, layout, running),
        lambda: _secrets(layout),
        lambda: _auth(settings, environ),
        lambda: _leftovers(settings, layout, running),
        lambda: _listening(settings, layout, running),
    ]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings.extend(check())
        except (OSError, psutil.Error) as error:
            findings.append(Finding("doctor", "warning", f"could not look: {error}"))
    return findings


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info[:2] == (3, 11):
        yield Finding("python", "ok", version)
    else:
        yield Finding("python", "problem", version, "use Python 3.11: the wheels are made for it")


def _config(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    path = config_file(settings.home, environ)
    yield Finding("settings", "ok", f"{path or 'defaults'}, profile {settings.profile}")


def _disk(settings: Settings, layout: Layout) -> Iterator[Finding]:
    for name, path in (("home", settings.home), ("runtime", layout.runtime)):
        free = free_bytes(path)
        level: Level = "ok" if free > 4 * MINIMUM_TO_START else "warning"
        if free < MINIMUM_TO_START:
            level = "problem"
        fix = "" if level == "ok" else "free some space, or set MAILY_HOME to a larger disk"
        yield Finding("disk", level, f"{name} {path}: {free / 1e9:.1f} GB free", fix)


def _memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available
    enough = free > MEMORY_NEEDED
    fix = "" if enough else "end other programs, or run with agents.workers = 1"
    yield Finding("memory", "ok" if enough else "warning", f"{free / 1e9:.1f} GB available", fix)


def _clock(settings: Settings, running: bool) -> Iterator[Finding]:
    """Leases and tokens rest on it: ours against the database's."""
    if time.time() < 1_700_000_000:
        yield Finding("clock", "problem", time.ctime(), "set the clock: it is years behind")
        return
    if not running:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))
        return
    try:
        offset = asyncio.run(_database_offset(settings))
    except Exception as error:  # the database's own check reports it
        yield Finding("clock", "warning", f"the database's time is not known: {error}")
        return
    good = abs(offset) < 2.0
    fix = "" if good else "synchronise the clocks of this machine and the database (NTP)"
    yield Finding("clock", "ok" if good else "problem", f"database {offset:+.2f} s", fix)


async def _database_offset(settings: Settings) -> float:
    import asyncpg

    connection = await asyncpg.connect(settings.postgres_url, timeout=3.0)
    try:
        theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    finally:
        connection.terminate()
    return float(theirs) - time.time()


def _files(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Present, and their sums where one is known."""
    from mesh.llm.download import file_digest
    from mesh.llm.known import KNOWN_SHA256
    from mesh.llm.store import folder_sha256

    store = store_of(settings, environ)
    for artefact in artefacts(settings):
        path = store.path(artefact.source)
        if path is None:
            yield Finding("files", "warning", f"{artefact.name} is not here", "maily models pull")
            continue
        expected = artefact.sha256 or KNOWN_SHA256.get(artefact.source)
        if expected is None:
            yield Finding("files", "ok", f"{artefact.name}: here, no sum to check it against")
        elif (folder_sha256(path) if path.is_dir() else file_digest(path)) == expected:
            yield Finding("files", "ok", f"{artefact.name}: here, its sum is right")
        else:
            fix = f"remove {path} and run `maily models pull`"
            yield Finding("files", "problem", f"{artefact.name}: its sum is wrong", fix)


def _ports(settings: Settings, layout: Layout, running: bool) -> Iterator[Finding]:
    if settings.profile != "embedded":
        return
    services: list[Service] = [RayHead(settings, layout)]
    if settings.evm.enabled:
        services.append(EvmNode(settings, layout))
        if settings.evm.standby:
            services.append(EvmStandby(settings, layout))
    ports = {name: port for service in services for name, port in service.ports().items()}
    if running:
        yield Finding("ports", "ok", "in use by the running instance: " + _listed(ports))
        return
    taken = {name: port for name, port in ports.items() if not port_is_free(port)}
    if not taken:
        yield Finding("ports", "ok", "free: " + _listed(ports))
    for name, port in taken.items():
        variable = f"MAILY_{name.upper().replace('.', '__')}"
        yield Finding(
            "ports",
            "problem",
            f"port {port} ({name}) is taken by {port_holder(port) or 'a process'}",
            f"end that process, or set {variable} to another port",
        )


def _listed(ports: Mapping[str, int]) -> str:
    return ", ".join(f"{port} ({name})" for name, port in ports.items())


def _secrets(layout: Layout) -> Iterator[Finding]:
    if not layout.secrets.exists():
        return
    for path in (layout.secrets, *layout.secrets.iterdir()):
        if path.stat().st_mode & 0o077:
            yield Finding("secrets", "problem", f"{path} is open to others", f"chmod go= {path}")
            return
    yield Finding("secrets", "ok", f"{layout.secrets} is yours alone")


def _auth(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Our own Ray always asks for a token; a Ray of yours should."""
    if settings.profile == "embedded":
        yield Finding("ray auth", "ok", "RAY_AUTH_MODE=token")
    elif environ.get("RAY_AUTH_MODE") == "token":
        yield Finding("ray auth", "ok", "RAY_AUTH_MODE=token here; see that the cluster has it")
    else:
        fix = "set RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN) here and on the cluster"
        yield Finding("ray auth", "problem", "RAY_AUTH_MODE is not token", fix)


def _leftovers(settings: Settings, layout: Layout, running: bool) -> Iterator[Finding]:
    if running or settings.profile != "embedded":
        return
    state = read_state(layout)
    recorded = state.recorded() if state else []
    left = find_instance(layout.instance, recorded, (layout.postgres_data,))
    if left:
        pids = ", ".join(str(process.pid) for process in left[:10])
        yield Finding("leftovers", "problem", f"{len(left)} processes: {pids}", "maily down")
    else:
        yield Finding("leftovers", "ok", "no process of an earlier run")


def _listening(settings: Settings, layout: Layout, running: bool) -> Iterator[Finding]:
    """Every TCP socket of ours that other machines could reach."""
    state = read_state(layout)
    if not running or state is None:
        return
    ours = [*descendants(state.pid), *find_instance(layout.instance)]
    found = listeners({process.pid: process for process in ours}.values())
    wide = [item for item in found if not item.loopback]
    for item in wide:
        where = f"{item.name} (pid {item.pid}) listens on {item.address}:{item.port}"
        if item.port == settings.gateway.port and settings.gateway.host != "127.0.0.1":
            yield Finding("listening", "ok", f"{where}, as gateway.host says")
        else:
            yield Finding("listening", "problem", where, "keep a firewall before it")
    if not wide:
        yield Finding("listening", "ok", f"{len(found)} sockets, all on loopback")


def as_json(findings: list[Finding]) -> dict[str, Any]:
    return {
        "healthy": all(finding.level != "problem" for finding in findings),
        "findings": [
            {"check": f.check, "level": f.level, "detail": f.detail, "fix": f.fix} for f in findings
        ],
    }
