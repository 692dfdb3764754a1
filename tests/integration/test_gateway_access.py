"""API keys and OAuth's client credentials over the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from gateway_support import House, build_house

from mesh.storage.pool import Database

TASKS = "/v1/mesh/tasks"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


async def test_keys_can_not_grant_what_they_lack(house: House) -> None:
    weak = await house.keys.create("one", "weak", ["keys:admin", "models:read"])
    async with house.client(weak.key) as client:
        answer = await client.post("/v1/keys", json={"name": "x", "scopes": ["tasks:write"]})
        assert answer.status_code == 403
        assert answer.json()["details"]["scope"] == "tasks:write"
        answer = await client.post("/v1/keys", json={"name": "x", "scopes": ["no:such"]})
        assert answer.status_code == 422
        answer = await client.post("/v1/keys", json={"name": "x", "scopes": ["models:read"]})
        assert answer.status_code == 201
        made = answer.json()
        assert made["key"].startswith(f"mk_{made['id']}_")
        listed = (await client.get("/v1/keys")).json()["items"]
        assert made["id"] in [key["id"] for key in listed]
        assert made["key"] not in (await client.get("/v1/keys")).text


async def test_oauth_client_credentials(house: House) -> None:
    key = await house.keys.create("one", "client", ["models:read", "tasks:read"])
    form = {"grant_type": "client_credentials"}
    async with house.client("") as client:
        for auth, more in (
            ((key.id, key.key), {}),
            (None, {"client_id": key.id, "client_secret": key.key}),
            (None, {"client_secret": key.key}),
        ):
            answer = await client.post(
                "/oauth/token", data=form | more, auth=auth or httpx.USE_CLIENT_DEFAULT
            )
            body = answer.json()
            assert answer.status_code == 200, body
            assert body["token_type"] == "Bearer"
            assert body["expires_in"] == 900
            assert body["scope"] == "models:read tasks:read"
            assert answer.headers["cache-control"] == "no-store"
        narrow = await client.post(
            "/oauth/token", data=form | {"client_secret": key.key, "scope": "models:read"}
        )
        token = narrow.json()["access_token"]
    async with house.client(token) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.get(TASKS)).status_code == 403
    kids = {k["kid"] for k in (await house.gateway.tokens.jwks())["keys"]}
    assert kids
    assert all("d" not in k for k in (await house.gateway.tokens.jwks())["keys"])


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"scope": "models:read"}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, 401, "invalid_client"),
        ({"grant_type": "client_credentials", "client_secret": "mk_x"}, 401, "invalid_client"),
        ({"grant_type": "client_credentials", "colour": "red"}, 400, "invalid_request"),
        ({"grant_type": "client_credentials", "client_secret": "KEY", "scope": "keys:admin"},
         400, "invalid_scope"),
        ({"grant_type": "client_credentials", "client_secret": "KEY", "scope": "no:such"},
         400, "invalid_scope"),
        ({"grant_type": "client_credentials", "client_secret": "KEY", "client_id": "else"},
         401, "invalid_client"),
        ({"grant_type": "client_credentials\x00"}, 400, "invalid_request"),
    ],
)  # fmt: skip
async def test_oauth_refusals(house: House, form: dict[str, str], status: int, error: str) -> None:
    key = await house.keys.create("one", "client", ["models:read"])
    async with house.client("") as client:
        if form.get("client_secret") == "KEY":
            form = form | {"client_secret": key.key}
        answer = await client.post("/oauth/token", data=form)
        body = answer.json()
        assert (answer.status_code, body["error"]) == (status, error), body
        assert body["error_description"] == body["message"]
        assert len(body["traceId"]) == 32
        twice = await client.post(
            "/oauth/token",
            content="grant_type=client_credentials&grant_type=x",
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        assert (twice.status_code, twice.json()["error"]) == (400, "invalid_request")
