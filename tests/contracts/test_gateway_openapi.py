"""The OpenAPI document keeps its word: schemathesis finds no 5xx and no undocumented answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trust_house
import uvicorn
from gateway_support import CountingLimiter, House, build_house
from memory_support import open_house, settings_for

from actors.memory_store import MemoryStore
from benchmarks.show.fuzz import HOOKS, ROOT
from mesh.storage.pool import Database
from mesh.trust.client import TrustClient

EXAMPLES = 15
"""For each operation; `make show-gateway` asks the real runtime for more."""

# Left out: positive_data_acceptance. Rules between fields ("a tool message needs tool_call_id"),
# used Idempotency-Keys and NUL bytes are refused rightly, and no schema can say them.
LEFT_OUT = "positive_data_acceptance"

# Too large is as good a reason to refuse as malformed.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 431]
"""


class Running:
    """The gateway with a loop, a pool and a socket of its own."""

    def __init__(self, dsn: str, valkey_url: str) -> None:
        self._dsn = dsn
        self._valkey_url = valkey_url
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self.house: House
        self.url = ""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    async def _main(self) -> None:
        with tempfile.TemporaryDirectory() as home:
            where = self._dsn, self._valkey_url, Path(home)
            async with (
                open_house(settings_for(*where)) as memory,
                trust_house.open_house(trust_house.settings_for(*where)) as trust,
            ):
                await self._serve(memory.client, trust.client)

    async def _serve(self, memory: MemoryStore, trust: TrustClient) -> None:
        database = await Database.open(self._dsn)
        self.house = await build_house(database, self._valkey_url)
        self.house.gateway.limiter = CountingLimiter(10**9)
        self.house.gateway.memory = memory
        self.house.gateway.trust = trust
        config = uvicorn.Config(
            self.house.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"
        )
        server = uvicorn.Server(config)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 (uvicorn offers no event)
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._ready.set()
        await self._stop.wait()
        server.should_exit = True
        await serving
        await self.house.gateway.apart.aclose()
        await self.house.redis.aclose()
        await database.aclose()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


@pytest.fixture(scope="module")
def running(database_dsn: str, valkey_url: str) -> Iterator[Running]:
    started = Running(database_dsn, valkey_url)
    yield started
    started.close()


def test_schemathesis_finds_nothing(running: Running, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "schemathesis"),
            f"--config-file={config}",
            "run",
            f"{running.url}/openapi.json",
            f"--header=Authorization: Bearer {running.house.key}",
            "--checks=all",
            f"--exclude-checks={LEFT_OUT}",
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={EXAMPLES}",
            # Without an end to wait for, with engines on Serve, or with chains: tested by their
            # own tests.
            "--exclude-path-regex=/events$|/engines|/trust/networks",
            "--request-timeout=30",
            "--seed=1",
            "--no-shrink",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": ROOT},
    )
    report = "\n".join(line[:300] for line in done.stdout.splitlines())
    assert done.returncode == 0, report[-12_000:] + done.stderr[-2_000:]
    generated = re.search(r"([\d,]+) generated", done.stdout)
    assert generated is not None
    assert int(generated[1].replace(",", "")) > 300


def test_the_document_is_valid_and_says_who_may_call(running: Running) -> None:
    headers = {"authorization": f"Bearer {running.house.key}"}
    document = httpx.get(f"{running.url}/openapi.json", headers=headers).json()
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert "500" in operation["responses"]
            if "401" in operation["responses"] and path != "/oauth/token":
                assert operation["security"]
            body = operation.get("requestBody")
            if body is not None:
                (schema,) = [media["schema"] for media in body["content"].values()]
                if "$ref" not in schema:
                    # A line or a message, each read by its own rules.
                    assert path in ("/v1/memory/import", "/v1/mcp")
                    continue
                name = schema["$ref"].rsplit("/", 1)[1]
                described = document["components"]["schemas"][name]
                assert described["additionalProperties"] is False, name
