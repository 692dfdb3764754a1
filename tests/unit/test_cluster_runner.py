"""A service that is kept alive: killed, hung, refusing to start, told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from cluster import runner as runner_module
from cluster.embedded.service import Service
from cluster.failures import START_FAILED, Failure
from cluster.layout import Layout
from cluster.processes import descendants, is_alive
from cluster.runner import Runner
from mesh.core.settings import Settings

# Answers on a unix socket; with a child of its own, as Ray and PostgreSQL have.
SERVER = """
import os, socket, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
path = sys.argv[1]
if os.path.exists(path): os.unlink(path)
server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()
while True:
    peer, _ = server.accept(); peer.sendall(str(os.getpid()).encode()); peer.close()
"""


class Echo(Service):
    name = "echo"
    title = "Echo"
    start_timeout_s = 10.0
    stop_timeout_s = 2.0
    unresponsive_s = 0.5
    prepared = 0
    script = SERVER

    @property
    def socket(self) -> Path:
        return self.layout.home / "s"

    async def prepare(self) -> None:
        self.prepared += 1

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.script, str(self.socket)]

    async def probe(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            self.answered = int(await reader.read())
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(runner_module, "PROBE_LIMIT_S", 0.3)


@pytest_asyncio.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[[], Runner]]:
    made: list[Runner] = []

    def build() -> Runner:
        layout = Layout(tmp_path)
        layout.make()
        made.append(Runner(Echo(Settings(home=tmp_path), layout), lambda: None))
        return made[-1]

    yield build
    for runner in made:
        await runner.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.01)


async def test_it_starts_answers_and_stops_with_its_children(make: Callable[[], Runner]) -> None:
    runner = make()
    await runner.first_start()
    assert runner.part.phase == "ready"
    assert runner.pid is not None
    family = descendants(runner.pid)
    assert len(family) == 1
    await runner.stop()
    await runner.stop()
    assert runner.part.phase == "stopped"
    assert not any(is_alive(process) for process in family)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_killed_process_is_started_again(make: Callable[[], Runner], times: int) -> None:
    runner = make()
    await runner.first_start()
    for n in range(1, times + 1):
        assert runner.pid is not None
        killed = runner.pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda n=n: runner.generation == n + 1)  # type: ignore[misc]
        assert runner.pid != killed
        assert runner.part.phase == "ready"
        assert runner.part.restarts == n
    service = runner.service
    assert isinstance(service, Echo)
    assert service.prepared == times + 1


async def test_a_process_that_hangs_is_started_again(make: Callable[[], Runner]) -> None:
    runner = make()
    await runner.first_start()
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGSTOP)
    await until(lambda: runner.generation == 2)
    assert runner.part.restarts == 1


async def test_one_that_ends_while_starting_says_its_last_words(
    make: Callable[[], Runner],
) -> None:
    runner = make()
    runner.service.script = "import sys; print('no such option'); sys.exit(3)"  # type: ignore[attr-defined]
    with pytest.raises(Failure) as caught:
        await runner.first_start()
    assert caught.value.exit_code == START_FAILED
    assert "exit 3" in caught.value.message
    assert "no such option" in caught.value.message
    assert str(runner.service.log) in caught.value.fix
    assert runner.part.phase == "failed"


async def test_one_that_never_answers_is_given_up(
    make: Callable[[], Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Echo, "start_timeout_s", 0.5)
    runner = make()
    runner.service.script = "import time; time.sleep(600)"  # type: ignore[attr-defined]
    with pytest.raises(Failure, match="did not answer"):
        await runner.first_start()
    assert runner.pid is not None  # the number is known; the process is gone
    with pytest.raises(ProcessLookupError):
        os.kill(runner.pid, 0)


async def test_one_that_can_not_be_prepared_is_tried_again(make: Callable[[], Runner]) -> None:
    runner = make()
    await runner.first_start()
    assert runner.pid is not None
    failures = iter([Failure("not yet"), Failure("not yet")])
    service = runner.service

    async def prepare() -> None:
        if (failure := next(failures, None)) is not None:
            raise failure

    service.prepare = prepare  # type: ignore[method-assign]
    os.kill(runner.pid, signal.SIGKILL)
    await until(lambda: runner.generation == 2)
    assert runner.part.phase == "ready"
