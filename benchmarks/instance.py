"""A running instance, found through what it says of itself (``maily status --json``)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cluster.health import check_all
from cluster.layout import resolve
from cluster.processes import descendants
from mesh.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.storage.pool import Database

OTHER_WORKSPACE = "another-workspace"
_UNSAFE = frozenset({6566, *range(6665, 6670), 6679, 6697})
"""Ports that browsers refuse to open a page from."""


@dataclass(frozen=True, slots=True)
class Instance:
    """Where it answers, with which key, and which processes it is made of."""

    url: str
    key: str
    model: str
    supervisor: int
    """Process id; every other process of the instance descends from it."""
    settings: Settings = field(repr=False)

    @classmethod
    def from_status(cls, status: Mapping[str, Any], environ: Mapping[str, str]) -> Instance:
        """From the answer of ``maily status --json`` and the environment that it was given."""
        if not status.get("running"):
            raise RuntimeError("nothing runs here: start it with `maily up --detach`")
        settings = resolve(load_settings({"home": status["home"]}, environ))
        key = Path(status["apiKeyFile"]).read_text().strip()
        return cls(settings.gateway_url, key, settings.llm.model, status["pid"], settings)

    async def healthy(self) -> bool:
        """Asked aside: whoever measures meanwhile shares no event loop with the questions."""
        parts = await asyncio.to_thread(lambda: asyncio.run(check_all(self.settings)))
        return all(part.healthy for part in parts)

    async def wait_healthy(self, timeout_s: float) -> None:
        """Raises RuntimeError with what is unwell after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while True:
            sick = [part for part in await check_all(self.settings) if not part.healthy]
            if not sick:
                return
            if time.monotonic() > until:
                raise RuntimeError("; ".join(f"{part.part}: {part.detail}" for part in sick))
            await asyncio.sleep(0.25)

    def processes(self) -> list[psutil.Process]:
        return descendants(self.supervisor)

    def engine_arguments(self) -> list[str]:
        """For ``benchmarks.bare_llama``: the very options that the runtime gives its engine."""
        from mesh.llm.store import ModelStore
        from serve_apps.llm.engines import llamacpp_options

        llm = self.settings.llm
        path = ModelStore(self.settings.store_directory).require(llm.source)
        return [str(path), llm.model, json.dumps(asdict(llamacpp_options(llm)))]

    async def expired_token(self) -> str:
        """A token that the instance signed and that ran out an hour ago."""
        from mesh.core.clock import VirtualClock
        from mesh.security.keys import KeyService
        from mesh.security.tokens import TokenService

        security = self.settings.security
        assert security.secret is not None
        past = VirtualClock(time.time() - 3_600 - security.token_ttl_s)
        async with self.database() as db:
            principal = await KeyService(db, past).verify(self.key)
            tokens = TokenService(
                db, security, security.secret.get_secret_value().encode(), clock=past
            )
            return await tokens.issue(principal)

    async def other_key(self) -> str:
        """An API key with every scope in another workspace."""
        from mesh.core.clock import SystemClock
        from mesh.security.keys import KeyService
        from mesh.security.scopes import ALL_SCOPES

        async with self.database() as db:
            keys = KeyService(db, SystemClock())
            await keys.ensure_workspace(OTHER_WORKSPACE)
            made = await keys.create(
                OTHER_WORKSPACE, "demonstration", sorted(ALL_SCOPES), expires_in_s=3_600
            )
            return made.key

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        from mesh.storage.pool import Database

        opened = await Database.open(self.settings.postgres_url, max_size=2)
        try:
            yield opened
        finally:
            await opened.aclose()


def find_instance(environ: Mapping[str, str] = os.environ) -> Instance:
    """The instance of ``$MAILY_HOME``. Raises RuntimeError when none runs."""
    command = [sys.executable, "-m", "cluster.cli", "status", "--json"]
    done = subprocess.run(command, env=dict(environ), capture_output=True, check=False)
    return Instance.from_status(json.loads(done.stdout), environ)


def free_ports() -> dict[str, str]:
    """``MAILY_*`` variables that give an instance ports which nobody listens on now."""
    names = (
        "MAILY_GATEWAY__PORT",
        "MAILY_GATEWAY__HAPROXY_METRICS_PORT",
        "MAILY_GATEWAY__HAPROXY_STATS_PORT",
        "MAILY_RAY__PORT",
        "MAILY_RAY__DASHBOARD_PORT",
        "MAILY_EVM__PORT",
        "MAILY_EVM__STANDBY_PORT",
    )
    with ExitStack() as stack:  # all open at once, so that no port comes twice
        ports = {name: str(port) for name, port in zip(names, _ports(stack), strict=False)}
    # Ranges apart from the defaults, so that a second instance fits beside a first.
    start = 31_000 + 20 * (os.getpid() % 80)
    ports["MAILY_GATEWAY__DIRECT_PORT_MIN"] = str(start)
    ports["MAILY_GATEWAY__DIRECT_PORT_MAX"] = str(start + 19)
    ports["MAILY_RAY__WORKER_PORT_MIN"] = str(20_000 + 150 * (os.getpid() % 60))
    ports["MAILY_RAY__WORKER_PORT_MAX"] = str(20_000 + 150 * (os.getpid() % 60) + 140)
    return ports


def _ports(stack: ExitStack) -> Iterator[int]:
    # Below the range that the kernel gives to outgoing connections, which would take them away.
    port = 6_000 + 37 * (os.getpid() % 100)
    while True:
        port += 1
        if port in _UNSAFE:
            continue
        candidate = stack.enter_context(socket.socket())
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            continue
        yield port
