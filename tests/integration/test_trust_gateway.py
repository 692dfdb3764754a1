"""``/v1/trust`` as its callers see it, before certificates in memory."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from gateway_support import House, build_house, shaped
from streams_support import serving
from trust_memory import MemoryTrust

from benchmarks.trustworks.papers import mail
from mesh.contracts.trust import BatchState
from mesh.security import scopes
from mesh.storage.pool import Database

NDJSON = {"content-type": "application/x-ndjson"}
NOBODY = "a" * 32
"""An id that was never given out."""


@dataclass
class Both:
    house: House
    trust: MemoryTrust

    async def key(self, *wanted: str) -> str:
        return (await self.house.keys.create("one", "test", wanted)).key


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def both(database: Database, valkey_url: str) -> AsyncIterator[Both]:
    house = await build_house(database, valkey_url)
    trust = MemoryTrust(house.streams)
    house.gateway.trust = trust
    yield Both(house, trust)
    await house.gateway.apart.aclose()
    await house.redis.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def client(both: Both) -> AsyncIterator[httpx.AsyncClient]:
    async with both.house.client() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def anybody(both: Both) -> AsyncIterator[httpx.AsyncClient]:
    async with both.house.client("") as opened:
        yield opened


def line(number: int, **more: Any) -> bytes:
    message = mail(number=number)
    fields = {
        "message_base64": base64.b64encode(message).decode(),
        "recipient": f"anna{number}@example.org",
        **more,
    }
    return json.dumps(fields).encode() + b"\n"


def lines(first: int, count: int) -> bytes:
    return b"".join(line(number) for number in range(first, first + count))


async def certify(client: httpx.AsyncClient, first: int, count: int = 3) -> dict[str, Any]:
    answer = await client.post("/v1/trust/batches", content=lines(first, count), headers=NDJSON)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_stream_becomes_a_batch(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/trust/batches?name=Spring", content=lines(10, 3), headers=NDJSON
    )
    told = answer.json()
    assert (answer.status_code, told["lines"], told["repeated"]) == (201, 3, 0)
    batch = told["batch"]
    assert (batch["name"], batch["state"], batch["size"]) == ("Spring", "included", 3)
    assert [c["index"] for c in told["certificates"]] == [0, 1, 2]
    url = answer.headers["location"]
    assert url == f"/v1/trust/batches/{batch['id']}"
    assert (await client.get(url)).json() == batch
    listed = (await client.get("/v1/trust/batches?limit=1")).json()
    assert listed["batches"][0]["id"] == batch["id"]
    every = await client.get(f"{url}/certificates")
    assert every.headers["content-type"] == "application/x-ndjson"
    got = [json.loads(one) for one in every.content.splitlines()]
    assert got == told["certificates"]
    part = await client.get(f"{url}/certificates?after=0&limit=1")
    assert [json.loads(one)["index"] for one in part.content.splitlines()] == [1]


async def test_a_batch_stays_open_and_is_closed_later(client: httpx.AsyncClient) -> None:
    opened = await client.post("/v1/trust/batches?close=false", content=b"", headers=NDJSON)
    batch = opened.json()["batch"]
    assert (batch["state"], batch["size"]) == ("open", 0)
    url = f"/v1/trust/batches/{batch['id']}"
    shaped(await client.post(f"{url}/close"), 409, "conflict")
    for first in (20, 22):
        more = await client.post(f"{url}/messages", content=lines(first, 2), headers=NDJSON)
        assert (more.status_code, more.json()["lines"]) == (200, 2)
    assert more.json()["batch"]["size"] == 4
    again = await client.post(f"{url}/messages", content=lines(20, 4), headers=NDJSON)
    assert (again.json()["lines"], again.json()["repeated"]) == (4, 4)
    one = (await client.post(f"{url}/close")).json()
    two = (await client.post(f"{url}/close")).json()
    assert one == two
    assert one["state"] == "included"
    late = await client.post(f"{url}/messages", content=line(29), headers=NDJSON)
    assert shaped(late, 409, "conflict")["details"]["kept"] == 0


async def test_single_mails_go_into_the_rolling_batch(client: httpx.AsyncClient) -> None:
    url = "/v1/trust/batches/rolling/messages"
    told = (await client.post(url, content=line(30), headers=NDJSON)).json()
    assert (told["batch"], told["lines"]) == (None, 1)
    view = await client.get(f"/v1/trust/certificates/{told['certificates'][0]['id']}")
    assert view.json()["state"] == "open"


async def test_a_key_names_the_batch(client: httpx.AsyncClient) -> None:
    headers = {**NDJSON, "idempotency-key": str(uuid4())}
    url = "/v1/trust/batches"
    kept = await client.post(f"{url}?close=false", content=lines(40, 2), headers=headers)
    rest = await client.post(url, content=lines(40, 5), headers=headers)
    assert (rest.json()["lines"], rest.json()["repeated"]) == (5, 2)
    assert rest.json()["batch"]["id"] == kept.json()["batch"]["id"]
    assert rest.json()["batch"]["size"] == 5
    again = await client.post(url, content=lines(40, 5), headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["batch"] == rest.json()["batch"]
    assert again.status_code == 201


async def test_nothing_is_opened_for_nothing(client: httpx.AsyncClient) -> None:
    before = (await client.get("/v1/trust/batches?limit=500")).json()["batches"]
    for body in (b"", b"\n \n", b"{}\n", b"no json\n"):
        answer = await client.post("/v1/trust/batches", content=body, headers=NDJSON)
        assert answer.status_code in (400, 422), body
    assert (await client.get("/v1/trust/batches?limit=500")).json()["batches"] == before
    answer = await client.post("/v1/trust/batches", json={"name": "x"})
    shaped(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("wrong", "status", "code", "field"),
    [
        (b'{"message":"x"}\n', 422, "invalid_input", "line 3: recipient"),
        (b'{"recipient":"a@b.c"}\n', 422, "invalid_input", "line 3"),
        (b'{"message":"x","recipient":"a","colour":1}\n', 422, "invalid_input", "line 3: colour"),
        (b'{"message":1,"recipient":"a@b.c"}\n', 422, "invalid_input", "line 3: message"),
        (b"[1]\n", 422, "invalid_input", "line 3"),
        (b"{\n", 400, "malformed_body", "line 3"),
        (b'{"message":"\\u0000","recipient":"a"}\n', 400, "malformed_body", "line 3: message"),
        (b"\xff\n", 400, "malformed_body", "line 3"),
    ],
)
async def test_a_wrong_line_is_named_and_what_came_before_is_kept(
    client: httpx.AsyncClient, wrong: bytes, status: int, code: str, field: str
) -> None:
    body = lines(50, 1) + b"\n" + wrong + lines(51, 2)
    answer = await client.post("/v1/trust/batches", content=body, headers=NDJSON)
    details = shaped(answer, status, code, field)["details"]
    assert (details["line"], details["kept"]) == (3, 1)
    view = (await client.get(f"/v1/trust/batches/{details['batch']}")).json()
    assert (view["state"], view["size"]) == ("open", 1)
    url = f"/v1/trust/batches/{details['batch']}"
    more = await client.post(f"{url}/messages", content=lines(50, 3), headers=NDJSON)
    assert (more.json()["lines"], more.json()["repeated"]) == (3, 1)
    assert (await client.post(f"{url}/close")).json()["size"] == 3


async def test_a_line_that_the_batch_refuses_costs_no_line_before_it(
    client: httpx.AsyncClient,
) -> None:
    other = line(61, recipient="somebody@example.org")
    body = lines(60, 2) + other + lines(62, 1)
    answer = await client.post("/v1/trust/batches", content=body, headers=NDJSON)
    details = shaped(answer, 409, "conflict")["details"]
    assert (details["line"], details["kept"]) == (3, 2)


async def test_wrong_questions_are_told(client: httpx.AsyncClient) -> None:
    shaped(await client.get("/v1/trust/batches?limit=0"), 422, "invalid_input", "limit")
    shaped(await client.get("/v1/trust/batches?colour=red"), 422, "invalid_input", "colour")
    shaped(await client.get("/v1/trust/batches/nothing"), 422, "invalid_input", "batch")
    shaped(await client.get(f"/v1/trust/batches/{uuid4()}"), 404, "not_found")
    url = f"/v1/trust/batches/{uuid4()}/messages"
    shaped(await client.post(url, content=line(1), headers=NDJSON), 404, "not_found")
    headers = {"last-event-id": "tomorrow"}
    answer = await client.get(f"/v1/trust/batches/{uuid4()}/events", headers=headers)
    shaped(answer, 422, "invalid_input", "header.Last-Event-ID")


async def test_another_workspace_finds_nothing_of_it(both: Both, client: httpx.AsyncClient) -> None:
    told = await certify(client, 70)
    url = f"/v1/trust/batches/{told['batch']['id']}"
    certificate = f"/v1/trust/certificates/{told['certificates'][0]['id']}"
    async with both.house.client(both.house.other) as stranger:
        for method, path, body in (
            ("GET", url, None),
            ("GET", f"{url}/certificates", None),
            ("GET", f"{url}/events", None),
            ("GET", f"{url}/ids", None),
            ("POST", f"{url}/close", None),
            ("POST", f"{url}/forget", {"recipient": "anna70@example.org"}),
            ("POST", f"{certificate}/revoke", {}),
            ("POST", f"{certificate}/forget", None),
        ):
            answer = await stranger.request(method, path, json=body)
            shaped(answer, 404, "not_found")
        answer = await stranger.post(f"{url}/messages", content=line(79), headers=NDJSON)
        shaped(answer, 404, "not_found")
        assert (await stranger.get("/v1/trust/batches")).json()["batches"] == []
        found = (await stranger.get("/v1/trust/documents/d/1")).json()
        assert found["certificates"] == 0
        # Who has the name of a certificate may see it, whoever that is.
        assert (await stranger.get(certificate)).status_code == 200
    key = {**NDJSON, "idempotency-key": str(uuid4())}
    async with both.house.client(both.house.other) as stranger:
        ids = {
            (await who.post("/v1/trust/batches", content=line(77), headers=key)).json()["batch"][
                "id"
            ]
            for who in (client, stranger)
        }
    assert len(ids) == 2


async def test_scopes_are_apart(both: Both, client: httpx.AsyncClient) -> None:
    told = await certify(client, 80)
    url = f"/v1/trust/batches/{told['batch']['id']}"
    certificate = f"/v1/trust/certificates/{told['certificates'][0]['id']}"
    every = {scopes.TRUST_READ, scopes.TRUST_WRITE, scopes.TRUST_REVOKE}
    asks: list[tuple[str, str, str, dict[str, Any]]] = [
        (scopes.TRUST_WRITE, "POST", "/v1/trust/batches", {"content": line(88), "headers": NDJSON}),
        (scopes.TRUST_WRITE, "POST", f"{url}/close", {}),
        (scopes.TRUST_READ, "GET", "/v1/trust/batches", {}),
        (scopes.TRUST_READ, "GET", url, {}),
        (scopes.TRUST_READ, "GET", f"{url}/certificates", {}),
        (scopes.TRUST_READ, "GET", "/v1/trust/networks", {}),
        (scopes.TRUST_READ, "GET", "/v1/trust/documents/a/b", {}),
        (scopes.TRUST_REVOKE, "POST", f"{certificate}/revoke", {"json": {}}),
        (scopes.TRUST_REVOKE, "POST", f"{certificate}/forget", {}),
    ]
    for scope, method, path, body in asks:
        async with both.house.client(await both.key(*(every - {scope}))) as weak:
            refused = shaped(await weak.request(method, path, **body), 403, "forbidden")
            assert refused["details"]["scope"] == scope
        async with both.house.client(await both.key(scope)) as just:
            assert (await just.request(method, path, **body)).is_success, (method, path)


async def test_networks_hold_numbers_of_any_length(client: httpx.AsyncClient) -> None:
    told = (await client.get("/v1/trust/networks")).json()
    assert told["networks"][0]["balance_wei"] == 10**22


async def test_documents_and_people(client: httpx.AsyncClient) -> None:
    body = line(
        90, document={"id": "d1", "version": "3"}, dkim={"selector": "s", "public_key": "YWJj"}
    )
    told = (await client.post("/v1/trust/batches", content=body, headers=NDJSON)).json()
    found = (await client.get("/v1/trust/documents/d1/3")).json()
    assert found["batches"] == [told["batch"]["id"]]
    url = f"/v1/trust/batches/{told['batch']['id']}/forget"
    receipt = (await client.post(url, json={"recipient": "anna90@example.org"})).json()
    assert receipt["certificates"] == [told["certificates"][0]["id"]]
    shaped(await client.post(url, json={"recipient": ""}), 422, "invalid_input", "recipient")


def frames(text: str) -> Iterator[tuple[str, str, Any]]:
    for block in text.split("\n\n"):
        fields = dict(row.split(": ", 1) for row in block.splitlines() if ": " in row)
        if "data" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])


async def listen(
    client: httpx.AsyncClient, url: str, wanted: int, last: str = ""
) -> list[tuple[str, str, Any]]:
    """The first ``wanted`` events."""
    headers = {"last-event-id": last} if last else {}
    text = ""
    async with asyncio.timeout(10), client.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        async for part in answer.aiter_text():
            text += part
            found = list(frames(text))
            if len(found) >= wanted:
                return found
    raise AssertionError(text)


async def test_events_begin_with_how_things_are_and_resume(both: Both) -> None:
    headers = {"authorization": f"Bearer {both.house.key}"}
    async with (
        serving(both.house.app) as address,
        httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as client,
    ):
        await _events(both, client)


async def test_batches_are_topics_beside_others(both: Both, client: httpx.AsyncClient) -> None:
    told = await certify(client, 130)
    batch = UUID(told["batch"]["id"])
    headers = {"authorization": f"Bearer {both.house.key}"}
    query = f"topics=trust:{batch},workspace:trust&types=trust.*"
    async with (
        serving(both.house.app) as address,
        httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as heard,
    ):
        first = await listen(heard, f"/v1/mesh/events?{query}", 1)
        await both.trust.anchor(batch, BatchState.FINAL)
        rest = await listen(heard, f"/v1/mesh/events?{query}", 2, first[0][0])
    assert (rest[1][1], rest[1][2]["topic"]) == ("trust.batch", f"trust:{batch}")
    async with both.house.client(both.house.other) as stranger:
        shaped(await stranger.get(f"/v1/mesh/events?topics=trust:{batch}"), 404, "not_found")
    shaped(await client.get("/v1/mesh/events?topics=trust:x"), 422, "invalid_input", "topic")
    weak = await both.key(scopes.STREAMS_READ)
    async with both.house.client(weak) as reader:
        for topic in (f"trust:{batch}", "workspace:trust"):
            answer = await reader.get(f"/v1/mesh/events?topics={topic}")
            assert shaped(answer, 403, "forbidden")["details"]["scope"] == scopes.TRUST_READ


async def _events(both: Both, client: httpx.AsyncClient) -> None:
    told = await certify(client, 100)
    batch = UUID(told["batch"]["id"])
    url = f"/v1/trust/batches/{batch}/events"
    ((place, kind, data),) = await listen(client, url, 1)
    assert (kind, data["batch"]["state"]) == ("snapshot", "included")
    for state in (BatchState.CONFIRMED, BatchState.ORPHANED, BatchState.FINAL):
        await both.trust.anchor(batch, state)
    missed = await listen(client, url, 3, place)
    assert [event[1] for event in missed] == ["trust.batch"] * 3
    assert [event[2]["data"]["state"] for event in missed] == ["confirmed", "orphaned", "final"]
    rest = await listen(client, url, 1, missed[1][0])
    assert rest == [missed[2]]
    # A place in a stream that has expired: how things are, instead of nothing.
    ((_, kind, data),) = await listen(client, url, 1, "999999999999999-1")
    assert (kind, data["batch"]["state"]) == ("snapshot", "final")
    certificate = told["certificates"][0]["id"]
    await client.post(f"/v1/trust/certificates/{certificate}/revoke", json={})
    ((_, kind, data),) = await listen(client, url, 1, missed[2][0])
    assert (kind, data["data"]["certificate"]) == ("trust.certificate", certificate)
