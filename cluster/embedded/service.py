"""What a service is to the supervisor: a command, an environment, a probe, a way to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cluster.failures import START_FAILED, Failure
from cluster.layout import Layout
from cluster.processes import INSTANCE_VARIABLE
from mesh.core.settings import Settings


class Service:
    """One process of ours. Subclasses say how; ``cluster.runner`` keeps it alive."""

    name: ClassVar[str]
    title: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_timeout_s: ClassVar[float] = 30.0
    stop_timeout_s: ClassVar[float] = 6.0
    unresponsive_s: ClassVar[float] = 15.0
    """A process that lives but does not answer for so long is killed and started again."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self.settings = settings
        self.layout = layout
        self.notes: list[str] = []
        """What ``prepare`` found and mended, for the log and for `maily up`."""

    @property
    def log(self) -> Path:
        return self.layout.logs / f"{self.name}.log"

    def ports(self) -> Mapping[str, int]:
        """TCP ports that must be free before the first start: setting → port."""
        return {}

    async def prepare(self) -> None:
        """Before each start: directories, leftovers of a crash. Raises Failure."""

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return {**os.environ, INSTANCE_VARIABLE: self.layout.instance}

    def process_options(self) -> dict[str, Any]:
        """More arguments of ``subprocess.Popen``: ``user``, ``cwd`` …"""
        return {}

    async def probe(self) -> None:
        """One round trip in the service's own protocol. Raises anything when it does not answer.
        The caller sets the deadline."""
        raise NotImplementedError

    async def started(self) -> None:
        """After the first successful probe of each start."""

    def version(self) -> str:
        return ""

    def explain_exit(self, code: int) -> Failure:
        """The service ended before it was ready."""
        return Failure(
            f"{self.title} ended while starting (exit {code}): {self.last_words()}",
            f"see {self.log}",
            START_FAILED,
        )

    def last_words(self, lines: int = 3) -> str:
        """The end of the service's log, on one line."""
        with contextlib.suppress(OSError):
            text = self.log.read_bytes()[-4_000:].decode(errors="replace")
            return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())
        return "no log"


async def run_command(
    command: Sequence[str], *, timeout_s: float, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a short command off the event loop; stdout and stderr as text. TimeoutExpired."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603  (our own commands)
            list(command),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            **options,
        )

    return await asyncio.to_thread(run)
