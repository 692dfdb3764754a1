"""A runtime that a benchmark starts for itself: other settings, a home and ports of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.instance import Instance, free_ports

STORE = Path(__file__).resolve().parent.parent / ".cache" / "store"
"""Model files are kept between runs; each time they are checked against their sums."""
UP_S = 300.0


@asynccontextmanager
async def own_instance(settings: Mapping[str, str]) -> AsyncIterator[Instance]:
    """Up with these variables on top, down at the end. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="maily-b-", ignore_cleanup_errors=True) as folder:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("MAILY_", "RAY_"))}
        environ = {
            **keep,
            **free_ports(),
            "MAILY_HOME": f"{folder}/home",
            "MAILY_STORE": os.environ.get("MAILY_STORE", str(STORE)),
            **settings,
        }
        code, output = await _maily(environ, "up", "--detach")
        if code != 0:
            raise RuntimeError(f"maily up: exit {code}: {output[-400:]}")
        try:
            _, status = await _maily(environ, "status", "--json")
            instance = Instance.from_status(json.loads(status), environ)
            await instance.wait_healthy(60)
            yield instance
        finally:
            await _maily(environ, "down")


async def _maily(environ: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.cli", *arguments),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if arguments[0] != "status" else subprocess.DEVNULL,
    )
    output, _ = await asyncio.wait_for(process.communicate(), UP_S)
    return process.returncode or 0, output.decode(errors="replace")
