"""The supervisor process with its databases alone: start, kill -9, heal, stop without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cluster.failures import PORT_TAKEN
from cluster.layout import Layout
from cluster.processes import ProcessId, find_instance
from cluster.state import State, is_locked, read_state

# The supervisor without Ray and what runs on it: those have tests of their own.
MAIN = """
from cluster import supervisor
from cluster.deployer import Deployer
from cluster.embedded.evm import EvmNode
from cluster.embedded.postgres import Postgres
from cluster.embedded.service import Service
from cluster.embedded.valkey import Valkey

class Guard(Service):  # only its port
    name = "guard"; title = "Guard"
    def ports(self): return {"gateway.port": self.settings.gateway.port}
    def command(self): return ["sleep", "600"]
    async def probe(self): pass

async def nothing(self): pass

supervisor.Supervisor._services = lambda self: [
    kind(self.settings, self.layout) for kind in (Postgres, Valkey, Guard)
]
Deployer.first = nothing
supervisor.main()
"""


def start(home: Path, port: int) -> subprocess.Popen[bytes]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MAILY_", "RAY_"))}
    environ |= {"MAILY_HOME": str(home), "MAILY_GATEWAY__PORT": str(port)}
    with (home.parent / "out").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", MAIN],
            env=environ,
            cwd=home.parent,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextmanager
def running(home: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Layout]]:
    process = start(home, port)
    layout = Layout(home)
    try:
        wait(lambda: phase(layout, process) == "ready", process)
        yield process, layout
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            for left in find_instance(layout.instance, (), (layout.postgres_data,)):
                left.kill()


def phase(layout: Layout, process: subprocess.Popen[bytes]) -> str:
    state = read_state(layout)
    return state.phase if state is not None and state.pid == process.pid else ""


def wait(true: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, "the supervisor ended"
        time.sleep(0.02)


def state_of(layout: Layout) -> State:
    state = read_state(layout)
    assert state is not None
    return state


def pid_of(layout: Layout, part: str) -> int:
    pid = state_of(layout).parts[part].pid
    assert pid is not None
    return pid


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: see test_cluster_services.
    folder = Path(tempfile.mkdtemp(prefix="maily-supervisor-"))
    yield folder
    layout = Layout(folder / "home")
    for path in (folder, layout.runtime, layout.postgres_sockets):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_it_leaves_no_process_and_no_socket(folder: Path, port: int) -> None:
    with running(folder / "home", port) as (process, layout):
        seen = [known.get() for known in state_of(layout).recorded()]
        assert len([one for one in seen if one]) >= 3
        process.terminate()
        assert process.wait(30) == 0
    assert [one for one in seen if one and one.is_running() and one.status() != "zombie"] == []
    assert find_instance(layout.instance, (), (layout.postgres_data,)) == []
    places = [*layout.runtime.rglob("*"), *layout.postgres_sockets.rglob("*")]
    assert [place for place in places if place.is_socket()] == []
    assert not is_locked(layout.lock)
    assert state_of(layout).phase == "stopped"


@pytest.mark.parametrize("part", ["postgres", "valkey"])
def test_a_killed_service_heals(folder: Path, port: int, part: str) -> None:
    with running(folder / "home", port) as (process, layout):
        killed = pid_of(layout, part)
        os.kill(killed, signal.SIGKILL)

        def healed() -> bool:
            now = state_of(layout).parts[part]
            return now.restarts == 1 and now.phase == "ready" and now.pid != killed

        wait(healed, process)


def test_what_a_killed_supervisor_left_is_ended_by_the_next(folder: Path, port: int) -> None:
    home = folder / "home"
    first = start(home, port)
    layout = Layout(home)
    wait(lambda: phase(layout, first) == "ready", first)
    left = [ProcessId(pid, psutil.Process(pid).create_time()) for pid in
            (pid_of(layout, "postgres"), pid_of(layout, "valkey"))]  # fmt: skip
    first.kill()
    first.wait(10)
    assert all(known.get() for known in left)
    with running(home, port) as (_, layout):
        assert not any(known.get() for known in left)
        assert any("earlier run" in note for note in state_of(layout).notes)


def test_a_second_one_refuses(folder: Path, port: int) -> None:
    with running(folder / "home", port) as (process, layout):
        second = start(folder / "home", port)
        assert second.wait(30) == 3
        assert phase(layout, process) == "ready"


def test_a_taken_port_is_told_and_nothing_is_left(folder: Path, port: int) -> None:
    home = folder / "home"
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        process = start(home, port)
        assert process.wait(30) == PORT_TAKEN
    state = state_of(Layout(home))
    assert state.phase == "failed"
    assert state.failure is not None
    assert str(port) in state.failure.message
    assert "MAILY_GATEWAY__PORT" in state.failure.fix
    assert find_instance(Layout(home).instance, (), (Layout(home).postgres_data,)) == []
