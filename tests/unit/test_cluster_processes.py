"""Finding our processes, and ending exactly those."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.processes import (
    ProcessId,
    descendants,
    end,
    find_instance,
    is_alive,
    listeners,
    port_holder,
)

SLEEP = "import time; print(1, flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


class Started:
    def __init__(self) -> None:
        self.all: list[subprocess.Popen[bytes]] = []

    def __call__(
        self, code: str = SLEEP, cwd: Path | None = None, **environ: str
    ) -> psutil.Process:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            cwd=cwd,
        )
        self.all.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return psutil.Process(process.pid)


@pytest.fixture
def start() -> Iterator[Started]:
    started = Started()
    yield started
    for process in started.all:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def test_an_instance_is_found_by_its_mark_its_record_and_its_folder(
    start: Started, tmp_path: Path
) -> None:
    marked = start(MAILY_INSTANCE="one")
    recorded = start()
    placed = start(cwd=tmp_path)
    other = start(MAILY_INSTANCE="two")
    found = find_instance("one", [ProcessId.of(recorded)], [tmp_path])
    assert {process.pid for process in found} == {marked.pid, recorded.pid, placed.pid}
    assert other.pid not in {process.pid for process in found}


def test_children_of_the_found_are_found(start: Started) -> None:
    code = (
        "import subprocess, sys, os; env = {k: v for k, v in os.environ.items()"
        " if k != 'MAILY_INSTANCE'}\n"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], env=env)\n"
        "import time; time.sleep(600)"
    )
    parent = start(code, MAILY_INSTANCE="family")
    found = find_instance("family")
    assert len(found) == 2
    end(found, 2.0)
    assert not any(is_alive(process) for process in found)
    assert descendants(parent.pid) == []


def test_we_and_our_forebears_are_never_found(monkeypatch: pytest.MonkeyPatch) -> None:
    here = psutil.Process()
    everybody = [here, *here.parents()]
    found = find_instance("none", [ProcessId.of(p) for p in everybody], [Path(here.cwd())])
    assert not {p.pid for p in everybody} & {p.pid for p in found}


def test_a_number_that_was_used_again_is_not_the_process(start: Started) -> None:
    process = start()
    known = ProcessId.of(process)
    assert known.get() is not None
    assert ProcessId(known.pid, known.created - 100).get() is None


@pytest.mark.parametrize("code", [SLEEP, STUBBORN])
def test_end_ends_even_who_does_not_listen(start: Started, code: str) -> None:
    process = start(code)
    end([process], 0.3)
    assert not is_alive(process)


def test_end_takes_those_that_are_gone(start: Started) -> None:
    process = start()
    os.kill(process.pid, signal.SIGKILL)
    start.all[0].wait(10)
    end([process], 0.3)


def test_listeners_say_who_where_and_whether_others_reach_it() -> None:
    with socket.socket() as near, socket.socket() as wide, socket.socket(socket.AF_INET6) as six:
        near.bind(("127.0.0.1", 0))
        wide.bind(("0.0.0.0", 0))
        six.bind(("::1", 0))
        for one in (near, wide, six):
            one.listen()
        ports = {one.getsockname()[1]: one for one in (near, wide, six)}
        heard = {item.port: item for item in listeners([psutil.Process()]) if item.port in ports}
        assert len(heard) == 3
        assert heard[near.getsockname()[1]].loopback
        assert heard[six.getsockname()[1]].loopback
        assert not heard[wide.getsockname()[1]].loopback
        assert str(os.getpid()) in str(port_holder(near.getsockname()[1]))
    assert port_holder(near.fileno() if near.fileno() > 0 else 1) is None
