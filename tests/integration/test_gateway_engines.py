"""Operators look at the engines, and let fakes fail: over the gateway, with its scopes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from gateway_support import House, build_house, shaped

from mesh.llm.faults import FaultPlan
from mesh.storage.pool import Database


@pytest_asyncio.fixture(loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


async def test_engines_are_listed(house: House) -> None:
    async with house.client() as client:
        answer = await client.get("/v1/mesh/engines")
    assert answer.status_code == 200
    [view] = answer.json()["data"]
    assert (view["name"], view["breaker"]["state"]) == ("default", "closed")
    assert view["figures"][0]["slots"] == 8
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
        assert answer.json() == {"engine": "default", "replicas": 1}
        assert desk.engine.faults == FaultPlan(die_at_token=3, every=2)
        other = await client.put("/v1/mesh/engines/other/faults", json={})
        shaped(other, 404, "not_found")
        unknown = await client.put("/v1/mesh/engines/default/faults", json={"explode": 1})
        shaped(unknown, 422, "invalid_input", "explode")
        wrong = await client.put("/v1/mesh/engines/default/faults", json={"every": 0})
        shaped(wrong, 422, "invalid_input", "every")
