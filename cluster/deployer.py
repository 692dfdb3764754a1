"""Runs ``cluster.deploy`` as a child, follows what it says, and repeats it when Ray began anew."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from cluster.embedded.ray_head import ray_environment
from cluster.failures import START_FAILED, Failure
from cluster.layout import Layout
from cluster.processes import descendants, kill
from cluster.runner import Runner
from cluster.state import PartState
from mesh.core.logging import get_logger
from mesh.core.settings import Settings

_log = get_logger("deployer")

LIMIT_S = 420.0
MAX_BACKOFF_S = 30.0


class Deployer:
    command: Sequence[str] = (sys.executable, "-m", "cluster.deploy")

    def __init__(self, settings: Settings, layout: Layout, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._layout = layout
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        proxy = "haproxy" if settings.gateway.haproxy else "proxy"
        names = ("database", "serve", "llm", "embedder", "agents", "gateway", proxy)
        self.parts: dict[str, PartState] = {name: PartState() for name in names}

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def first(self) -> None:
        """Deploy once; Failure when it does not succeed."""
        await self._deploy()

    def keep(self, head: Runner | None) -> None:
        """Deploy again whenever the Ray head was started again."""
        if head is not None:
            self._keeper = asyncio.create_task(self._keep(head))

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._end()
        for part in self.parts.values():
            part.phase = "stopped"
        self._changed()

    async def _keep(self, head: Runner) -> None:
        deployed = 1  # the first deployment went onto the first start, whatever came since
        backoff = 0.5
        while True:
            await asyncio.sleep(0.2)
            if not head.ready.is_set() or head.generation == deployed:
                continue
            generation = head.generation
            _log.warning("Ray began anew: deploying again")
            try:
                await self._deploy()
            except Failure as failure:
                _log.error("deployment failed", reason=failure.message)
                await asyncio.sleep(backoff)
                backoff = min(MAX_BACKOFF_S, backoff * 2)
            else:
                deployed, backoff = generation, 0.5

    async def _deploy(self) -> None:
        for part in self.parts.values():
            part.phase, part.detail, part.since = "waiting", "", time.time()
        self._changed()
        log = self._layout.logs / "deploy.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **ray_environment(self._settings, self._layout)},
                start_new_session=True,
            )
        self._process = process
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._follow(process)
                code = await process.wait()
        except TimeoutError:
            code = None
        finally:
            await self._end()
        if code != 0:
            failed = [p.detail for p in self.parts.values() if p.phase == "failed" and p.detail]
            reason = failed[0] if failed else f"exit {code}"
            raise Failure(f"the deployment failed: {reason}", f"see {log}", START_FAILED)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            with contextlib.suppress(ValueError, KeyError):
                word = json.loads(line)
                part = self.parts.setdefault(word["part"], PartState())
                if part.phase != word["phase"]:
                    part.since = time.time()
                part.phase, part.detail = word["phase"], word["detail"]
                _log.info("deploying", **word)
                self._changed()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        family = await asyncio.to_thread(descendants, process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
        await asyncio.to_thread(kill, family)
