"""Operators look at the engines, and let fakes fail: over the gateway, with its scopes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest_asyncio
from gateway_support import House, build_house, shaped

from mesh.contracts.engines import BreakerView, EngineView
from mesh.core.errors import InvalidInput, NotFound
from mesh.llm.faults import FaultPlan
from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app

VIEW = EngineView(
    name="default",
    kind="fake",
    model="fake",
    routes=["fast"],
    context_tokens=2_048,
    replicas=1,
    breaker=BreakerView(state="closed", in_a_row=0, failures=0, opened=0, retry_after_s=0),
    calls={"ok": 1, "failed": 0, "cancelled": 0},
    hedges=0,
    retries=0,
    figures=[{"active": 0}],
)


class Desk:
    def __init__(self) -> None:
        self.plans: list[FaultPlan] = []

    async def views(self) -> list[EngineView]:
        return [VIEW]

    async def set_faults(self, name: str, faults: dict[str, Any]) -> int:
        if name == "real":
            raise InvalidInput("only a fake engine fails by plan", {"field": "engine"})
        if name != "default":
            raise NotFound("There is no such engine")
        self.plans.append(FaultPlan.of(faults))
        return 2


@pytest_asyncio.fixture(loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    gateway = replace(built.gateway, engines=Desk())
    yield replace(built, gateway=gateway, app=create_app(gateway))
    await built.redis.aclose()


async def test_engines_are_listed(house: House) -> None:
    async with house.client() as client:
        answer = await client.get("/v1/mesh/engines")
    assert answer.status_code == 200
    assert answer.json() == {"data": [VIEW.model_dump(mode="json")]}
    weak = await house.keys.create("one", "weak", ["models:read"])
    async with house.client(weak.key) as client:
        shaped(await client.get("/v1/mesh/engines"), 403, "forbidden")
        put = await client.put("/v1/mesh/engines/default/faults", json={})
        shaped(put, 403, "forbidden")


async def test_a_fake_s_faults_are_put(house: House) -> None:
    desk: Any = house.gateway.engines
    async with house.client() as client:
        answer = await client.put(
            "/v1/mesh/engines/default/faults", json={"die_at_token": 3, "every": 2}
        )
        assert answer.json() == {"engine": "default", "replicas": 2}
        assert desk.plans[-1] == FaultPlan(die_at_token=3, every=2)
        other = await client.put("/v1/mesh/engines/other/faults", json={})
        shaped(other, 404, "not_found")
        real = await client.put("/v1/mesh/engines/real/faults", json={})
        shaped(real, 422, "invalid_input", "engine")
        unknown = await client.put("/v1/mesh/engines/default/faults", json={"explode": 1})
        shaped(unknown, 422, "invalid_input", "explode")
        wrong = await client.put("/v1/mesh/engines/default/faults", json={"every": 0})
        shaped(wrong, 422, "invalid_input", "every")
