"""Other products in front of the same fake engine, each in a virtual environment of its own.

``.cache/peers/<name>`` is made when it is first needed (minutes, and a network); what can't be
made is left out of the report and said there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "peers"
INSTALL_S = 900.0
START_S = 120.0
KEY = "sk-benchmark"

_LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {upstream}/v1
      api_key: none
general_settings:
  master_key: {key}
litellm_settings:
  telemetry: false
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A product that answers ``{url}/v1/chat/completions``."""

    name: str
    url: str
    key: str
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds of its processes so far."""
        return cpu_seconds([psutil.Process(self.pid)])


@dataclass(frozen=True, slots=True)
class Kind:
    """How to get a product and how to start it."""

    name: str
    packages: tuple[str, ...]
    command: Callable[[Path, str, int, Path], Sequence[str]]
    """``(bin, upstream, port, work folder)`` → the command."""
    ready: str = "/health"


def _litellm(binaries: Path, upstream: str, port: int, work: Path) -> list[str]:
    config = work / "litellm.yaml"
    config.write_text(_LITELLM.format(model="fake", upstream=upstream, key=KEY))
    return [
        *(str(binaries / "litellm"), "--config", str(config), "--host", "127.0.0.1"),
        *("--port", str(port), "--num_workers", "1"),
    ]


def _vllm_router(binaries: Path, upstream: str, port: int, work: Path) -> list[str]:
    return [
        *(str(binaries / "vllm-router"), "--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", upstream, "--policy", "cache_aware"),
        *("--prometheus-port", str(free_port())),
    ]


def _sglang_router(binaries: Path, upstream: str, port: int, work: Path) -> list[str]:
    return [
        *(str(binaries / "python"), "-m", "sglang_router.launch_router", "--host", "127.0.0.1"),
        *("--port", str(port), "--worker-urls", upstream, "--policy", "cache_aware"),
        *("--prometheus-port", str(free_port())),
    ]


LITELLM = Kind("litellm", ("litellm[proxy]==1.106.2",), _litellm, "/health/liveliness")
VLLM_ROUTER = Kind("vllm-router", ("vllm-router==0.1.17",), _vllm_router)
SGLANG_ROUTER = Kind("sglang-router", ("sglang-router==0.3.2",), _sglang_router)


def install(kind: Kind) -> Path:
    """The ``bin`` of the product's environment. Blocks; raises RuntimeError."""
    folder = FOLDER / kind.name
    stamp = folder / ".installed"
    binaries = folder / "bin"
    if stamp.exists() and stamp.read_text() == "\n".join(kind.packages):
        return binaries
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
        subprocess.run(
            [str(binaries / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet",
             "install", *kind.packages],
            check=True, timeout=INSTALL_S, capture_output=True,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        raise RuntimeError(f"{kind.name} can't be installed: {error}") from error
    stamp.write_text("\n".join(kind.packages))
    return binaries


@asynccontextmanager
async def running(kind: Kind, upstream: str, work: Path) -> AsyncIterator[Peer]:
    """The product in front of ``upstream``. Raises RuntimeError when it does not start."""
    binaries = await asyncio.to_thread(install, kind)
    port = free_port()
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("MAILY_", "PYTHON", "RAY_"))}
    environ = keep | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = kind.command(binaries, upstream, port, work)
    with (work / f"{kind.name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=environ, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        await _answers(url + kind.ready, kind.name, process)
        yield Peer(kind.name, url, KEY, process.pid)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@asynccontextmanager
async def bare() -> AsyncIterator[Peer]:
    """The fake engine behind a bare HTTP server."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.bare_fake", str(port)), stdin=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await _answers(url + "/health", "the bare server", process)
        yield Peer("bare", url, KEY, process.pid)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def cpu_seconds(roots: Sequence[psutil.Process]) -> float:
    """Of these processes and all that descend from them, those that live now."""
    seconds = 0.0
    for root in roots:
        for process in (root, *root.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            seconds += times.user + times.system
    return seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(url: str, name: str, process: asyncio.subprocess.Process) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.returncode is not None:
            raise RuntimeError(f"{name} ended with status {process.returncode}")
        try:
            await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=2).close())
            return
        except OSError:
            await asyncio.sleep(0.25)
    raise RuntimeError(f"{name} did not answer within {START_S:.0f} s")
