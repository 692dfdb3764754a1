"""``/v1/memory`` as its callers see it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from gateway_support import House, build_house, shaped
from memory_support import House as MemoryHouse
from memory_support import open_house, settings_for

from mesh.security import scopes
from mesh.storage.pool import Database

ANNA = {"kind": "contact", "id": "anna"}
BRAND = {"kind": "workspace"}


@dataclass
class Both:
    house: House
    memory: MemoryHouse

    async def key(self, *wanted: str) -> str:
        return (await self.house.keys.create("one", "test", wanted)).key


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def both(
    database: Database,
    database_dsn: str,
    valkey_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Both]:
    house = await build_house(database, valkey_url)
    home = tmp_path_factory.mktemp("memory")
    async with open_house(settings_for(database_dsn, valkey_url, home)) as memory:
        house.gateway.memory = memory.client
        yield Both(house, memory)
    await house.redis.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def client(both: Both) -> AsyncIterator[httpx.AsyncClient]:
    async with both.house.client() as opened:
        yield opened


def new(text: str, namespace: dict[str, str] = ANNA, **more: Any) -> dict[str, Any]:
    return {"namespace": namespace, "kind": "fact", "text": text, **more}


async def remember(client: httpx.AsyncClient, *items: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.post("/v1/memory/items", json={"items": list(items)})
    assert answer.status_code == 201, answer.text
    return list(answer.json()["items"])


async def search(
    client: httpx.AsyncClient, text: str, namespace: dict[str, str] = ANNA, **more: Any
) -> dict[str, Any]:
    body = {"text": text, "namespaces": [namespace], **more}
    answer = await client.post("/v1/memory/search", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_remember_search_read_change_forget(client: httpx.AsyncClient) -> None:
    (item,) = await remember(client, new("Anna likes yellow daffodils", tags=["flowers"]))
    told = await search(client, "which daffodils")
    assert told["hits"][0]["item"]["id"] == item["id"]
    assert told["hits"][0]["citation"] == f"mem:{item['id']}"
    assert told["packed"].startswith("[1] Anna likes yellow daffodils")
    url = f"/v1/memory/items/{item['id']}"
    assert (await client.get(url)).json()["text"] == "Anna likes yellow daffodils"
    changed = await client.patch(url, json={"pinned": True, "importance": 1})
    assert (changed.json()["pinned"], changed.json()["importance"]) == (True, 1.0)
    receipt = (await client.delete(url)).json()
    assert (receipt["items"], receipt["remaining"]) == ([item["id"]], 0)
    shaped(await client.get(url), 404, "not_found")
    shaped(await client.patch(url, json={"pinned": False}), 404, "not_found")
    shaped(await client.delete(url), 404, "not_found")
    checked = (await client.get(f"/v1/memory/receipts/{receipt['id']}")).json()
    assert (checked["remaining"], checked["hash"]) == (0, receipt["hash"])


async def test_an_idempotency_key_names_each_memory_of_a_batch(client: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": f"batch {uuid4()}".replace(" ", "-")}
    body = {"items": [new("First of a batch"), new("Second of a batch")]}
    one = await client.post("/v1/memory/items", json=body, headers=headers)
    two = await client.post("/v1/memory/items", json=body, headers=headers)
    ids = [[item["id"] for item in answer.json()["items"]] for answer in (one, two)]
    assert ids[0] == ids[1]
    other = {"items": [new("Something else")]}
    shaped(
        await client.post("/v1/memory/items", json=other, headers=headers),
        422,
        "idempotency_mismatch",
        "client_id",
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "items", {"items": []}, "items"),
        ("POST", "items", {"items": [new("x" * 8_001)]}, "items.0.text"),
        ("POST", "items", {"items": [new("???")]}, "text"),
        ("POST", "items", {"items": [new("x") | {"kind": "dream"}]}, "items.0.kind"),
        ("POST", "items", {"items": [new("x") | {"colour": "red"}]}, "items.0.colour"),
        ("POST", "items", {"items": [new("one", vector=[1.0, 0.0])]}, "vector"),
        ("POST", "search", {"text": "x", "namespaces": []}, "namespaces"),
        ("POST", "search", {"text": "x", "namespaces": [ANNA], "k": 0}, "k"),
        ("POST", "search", {"text": "x", "namespaces": [{"kind": "contact"}]}, "namespaces.0"),
        ("PATCH", f"items/{uuid4()}", {"importance": 2}, "importance"),
        ("POST", "consolidate", {"namespace": {"kind": "planet", "id": "x"}}, "namespace.kind"),
    ],
)
async def test_wrong_fields_are_named(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    await remember(client, new("Something to set the dimensions"))
    shaped(
        await client.request(method, f"/v1/memory/{path}", json=body), 422, "invalid_input", field
    )


async def test_rules_between_fields_are_told(client: httpx.AsyncClient) -> None:
    for path, body in (
        ("forget", {}),
        ("forget", {"contact": "a", "namespace": ANNA}),
        ("search", {"text": "  ", "namespaces": [ANNA]}),
    ):
        shaped(await client.post(f"/v1/memory/{path}", json=body), 422, "invalid_input")
    shaped(await client.get("/v1/memory/export?kind=contact"), 422, "invalid_input", "id")
    shaped(await client.get("/v1/memory/items/no-id"), 422, "invalid_input")


async def test_scopes_are_apart(both: Both, client: httpx.AsyncClient) -> None:
    (item,) = await remember(client, new("Guarded by scopes"))
    url = f"/v1/memory/items/{item['id']}"
    asks: list[tuple[str, str, str, dict[str, Any] | None]] = [
        (scopes.MEMORY_WRITE, "POST", "/v1/memory/items", {"items": [new("Written")]}),
        (scopes.MEMORY_WRITE, "PATCH", url, {"pinned": True}),
        (scopes.MEMORY_WRITE, "POST", "/v1/memory/consolidate", {"namespace": ANNA}),
        (scopes.MEMORY_READ, "POST", "/v1/memory/search", {"text": "x", "namespaces": [ANNA]}),
        (scopes.MEMORY_READ, "GET", url, None),
        (scopes.MEMORY_READ, "GET", "/v1/memory/stats", None),
        (scopes.MEMORY_READ, "GET", "/v1/memory/export", None),
        (scopes.MEMORY_FORGET, "DELETE", url, None),
        (scopes.MEMORY_FORGET, "POST", "/v1/memory/forget", {"contact": "nobody"}),
    ]
    every = {scopes.MEMORY_READ, scopes.MEMORY_WRITE, scopes.MEMORY_FORGET}
    for scope, method, path, body in asks:
        async with both.house.client(await both.key(*(every - {scope}))) as weak:
            refused = shaped(await weak.request(method, path, json=body), 403, "forbidden")
            assert refused["details"]["scope"] == scope
        async with both.house.client(await both.key(scope)) as just:
            assert (await just.request(method, path, json=body)).is_success, (method, path)


async def test_another_workspace_finds_nothing_of_it(both: Both, client: httpx.AsyncClient) -> None:
    (item,) = await remember(client, new("Nobody else's business"))
    url = f"/v1/memory/items/{item['id']}"
    async with both.house.client(both.house.other) as stranger:
        assert (await search(stranger, "business"))["hits"] == []
        shaped(await stranger.get(url), 404, "not_found")
        shaped(await stranger.patch(url, json={"pinned": True}), 404, "not_found")
        shaped(await stranger.delete(url), 404, "not_found")
        forgot = await stranger.post("/v1/memory/forget", json={"item": item["id"]})
        shaped(forgot, 404, "not_found")
        gone = await stranger.post("/v1/memory/forget", json={"contact": "anna"})
        assert gone.json()["erased"]["items"] == 0
        shaped(
            await stranger.post("/v1/memory/consolidate", json={"namespace": ANNA}),
            404,
            "not_found",
        )
        assert (await stranger.get("/v1/memory/stats")).json()["items"] == 0
        assert (await stranger.get("/v1/memory/export")).content == b""
        receipt = (await client.delete(url)).json()
        shaped(await stranger.get(f"/v1/memory/receipts/{receipt['id']}"), 404, "not_found")


async def test_export_and_import_are_lines(both: Both, client: httpx.AsyncClient) -> None:
    space = {"kind": "campaign", "id": "spring"}
    await remember(client, new("Line one", space), new("Line two", space))
    answer = await client.get("/v1/memory/export?kind=campaign&id=spring&vectors=true")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.content.count(b"\n") == 2
    headers = {"content-type": "application/x-ndjson"}
    async with both.house.client(both.house.other) as other:
        for expected in ({"stored": 2, "repeated": 0}, {"stored": 0, "repeated": 2}):
            report = await other.post("/v1/memory/import", content=answer.content, headers=headers)
            assert report.json() == expected
        bad = await other.post("/v1/memory/import", content=b'{"text": "x"}\n', headers=headers)
        assert shaped(bad, 422, "invalid_input")["details"]["line"] == 1
        shaped(await other.post("/v1/memory/import", json={}), 415, "unsupported_media_type")


async def test_stats_and_consolidation(client: httpx.AsyncClient) -> None:
    space = {"kind": "contact", "id": "dora"}
    said = "Dora likes green tea very much", "Very much Dora likes green tea"
    await remember(client, *(new(text, space) for text in said))
    done = await client.post("/v1/memory/consolidate", json={"namespace": space})
    assert done.json()["merged"] == 1
    stats = (await client.get("/v1/memory/stats")).json()
    assert stats["by_state"]["merged"] == 1
    assert sum(stats["shards"].values()) == 64


async def test_traces_are_told_what_is_still_there(both: Both, client: httpx.AsyncClient) -> None:
    (item,) = await remember(client, new("Cited somewhere"))
    row = await both.house.keys.verify(both.house.key)
    cited = both.memory.client.cited
    wanted = [item["id"], str(uuid4()), "no id"]
    assert await cited(row.workspace_id, wanted) == {item["id"]: "Cited somewhere"}


async def test_without_memory_it_is_unavailable(both: Both) -> None:
    bare = both.house.changed()
    bare.gateway.memory = None
    async with bare.client() as client:
        shaped(await client.get("/v1/memory/stats"), 503, "unavailable")
