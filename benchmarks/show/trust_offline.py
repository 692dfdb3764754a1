"""The stand-alone verifier where there is nothing: its one file in an empty folder, no network, an
environment that holds ``cryptography`` alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.instance import Instance
from benchmarks.peers import FOLDER
from benchmarks.report import percentile
from benchmarks.show.table import Claim
from benchmarks.trustworks.tampered import Desk, Paper
from mesh.trust.standalone import maily_verify

ALONE = FOLDER / "verifier"
PATIENCE_S = 60.0
INSTALL_S = 600.0
PROJECT = ("mesh", "actors", "serve_apps", "cluster", "benchmarks", "tests")
NAMESPACE = ("unshare", "--map-root-user", "--net", "--")
PROBE = """
import socket
try:
    socket.create_connection(("192.0.2.1", 443), 2)
except OSError as error:
    print("no way out:", error.strerror)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """One run of the verifier."""

    code: int
    verdict: dict[str, Any]
    modules: frozenset[str]
    """All that it imported."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where it runs: an empty folder, an interpreter, and what stands before the command."""

    folder: Path
    python: Path
    before: tuple[str, ...]

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """In an empty environment; nothing of ours is on its path. Raises TimeoutError."""
        process = await asyncio.create_subprocess_exec(
            *self.before,
            *arguments,
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.folder)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return process.returncode or 0, out.decode(), err.decode()

    async def verify(self, paper: Paper) -> Done:
        arguments = self.written(paper)
        began = time.perf_counter()
        code, out, err = await self.run(
            str(self.python), "-I", "-X", "importtime", "maily_verify.py", *arguments
        )
        seconds = time.perf_counter() - began
        names = re.findall(r"(?m)^import time:[^|]+\|[^|]+\|\s*(\S+)$", err)
        try:
            verdict = json.loads(out)
        except ValueError:
            verdict = {"reason": (out + re.sub(r"(?m)^import time.*\n?", "", err))[-300:]}
        return Done(code, verdict, frozenset(names), seconds)

    def written(self, paper: Paper) -> list[str]:
        """The files of a paper and the arguments that name them."""
        files = {
            "certificate": paper.certificate,
            "message.eml": paper.message,
            "receipt.json": paper.receipt,
            "revocation.json": paper.revocation,
        }
        for name, data in files.items():
            if data is not None:
                (self.folder / name).write_bytes(data)
        arguments = ["certificate", "message.eml", "--key", paper.key]
        if paper.receipt is not None:
            arguments += ["--receipt", "receipt.json"]
            arguments += [word for block in paper.blocks for word in ("--block", block)]
        if paper.revocation is not None:
            arguments += ["--revocation", "revocation.json"]
        return arguments


async def run(instance: Instance | None, full: bool) -> list[Claim]:
    """Needs no instance. Some seconds, once its environment is made."""
    python, packages = await environment()
    with tempfile.TemporaryDirectory(prefix="maily-offline-") as name:
        before = NAMESPACE if await _works(NAMESPACE) else ()
        place = Place(Path(name), python, before)
        shutil.copy(maily_verify.__file__, place.folder / "maily_verify.py")
        desk = await asyncio.to_thread(Desk, 1_000_000 if full else 10_000)
        genuine = [(paper, await place.verify(paper)) for paper in desk.genuine()]
        tampered = [(paper, await place.verify(paper)) for paper in desk.tampered()]
        return [
            _papers("stand-alone verifier, genuine papers", genuine),
            _papers("… tampered ones, each told by its step", tampered),
            await _network(place),
            _reach([done for _, done in genuine + tampered], packages),
            await _calls(place, desk),
        ]


async def environment() -> tuple[Path, list[str]]:
    """An interpreter with ``cryptography`` and what that needs, and the packages that it has."""
    python = ALONE / "bin" / "python"
    if not (ALONE / ".installed").exists():
        shutil.rmtree(ALONE, ignore_errors=True)
        await _install(sys.executable, "-m", "venv", str(ALONE))
        await _install(str(python), "-m", "pip", "install", "--quiet", "cryptography")
        (ALONE / ".installed").touch()
    listed = await _install(str(python), "-m", "pip", "list", "--format", "json")
    return python, [package["name"] for package in json.loads(listed)]


async def _install(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), INSTALL_S)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {err.decode()[-300:]}")
    return out.decode()


async def _works(before: Sequence[str]) -> bool:
    if shutil.which(before[0]) is None:
        return False
    process = await asyncio.create_subprocess_exec(
        *before, "true", stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0


def _papers(claim: str, done: list[tuple[Paper, Done]]) -> Claim:
    right = [
        run.verdict.get("failedStep") == paper.step
        and run.verdict.get("state") == paper.state
        and (paper.step is not None or run.verdict.get("level") == paper.level)
        and run.code == (1 if paper.step else 0)
        for paper, run in done
    ]
    wrong = [
        f"{paper.name}: {run.code} {run.verdict}"[:200]
        for (paper, run), good in zip(done, right, strict=True)
        if not good
    ]
    told = ", ".join(
        f"{paper.name} {f'(step {paper.step})' if paper.step else ''}".strip() for paper, _ in done
    )
    seconds = percentile([run.seconds for _, run in done], 0.5)
    figure = f"{sum(right)} of {len(done)} as they must be ({told}); {seconds:.2f} s a run"
    return Claim(claim, "; ".join([figure, *wrong]), "all", not wrong)


async def _network(place: Place) -> Claim:
    claim, goal = "… without any network", "a network namespace with nothing in it"
    if not place.before:
        return Claim(claim, "this machine makes no network namespaces", goal, None)
    _, out, err = await place.run(str(place.python), "-I", "-c", PROBE)
    shut = out.startswith("no way out")
    return Claim(claim, f"a namespace of its own; {(out or err).strip()[-100:]}", goal, shut)


def _reach(done: list[Done], packages: list[str]) -> Claim:
    modules = frozenset[str]().union(*(run.modules for run in done))
    ours = sorted(name for name in modules if name.partition(".")[0] in PROJECT)
    sockets = sorted(modules & {"socket", "_socket", "ssl", "_ssl", "asyncio", "urllib.request"})
    return Claim(
        "… with nothing of ours",
        f"{len(modules)} modules imported, {len(ours)} of the project, {len(sockets)} that open "
        f"connections{''.join(f' {name}' for name in sockets)}; packages: {', '.join(packages)}",
        "none of the project, none of the network",
        bool(modules) and not ours and not sockets,
    )


async def _calls(place: Place, desk: Desk) -> Claim:
    """What the kernel saw, where it may be asked."""
    claim, goal = "… what the kernel saw of the network", "0 calls"
    trace = place.folder / "calls"
    watched = ("strace", "-f", "-qq", "-e", "trace=%network", "-o", str(trace))
    if not await _works((*watched[:5], "-o", "/dev/null")):
        return Claim(claim, "strace is not here, or may not look", goal, None)
    arguments = place.written(next(iter(desk.genuine())))
    code, _, err = await place.run(*watched, str(place.python), "-I", "maily_verify.py", *arguments)
    calls = [line for line in trace.read_text().splitlines() if "(" in line and "+++" not in line]
    figure = f"{len(calls)} calls; exit {code}" + "".join(f"; {call[:80]}" for call in calls[:2])
    return Claim(claim, figure + (f" {err[-100:]}" if code else ""), goal, not calls and code == 0)
