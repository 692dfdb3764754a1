"""The daemon that owns everything which `maily up` starts.

``python -m cluster.supervisor`` holds the home's lock, ends what an earlier supervisor left,
starts the services at once side by side, deploys onto Ray, keeps each alive, and stops all in
order on SIGTERM or SIGINT. What it knows is in ``run/state.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from cluster.deployer import Deployer
from cluster.embedded.evm import EvmNode, EvmStandby
from cluster.embedded.postgres import Postgres
from cluster.embedded.ray_head import RayHead, forget_sockets, is_of_ray
from cluster.embedded.service import Service
from cluster.embedded.valkey import Valkey
from cluster.failures import ALREADY_RUNNING, INTERRUPTED, START_FAILED, Failure
from cluster.layout import Layout, resolve
from cluster.preflight import check_disk, check_ports
from cluster.processes import (
    ProcessId,
    become_subreaper,
    descendants,
    end,
    find_instance,
    is_alive,
    reap,
)
from cluster.runner import Runner
from cluster.state import FailureState, State, read_state, take_lock, write_state
from mesh.core.logging import configure_logging, get_logger
from mesh.core.settings import SETTINGS_VARIABLE, Settings, load_settings, settings_from_json

_log = get_logger("supervisor")

WRITE_AT_LEAST_EVERY_S = 5.0
REAP_EVERY_S = 1.0


class Supervisor:
    def __init__(self, given: Settings) -> None:
        self.given = given
        settings = self.settings = resolve(given)
        self.layout = Layout(settings.home)
        own = psutil.Process()
        self._earlier = read_state(self.layout)
        self.state = State(
            instance=self.layout.instance,
            pid=own.pid,
            created=own.create_time(),
            version=_version(),
            profile=settings.profile,
            urls=_urls(settings),
        )
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._began = time.monotonic()
        self.runners = [Runner(service, self._changed.set) for service in self._services()]
        self.deployer = Deployer(settings, self.layout, self._changed.set)

    def _services(self) -> list[Service]:
        if self.settings.profile != "embedded":
            return []
        # A service whose address was given is somebody else's to run.
        services: list[Service] = []
        if self.given.postgres.url is None:
            services.append(Postgres(self.settings, self.layout))
        if self.given.redis.url is None:
            services.append(Valkey(self.settings, self.layout))
        if self.given.evm.enabled and self.given.evm.url is None:
            services.append(EvmNode(self.settings, self.layout))
            if self.settings.evm.standby:
                services.append(EvmStandby(self.settings, self.layout))
        head = RayHead(self.settings, self.layout)
        head.end_orphans = self._end_orphans
        services.append(head)
        return services

    async def run(self) -> int:
        """Until told to stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        background = [
            asyncio.create_task(self._write_state()),
            asyncio.create_task(self._reap()),
        ]
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        code = 0
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                code = INTERRUPTED
                starting.cancel()
            elif failure := starting.exception():
                code = self._fail(failure)
            else:
                await stopping
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._shut_down()
        return code

    async def _start(self) -> None:
        self._save()
        await self._end_leftovers()
        await asyncio.to_thread(check_disk, self.settings)
        ports = {key: port for r in self.runners for key, port in r.service.ports().items()}
        await asyncio.to_thread(check_ports, ports)
        for path in self.layout.metrics.glob("*.db"):
            path.unlink(missing_ok=True)
        # The deployment's imports take seconds: begin them now. It waits for what it needs.
        deploying = asyncio.create_task(self.deployer.first())
        try:
            async with asyncio.TaskGroup() as group:
                for runner in self.runners:
                    group.create_task(runner.first_start())
                group.create_task(_joined(deploying))
        except BaseExceptionGroup as group_error:
            raise _first_failure(group_error) from None
        finally:
            deploying.cancel()
            for runner in self.runners:
                self.state.notes += [n for n in runner.service.notes if n not in self.state.notes]
        self.state.ready_after_s = round(time.monotonic() - self._began, 2)
        self.state.phase = "ready"
        self._changed.set()
        _log.info("ready", seconds=self.state.ready_after_s)
        head = next((r for r in self.runners if r.service.name == "ray"), None)
        self.deployer.keep(head)

    async def _end_leftovers(self) -> None:
        recorded = self._earlier.recorded() if self._earlier else []
        left = await asyncio.to_thread(
            find_instance, self.layout.instance, recorded, (self.layout.postgres_data,)
        )
        if left:
            note = f"ended {len(left)} processes that an earlier run had left"
            self.state.notes.append(note)
            _log.warning(note)
            self._changed.set()
            # PostgreSQL understands SIGINT as fast shutdown; SIGTERM would wait for clients.
            for process in left:
                if _name(process) == "postgres":
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(signal.SIGINT)
            await asyncio.to_thread(end, left, 5.0)
        await asyncio.to_thread(forget_sockets, self.layout)

    def _end_orphans(self) -> None:
        """Processes of a Ray head that died: we adopted them, and they hold its ports."""
        family: dict[int, psutil.Process] = {}
        for child in psutil.Process().children():
            if is_alive(child) and is_of_ray(child, self.layout):
                family |= {process.pid: process for process in (child, *descendants(child.pid))}
        end(list(family.values()), 1.0)

    def _fail(self, error: BaseException) -> int:
        failure = error if isinstance(error, Failure) else None
        if failure is None:
            _log.error("start failed", exc_info=error)
            failure = Failure(
                f"{type(error).__name__}: {error}",
                f"see {self.layout.logs / 'supervisor.log'}",
                START_FAILED,
            )
        self.state.phase = "failed"
        self.state.failure = FailureState(
            message=failure.message, fix=failure.fix, exit_code=failure.exit_code
        )
        self._save()
        _log.error("start failed", reason=failure.message)
        return failure.exit_code

    async def _shut_down(self) -> None:
        """Deployment, then Ray with all that runs on it, then the databases."""
        failed = self.state.phase == "failed"
        if not failed:
            self.state.phase = "stopping"
            self._save()
        began = time.monotonic()
        await self.deployer.stop()
        last = {"postgres", "valkey"}
        for group in (
            [r for r in self.runners if r.service.name not in last],
            [r for r in self.runners if r.service.name in last],
        ):
            await asyncio.gather(*(runner.stop() for runner in group))
            if group is not None and any(r.service.name == "ray" for r in group):
                await asyncio.to_thread(self._end_orphans)
        rest = await asyncio.to_thread(descendants)
        await asyncio.to_thread(end, rest, 1.0)
        left = await asyncio.to_thread(
            find_instance, self.layout.instance, (), (self.layout.postgres_data,)
        )
        await asyncio.to_thread(end, left, 1.0)
        await asyncio.to_thread(forget_sockets, self.layout)
        shutil.rmtree(self.layout.haproxy_sockets, ignore_errors=True)
        if not failed:
            self.state.phase = "stopped"
        self.state.processes = []
        self._save()
        _log.info("stopped", seconds=round(time.monotonic() - began, 2))

    async def _write_state(self) -> None:
        while True:
            self._changed.clear()
            await asyncio.to_thread(self._record_processes)
            self._save()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WRITE_AT_LEAST_EVERY_S):
                    await self._changed.wait()
            await asyncio.sleep(0.05)  # several changes at once are one write

    def _record_processes(self) -> None:
        known = []
        for process in descendants():
            with contextlib.suppress(psutil.Error):
                identity = ProcessId.of(process)
                known.append((identity.pid, identity.created))
        self.state.processes = known

    def _save(self) -> None:
        self.state.parts = {
            **{runner.service.name: runner.part for runner in self.runners},
            **self.deployer.parts,
        }
        try:
            write_state(self.layout, self.state)
        except OSError as error:  # a full disk must not end the supervisor
            _log.error("state can't be written", error=str(error))

    async def _reap(self) -> None:
        """Collect adopted orphans that ended; asyncio waits for our own children itself."""
        while True:
            await asyncio.sleep(REAP_EVERY_S)
            reap({runner.pid for runner in self.runners} | {self.deployer.pid})


async def _joined(task: asyncio.Task[None]) -> None:
    await task


def _first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A Failure rather than what followed from it."""
    flat = [
        _first_failure(error) if isinstance(error, BaseExceptionGroup) else error
        for error in group.exceptions
    ]
    return next((error for error in flat if isinstance(error, Failure)), flat[0])


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return "?"


def _version() -> str:
    try:
        return version("maily-mesh")
    except PackageNotFoundError:
        return "unknown"


def _urls(settings: Settings) -> dict[str, str]:
    urls = {"gateway": settings.gateway_url, "docs": f"{settings.gateway_url}/docs"}
    if settings.profile == "embedded":
        urls["dashboard"] = f"http://127.0.0.1:{settings.ray.dashboard_port}"
    if settings.evm.enabled and settings.evm.url:
        urls["evm"] = settings.evm.url
        if settings.profile == "embedded" and settings.evm.standby:
            urls["evm-standby"] = f"http://127.0.0.1:{settings.evm.standby_port}"
    return urls


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.supervisor")
    parser.add_argument("--lock-fd", type=int, help="the lock, taken by the parent process")
    arguments = parser.parse_args()
    if SETTINGS_VARIABLE in os.environ:
        settings = settings_from_json(os.environ.pop(SETTINGS_VARIABLE))
    else:
        settings = load_settings()
    layout = Layout(settings.home)
    layout.make()
    descriptor = arguments.lock_fd if arguments.lock_fd is not None else take_lock(layout.lock)
    if descriptor is None:
        print("already running", file=sys.stderr)
        sys.exit(ALREADY_RUNNING)
    os.set_inheritable(descriptor, False)
    configure_logging("supervisor", settings.observability.log_level)
    become_subreaper()
    # We ask GCS over gRPC and fork afterwards; its fork handlers would only complain of that.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.chdir(Path("/"))
    code = asyncio.run(Supervisor(settings).run())
    sys.exit(code)


if __name__ == "__main__":
    main()
