"""The deployment as a child process: followed, failed, repeated when Ray began anew."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from cluster.deployer import Deployer
from cluster.failures import START_FAILED, Failure
from cluster.layout import Layout, resolve
from mesh.core.settings import Settings

SAY = "import json, os, sys, time\ndef say(**word): print(json.dumps(word), flush=True)\n"


@pytest_asyncio.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[[str], Deployer]]:
    layout = Layout(tmp_path)
    layout.make()
    made: list[Deployer] = []

    def build(code: str) -> Deployer:
        deployer = Deployer(resolve(Settings(home=tmp_path)), layout, lambda: None)
        deployer.command = (sys.executable, "-c", SAY + code)
        made.append(deployer)
        return deployer

    yield build
    for deployer in made:
        await deployer.stop()


async def test_what_it_says_becomes_state(make: Callable[[str], Deployer]) -> None:
    deployer = make(
        "say(part='llm', phase='starting', detail='loading')\n"
        "print('noise, no JSON', flush=True)\n"
        "say(part='llm', phase='ready', detail='1 replica')\n"
    )
    await deployer.first()
    assert deployer.parts["llm"].phase == "ready"
    assert deployer.parts["llm"].detail == "1 replica"
    assert deployer.parts["gateway"].phase == "waiting"
    assert deployer.pid is None


async def test_a_failure_carries_its_reason_and_the_log(make: Callable[[str], Deployer]) -> None:
    deployer = make("say(part='serve', phase='failed', detail='no room'); sys.exit(1)")
    with pytest.raises(Failure) as caught:
        await deployer.first()
    assert caught.value.exit_code == START_FAILED
    assert "no room" in caught.value.message
    assert "deploy.log" in caught.value.fix


async def test_one_that_is_killed_is_a_failure(make: Callable[[str], Deployer]) -> None:
    with pytest.raises(Failure, match="exit -9"):
        await make("os.kill(os.getpid(), 9)").first()


async def test_it_gets_ray_s_environment(make: Callable[[str], Deployer]) -> None:
    names = ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "MAILY_LOOPBACK", "MAILY_INSTANCE",
             "MAILY_SETTINGS_JSON", "PROMETHEUS_MULTIPROC_DIR", "RAY_SERVE_ENABLE_HA_PROXY",
             "RAY_SERVE_HAPROXY_BINARY_PATH"]  # fmt: skip
    deployer = make(
        f"missing = [n for n in {names!r} if not os.environ.get(n)]\n"
        "say(part='serve', phase='ready', detail=str(missing) + os.environ['RAY_AUTH_MODE'])"
    )
    await deployer.first()
    assert deployer.parts["serve"].detail == "[]token"


async def test_a_ray_that_began_anew_is_deployed_onto_again_until_it_succeeds(
    make: Callable[[str], Deployer], tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    deployer = make(
        f"open({str(tries)!r}, 'a').write('x'); n = os.path.getsize({str(tries)!r})\n"
        "say(part='llm', phase='ready', detail=str(n)); sys.exit(0 if n != 2 else 1)"
    )
    await deployer.first()
    ready = asyncio.Event()
    ready.set()
    head: Any = SimpleNamespace(ready=ready, generation=1)
    deployer.keep(head)
    head.generation = 2
    async with asyncio.timeout(20):
        while deployer.parts["llm"].detail != "3":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert tries.read_text() == "xxx"
