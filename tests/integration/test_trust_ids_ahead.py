"""Ids before the messages: a mail can show its own certificate's link."""

from __future__ import annotations

import json

import httpx
from gateway_support import shaped

from mesh.security import scopes
from tests.integration.test_trust_gateway import (
    NDJSON,
    Both,
    anybody,
    both,
    certify,
    client,
    line,
    lines,
)

__all__ = ["anybody", "both", "client"]


async def test_ids_come_before_their_messages(client: httpx.AsyncClient) -> None:
    opened = await client.post("/v1/trust/batches?close=false", content=b"", headers=NDJSON)
    url = f"/v1/trust/batches/{opened.json()['batch']['id']}"
    ahead = (await client.get(f"{url}/ids?count=5")).json()
    assert (ahead["first"], ahead["size"], len(ahead["ids"])) == (0, 0, 5)
    body = b"".join(line(number, certificate=ahead["ids"][number - 900]) for number in (900, 901))
    filled = (await client.post(f"{url}/messages", content=body, headers=NDJSON)).json()
    assert [told["id"] for told in filled["certificates"]] == ahead["ids"][:2]
    following = (await client.get(f"{url}/ids?count=3")).json()
    assert (following["first"], following["size"]) == (2, 2)
    assert following["ids"] == ahead["ids"][2:]
    again = (await client.get(f"{url}/ids?first=1&count=2")).json()
    assert again["ids"] == ahead["ids"][1:3]
    # Nobody is at those places yet, and to have the ids shows nothing of anyone.
    shaped(await client.get(f"/v1/trust/certificates/{ahead['ids'][3]}"), 404, "not_found")
    await client.post(f"{url}/close")
    shaped(await client.get(f"{url}/ids"), 409, "conflict")


async def test_who_may_have_them(
    client: httpx.AsyncClient, both: Both, anybody: httpx.AsyncClient
) -> None:
    opened = await client.post("/v1/trust/batches?close=false", content=b"", headers=NDJSON)
    url = f"/v1/trust/batches/{opened.json()['batch']['id']}/ids"
    shaped(await anybody.get(url), 401, "unauthenticated")
    reader = {"authorization": f"Bearer {await both.key(scopes.TRUST_READ)}"}
    shaped(await anybody.get(url, headers=reader), 403, "forbidden")
    theirs = (await both.house.keys.create("two", "test", (scopes.TRUST_WRITE,))).key
    other = {"authorization": f"Bearer {theirs}"}
    shaped(await anybody.get(url, headers=other), 404, "not_found")
    for wrong in ("count=0", "count=10001", "first=-1", "x=1"):
        shaped(await client.get(f"{url}?{wrong}"), 422, "invalid_input")


async def test_what_names_no_id_is_taken_as_before(client: httpx.AsyncClient) -> None:
    told = await certify(client, 950, 2)
    assert told["lines"] == 2
    bad = json.loads(line(960)) | {"certificate": "short"}
    answer = await client.post(
        "/v1/trust/batches",
        content=lines(961, 1) + json.dumps(bad).encode() + b"\n",
        headers=NDJSON,
    )
    assert answer.status_code == 422
    assert "2" in json.dumps(answer.json()["details"])
