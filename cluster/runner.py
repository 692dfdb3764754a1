"""Keep one service alive: prepare, start, wait until it answers, watch, start again.

A dead process is started again at once; one that keeps dying waits longer each time (0.5 s
doubling to 10 s) and is forgiven after half a minute of health.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cluster.embedded.service import Service
from cluster.failures import START_FAILED, Failure
from cluster.processes import descendants, kill
from cluster.state import PartState, Phase
from mesh.core.logging import get_logger

_log = get_logger("supervisor")

PROBE_EVERY_S = 2.0
PROBE_LIMIT_S = 3.0
STOP_AGAIN_S = 1.0
FORGIVEN_AFTER_S = 30.0
MAX_BACKOFF_S = 10.0
MAX_LOG_BYTES = 20_000_000


class Runner:
    """Owns one service's process. ``changed`` is called after each change of ``part``."""

    def __init__(self, service: Service, changed: Callable[[], None]) -> None:
        self.service = service
        self.part = PartState(version=service.version())
        self.ready = asyncio.Event()
        self.generation = 0
        """Counts successful starts: others see by it that a service began anew."""
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def first_start(self) -> None:
        """Start once; raises Failure. Then watch in the background until ``stop``."""
        try:
            await self._start()
        except Failure as failure:
            self._say("failed", failure.message)
            raise
        self._task = asyncio.create_task(self._watch(), name=f"watch {self.service.name}")

    async def stop(self) -> None:
        """Stop in order; SIGKILL after the service's own limit. Idempotent."""
        self._stopping = True
        if self._task is not None:
            # Once is not enough: Python 3.11's wait_for, inside a probe's client library, may
            # swallow a cancellation that arrives together with the answer.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=STOP_AGAIN_S)
            self._task = None
        if self._process is not None:
            self._say("stopping")
            await self._end(self._process)
        self.ready.clear()
        self._say("stopped")

    async def _watch(self) -> None:
        backoff = 0.0
        while not self._stopping:
            assert self._process is not None
            healthy_since = time.monotonic()
            reason = await self._until_unwell(self._process)
            if self._stopping:
                return
            self.ready.clear()
            if time.monotonic() - healthy_since > FORGIVEN_AFTER_S:
                backoff = 0.0
            self.part.restarts += 1
            self._say("restarting", reason)
            _log.warning("service ended", part=self.service.name, reason=reason)
            await self._end(self._process)
            while not self._stopping:
                await asyncio.sleep(backoff)
                backoff = min(MAX_BACKOFF_S, backoff * 2 or 0.5)
                try:
                    await self._start(restart=True)
                    break
                except (Failure, OSError) as failure:
                    self._say("restarting", str(failure))
                    _log.error("restart failed", part=self.service.name, error=str(failure))

    async def _until_unwell(self, process: asyncio.subprocess.Process) -> str:
        """Wait until the process ended or has not answered for too long; why, in words."""
        exited = asyncio.create_task(process.wait())
        last_answer = time.monotonic()
        try:
            while not self._stopping:
                done, _ = await asyncio.wait({exited}, timeout=PROBE_EVERY_S)
                if done:
                    return f"it ended ({_exit_words(process.returncode)})"
                problem = await self._probe()
                if problem is None:
                    last_answer = time.monotonic()
                    if self.part.phase != "ready":
                        self._say("ready")
                elif time.monotonic() - last_answer > self.service.unresponsive_s:
                    return f"no answer for {self.service.unresponsive_s:.0f} s: {problem}"
            return "stopping"
        finally:
            exited.cancel()

    async def _start(self, *, restart: bool = False) -> None:
        began = time.monotonic()
        if not restart:
            self._say("starting", "preparing")
        await self.service.prepare()
        log = _open_log(self.service.log)
        try:
            process = await asyncio.create_subprocess_exec(
                *self.service.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=self.service.environ(),
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops us in order
                **self.service.process_options(),
            )
        finally:
            os.close(log)
        self._process = process
        self.part.pid = process.pid
        self._say("restarting" if restart else "starting", "waiting for its first answer")
        problem: str | None = "no answer"
        while problem is not None:
            if process.returncode is not None:
                raise self.service.explain_exit(process.returncode)
            if time.monotonic() - began > self.service.start_timeout_s:
                await self._end(process)
                raise Failure(
                    f"{self.service.title} did not answer within "
                    f"{self.service.start_timeout_s:.0f} s: {problem}",
                    f"see {self.service.log}",
                    START_FAILED,
                )
            problem = await self._probe()
            if problem is not None:
                await asyncio.sleep(0.05)
        await self.service.started()
        self.generation += 1
        self.ready.set()
        self._say("ready")
        _log.info(
            "service ready",
            part=self.service.name,
            pid=process.pid,
            seconds=round(time.monotonic() - began, 2),
        )

    async def _probe(self) -> str | None:
        """None when it answered, else what happened instead."""
        try:
            async with asyncio.timeout(PROBE_LIMIT_S):
                await self.service.probe()
        except Exception as error:  # whatever a client library raises means: no answer
            return f"{type(error).__name__}: {error}"[:300]
        return None

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """The process and whatever it started."""
        family = await asyncio.to_thread(descendants, process.pid)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self.service.stop_signal)
            try:
                async with asyncio.timeout(self.service.stop_timeout_s):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        await asyncio.to_thread(kill, family)
        self.part.pid = None

    def _say(self, phase: Phase, detail: str = "") -> None:
        if phase != self.part.phase:
            self.part.since = time.time()
        self.part.phase = phase
        self.part.detail = detail
        self._changed()


def _exit_words(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit {code}"


def _open_log(path: Path) -> int:
    """Append; a log of more than 20 MB becomes ``NAME.log.1`` first."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
