"""A whole runtime for tests: ``maily up`` in a home and on ports of its own.

Model files and the EVM node are kept in ``.cache/store`` of the checkout between runs: they are
checked against their sums each time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.instance import Instance, free_ports

STORE = Path(__file__).resolve().parents[1] / ".cache" / "store"


class Runtime:
    """The command line of one home."""

    def __init__(self, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        """``extra``: further variables, such as settings."""
        self.folder = folder
        keep = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAILY_", "RAY_", "XDG_", "PROMETHEUS_"))
        }
        self.environ = {
            **keep,
            **free_ports(),
            "MAILY_HOME": str(folder / "home"),
            "MAILY_STORE": str(STORE),
            # What these tests look at is durability, not wording: half the work of a model that
            # needs several tries.
            "MAILY_AGENTS__MAX_TRIES": "1",
            # All tests come from one address.
            "MAILY_TRUST__PUBLIC_WORK_PER_MINUTE": "100000",
            "MAILY_TRUST__PUBLIC_PER_MINUTE": "1000000",
            **(extra or {}),
        }

    def maily(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.maily("status", "--json").stdout))

    def instance(self) -> Instance:
        return Instance.from_status(self.status(), self.environ)


@contextmanager
def running(extra: Mapping[str, str] | None = None) -> Iterator[Runtime]:
    """Up, and down again at the end, whatever happened in between."""
    folder = Path(tempfile.mkdtemp(prefix="maily-rt-"))
    runtime = Runtime(folder, extra)
    try:
        up = runtime.maily("up", "--detach", timeout_s=300)
        assert up.returncode == 0, f"maily up: {up.returncode}\n{up.stdout}\n{up.stderr}"
        yield runtime
    finally:
        runtime.maily("down", timeout_s=120)
        shutil.rmtree(folder, ignore_errors=True)
