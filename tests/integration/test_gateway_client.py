"""The gateway as actors and jobs call it, over a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
import uvicorn
from gateway_support import SECRET, House, build_house
from pydantic import SecretStr

from actors.gateway_client import gateway_client, service_tokens
from mesh.core.clock import SystemClock
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings
from mesh.core.tracing import span
from mesh.security.assertion import AssertionVerifier
from mesh.security.services import Service
from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app
from serve_apps.gateway.service_door import ServiceDoor


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(database: Database, valkey_url: str) -> AsyncIterator[tuple[House, Settings]]:
    """A house that listens, and the settings by which a process finds it."""
    built = await build_house(database, valkey_url)
    verifier = AssertionVerifier(SECRET, "maily", SystemClock())
    door = ServiceDoor(built.tokens, built.keys, verifier, 300)
    gateway = replace(built.gateway, services=door)
    house = replace(built, gateway=gateway, app=create_app(gateway))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(house.app, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve([listener]))
    base = Settings()
    settings = base.model_copy(
        update={
            "gateway": base.gateway.model_copy(update={"port": listener.getsockname()[1]}),
            "security": base.security.model_copy(update={"secret": SecretStr(SECRET.decode())}),
        }
    )
    yield house, settings
    server.should_exit = True
    await serving
    listener.close()
    await built.redis.aclose()


async def test_a_service_acts_for_a_workspace(place: tuple[House, Settings]) -> None:
    house, settings = place
    mine = await house.keys.ensure_workspace("one")
    with span("root", f"00-{'d' * 32}-{'b' * 16}-01"):
        async with gateway_client(settings, Service.JOB, mine) as client:
            answer = await client.get("/v1/mesh/tasks")
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-trace-id"] == "d" * 32


async def test_processes_share_their_tokens(place: tuple[House, Settings]) -> None:
    _, settings = place
    async with service_tokens(settings, Service.COORDINATOR) as tokens:
        for _ in range(3):
            async with gateway_client(settings, Service.COORDINATOR, tokens=tokens) as client:
                assert (await client.get("/v1/mesh/agents")).status_code == 200
        assert tokens.statistics()["fetched"] == 1


async def test_after_a_leak_the_next_request_gets_a_new_token(
    place: tuple[House, Settings],
) -> None:
    house, settings = place
    async with service_tokens(settings, Service.SUPERVISOR) as tokens:
        async with gateway_client(settings, Service.SUPERVISOR, tokens=tokens) as client:
            assert (await client.get("/v1/models")).status_code == 200
            await house.tokens.rotate(overlap_s=0)
            house.app.authenticator.forget()
            assert (await client.get("/v1/models")).status_code == 200
        assert tokens.statistics()["fetched"] == 2


async def test_without_the_secret_or_the_gateway_it_says_so(
    place: tuple[House, Settings],
) -> None:
    _, settings = place
    bare = settings.model_copy(
        update={"security": settings.security.model_copy(update={"secret": None})}
    )
    with pytest.raises(Unavailable, match="secret"):
        async with gateway_client(bare, Service.JOB):
            pass
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = settings.model_copy(
        update={"gateway": settings.gateway.model_copy(update={"port": port})}
    )
    async with gateway_client(away, Service.JOB) as client:
        with pytest.raises(Unavailable, match="no token"):
            await client.get("/v1/models")
