"""From a clean clone with a fresh HOME: make run, status, down, and a quick second start."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.show.table import Claim
from cluster.processes import descendants, is_alive, listeners

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Clone:
    """A clean clone with a HOME of its own. Ports come from the environment given."""

    folder: Path
    environ: dict[str, str]

    @property
    def maily(self) -> str:
        return str(self.folder / "repo" / ".venv" / "bin" / "maily")

    async def run(self, *command: str, timeout_s: float) -> tuple[int, str]:
        """Run a command in the clone; returns its exit status and everything it printed."""
        log = self.folder / "command.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self.folder / "repo",
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                status = await asyncio.wait_for(process.wait(), timeout_s)
            except TimeoutError:
                process.kill()
                status = -1
        return status, log.read_text(errors="replace")

    async def status(self) -> dict[str, Any]:
        _, text = await self.run(self.maily, "status", "--json", timeout_s=60)
        return dict(json.loads(text))


def make_clone(folder: Path, ports: dict[str, str]) -> Clone:
    """Clone what is committed into ``folder/repo``, with ``folder/home`` as HOME."""
    folder.mkdir(parents=True)
    (folder / "home").mkdir()
    subprocess.run(
        ["git", "clone", "--quiet", str(REPOSITORY), str(folder / "repo")],
        check=True,
    )
    keep = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAILY_", "RAY_", "VIRTUAL_ENV", "XDG_", "PYTHON"))
    }
    return Clone(folder, {**keep, **ports, "HOME": str(folder / "home")})


def clone_processes(status: dict[str, Any]) -> list[psutil.Process]:
    """The supervisor and all that descends from it."""
    return [psutil.Process(status["pid"]), *descendants(status["pid"])]


def answers(address: str) -> bool:
    """Whether anyone accepts connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


async def run(clone: Clone) -> list[Claim]:
    """Leaves the instance running, started by the second ``make run``."""
    claims = []
    started = time.monotonic()
    code, output = await clone.run("make", "run", "DETACH=1", timeout_s=1200)
    first = time.monotonic() - started
    claims.append(
        Claim(
            "clean clone, fresh HOME: make run DETACH=1",
            f"exit {code} after {first:.0f} s" + ("" if code == 0 else f": {output[-300:]}"),
            "exit 0",
            code == 0,
        )
    )
    if code != 0:
        return claims
    status = await clone.status()
    sick = [f"{p['part']}: {p['detail']}" for p in status["parts"] if not p["healthy"]]
    claims.append(
        Claim(
            "maily status --json",
            f"{len(status['parts']) - len(sick)}/{len(status['parts'])} parts healthy"
            + "".join(f"; {part}" for part in sick),
            "every part healthy",
            not sick and bool(status["healthy"]),
        )
    )
    running = clone_processes(status)
    heard = listeners(running)
    sockets = sorted({f"{one.address}:{one.port}" for one in heard})
    wide = sorted({f"{one.name} {one.address}:{one.port}" for one in heard if not one.loopback})
    claims.append(
        Claim(
            "listening sockets",
            f"{len(sockets)} by {len(running)} processes, beyond loopback: {wide or 'none'}",
            "loopback alone",
            not wide and bool(sockets),
        )
    )
    code, output = await clone.run(clone.maily, "down", timeout_s=120)
    await asyncio.sleep(1)
    left = [process for process in running if is_alive(process)]
    open_still = [address for address in sockets if answers(address)]
    claims.append(
        Claim(
            "maily down",
            f"exit {code}; of {len(running)} processes {len(left)} are left, "
            f"of {len(sockets)} sockets {len(open_still)}",
            "no process, no socket",
            code == 0 and not left and not open_still,
        )
    )
    started = time.monotonic()
    code, output = await clone.run(clone.maily, "up", "--detach", timeout_s=300)
    up = time.monotonic() - started
    await clone.run(clone.maily, "down", timeout_s=120)
    started = time.monotonic()
    code, output = await clone.run("make", "run", "DETACH=1", timeout_s=300)
    second = time.monotonic() - started
    claims.append(
        Claim(
            "second make run",
            f"up in {up:.1f} s (maily up --detach); make run with its email {second:.1f} s",
            "up in ≤ 30 s",
            code == 0 and up <= 30.0,
        )
    )
    return claims


def remove(clone: Clone) -> None:
    shutil.rmtree(clone.folder, ignore_errors=True)
