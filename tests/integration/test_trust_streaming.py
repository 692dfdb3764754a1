"""Streaming bodies of messages over real sockets: bounded, resumed, slowed down, cut off."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from gateway_support import House, build_house, shaped, until
from streams_support import serving
from trust_memory import MemoryTrust

from benchmarks.trustworks.papers import mail
from mesh.core.errors import Overloaded, Unavailable
from mesh.storage.pool import Database
from serve_apps.gateway import trust_filling
from serve_apps.gateway.app import create_app

NDJSON = {"content-type": "application/x-ndjson"}
URL = "/v1/trust/batches"
PAGES = 3


@dataclass
class Served:
    house: House
    trust: MemoryTrust
    address: str

    def client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.house.key}", **NDJSON}
        return httpx.AsyncClient(base_url=f"http://{self.address}", headers=headers, timeout=60)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(database: Database, valkey_url: str) -> AsyncIterator[Served]:
    built = await build_house(database, valkey_url)
    settings = built.gateway.settings
    trust = settings.trust.model_copy(
        update={
            "stream_pages": PAGES,
            "streams": 2,
            "stream_silence_s": 1.0,
            "max_message_bytes": 50_000,
        }
    )
    memory = MemoryTrust(built.streams)
    gateway = replace(
        built.gateway, settings=settings.model_copy(update={"trust": trust}), trust=memory
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust_filling, "ADD_TIMEOUT_S", 5.0)
        house = replace(built, gateway=gateway, app=create_app(gateway))
    async with serving(house.app) as address:
        yield Served(house, memory, address)
    await gateway.apart.aclose()
    await built.redis.aclose()


def line(number: int, **more: Any) -> bytes:
    head = f"From: a@example.com\r\nMessage-ID: <{number}@example.com>\r\n\r\n"
    fields = {
        "message": f"{head}Hello {number}",
        "recipient": f"anna{number}@example.org",
        **more,
    }
    return json.dumps(fields).encode() + b"\n"


async def pieces(first: int, count: int, size: int = 40_000) -> AsyncIterator[bytes]:
    """The lines in pieces that end anywhere."""
    held = b""
    for number in range(first, first + count):
        held += line(number)
        while len(held) > size:
            yield held[:size]
            held = held[size:]
    yield held


async def test_a_body_of_any_length_takes_the_memory_of_a_few_pages(served: Served) -> None:
    count = 20_000
    served.trust.most_adding = served.trust.most_held = 0
    async with served.client() as client:
        answer = await client.post(URL, content=pieces(0, count))
    told = answer.json()
    assert (told["lines"], told["repeated"], told["certificates"]) == (count, 0, None)
    assert (told["batch"]["size"], told["batch"]["state"]) == (count, "included")
    assert served.trust.most_adding <= PAGES
    assert served.trust.most_held <= PAGES * 1_024 * len(line(count))


async def test_a_client_is_made_to_wait_while_nothing_is_committed(served: Served) -> None:
    served.trust.gate.clear()
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        number = 0
        while sent < 60_000_000:
            number += 1
            part = line(number, recipient="x" * 300)
            yield part
            sent += len(part)

    async with served.client() as client:
        posting = asyncio.create_task(client.post(URL, content=endless()))
        await until(lambda: served.trust.adding == PAGES)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        # What is on its way, the page that was read next, and what lies in sockets' buffers.
        assert sent < 15_000_000
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
    served.trust.gate.set()
    await until(lambda: served.trust.adding == 0)


async def begun(
    served: Served, body: bytes, headers: dict[str, str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request whose body has begun, and is to go on."""
    host, _, port = served.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    told = {"host": "x", "authorization": f"Bearer {served.house.key}", **NDJSON, **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    head = f"POST {URL} HTTP/1.1\r\n{head}transfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode() + b"%x\r\n" % len(body) + body + b"\r\n")
    await writer.drain()
    return reader, writer


def size(served: Served) -> int:
    """Of the newest batch."""
    return list(served.trust._batches.values())[-1].view.size


async def test_a_stream_that_was_cut_goes_on(served: Served) -> None:
    """A client that dies amid its body: what came whole is kept, and the key finds it again."""
    key = {"idempotency-key": str(uuid4())}
    body = b"".join(line(number) for number in range(30_000, 33_000)) + line(33_000)[:40]
    reader, writer = await begun(served, body, key)
    async with served.client() as client:

        async def kept() -> dict[str, Any]:
            page = (await client.get(f"{URL}?limit=1")).json()
            return dict(page["batches"][0])

        await until(lambda: size(served) == 3_000)
        writer.close()
        left = await kept()
        assert (left["state"], left["size"]) == ("open", 3_000)
        answer = await client.post(URL, content=pieces(30_000, 4_000), headers=key)
        told = answer.json()
        assert (told["batch"]["id"], told["batch"]["size"]) == (left["id"], 4_000)
        assert (told["lines"], told["repeated"]) == (4_000, 3_000)
        assert told["batch"]["state"] == "included"
        again = await client.post(URL, content=pieces(30_000, 4_000), headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json()["batch"] == told["batch"]
    del reader


async def test_lines_that_come_slowly_are_committed_all_the_same(served: Served) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield line(40_000)
        await until(lambda: size(served) == 1)
        yield line(40_001)[:10]
        await asyncio.sleep(0.2)
        yield line(40_001)[10:].rstrip(b"\n")

    async with served.client() as client:
        told = (await client.post(URL, content=slow())).json()
    assert told["batch"]["size"] == 2


async def test_a_silent_client_is_ended_and_what_came_is_kept(served: Served) -> None:
    reader, writer = await begun(served, line(41_000) + line(41_001)[:20], {})
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        body = json.loads(await reader.read())
    writer.close()
    assert b" 504 " in head
    assert b"connection: close" in head
    assert (body["code"], body["details"]["kept"]) == ("deadline_exceeded", 1)


async def test_a_line_that_is_too_long_is_named(served: Served) -> None:
    async def long() -> AsyncIterator[bytes]:
        yield line(42_000) + b'{"recipient":"a@b.c","message":"'
        for _ in range(400):
            yield b"x" * 1_000

    async with served.client() as client:
        answer = await client.post(URL, content=long())
    details = shaped(answer, 413, "body_too_large", "line 2")["details"]
    assert (details["kept"], details["limit_bytes"]) == (1, 100_000)


async def test_an_error_is_heard_by_a_client_that_is_still_sending(served: Served) -> None:
    async def much() -> AsyncIterator[bytes]:
        yield line(43_000) + b"wrong\n"
        async for piece in pieces(43_001, 3_000):
            yield piece

    async with served.client() as client:
        answer = await client.post(URL, content=much())
        details = shaped(answer, 400, "malformed_body", "line 2")["details"]
        assert details["kept"] == 1
        assert (await client.get(f"{URL}?limit=1")).status_code == 200


async def test_what_is_refused_unread_is_heard_too(served: Served) -> None:
    async with served.client() as client:
        answer = await client.post(f"{URL}/{uuid4()}/messages", content=pieces(44_000, 3_000))
        shaped(answer, 404, "not_found")
        assert (await client.get(f"{URL}?limit=1")).status_code == 200


async def test_an_owner_that_is_away_for_a_moment_is_waited_for(served: Served) -> None:
    served.trust.failures = [Unavailable("moved"), Overloaded("full", retry_after_s=0.1)]
    async with served.client() as client:
        answer = await client.post(URL, content=pieces(50_000, 2_000))
    assert (answer.json()["lines"], answer.json()["repeated"]) == (2_000, 0)
    assert served.trust.failures == []


async def test_an_owner_that_stays_away_is_told_with_what_is_kept(served: Served) -> None:
    async def later() -> AsyncIterator[bytes]:
        async for piece in pieces(60_000, 1_024):
            yield piece
        async with asyncio.timeout(30):
            while not served.trust._batches or size(served) != 1_024:
                await asyncio.sleep(0.1)
                yield b"\n"  # else a slow machine takes the wait for silence
        served.trust.failures = [Unavailable("gone") for _ in range(50)]
        async for piece in pieces(61_024, 10):
            yield piece

    async with served.client() as client:
        answer = await client.post(URL, content=later())
    served.trust.failures = []
    assert shaped(answer, 503, "unavailable")["details"]["kept"] == 1_024


async def test_so_many_bodies_are_read_at_once(served: Served) -> None:
    go_on = asyncio.Event()

    async def waiting(first: int) -> AsyncIterator[bytes]:
        yield line(first)
        async with asyncio.timeout(10):
            while not go_on.is_set():
                await asyncio.sleep(0.1)
                yield b"\n"

    async with served.client() as client:
        posts = [
            asyncio.create_task(client.post(URL, content=waiting(70_000 + at))) for at in range(2)
        ]
        await until(
            lambda: [kept.view.size for kept in served.trust._batches.values()][-2:] == [1, 1]
        )
        refused = await client.post(URL, content=pieces(70_009, 1))
        shaped(refused, 503, "overloaded")
        assert refused.headers["retry-after"]
        short = await client.post(URL, content=line(70_010))
        assert short.status_code == 201, "a body that is no longer than a page is not counted"
        go_on.set()
        answers = await asyncio.gather(*posts)
        assert [answer.status_code for answer in answers] == [201, 201]
        assert (await client.post(URL, content=pieces(70_009, 1))).status_code == 201


async def test_bytes_of_any_charset_go_in_as_base64(served: Served) -> None:
    raw = mail(number=80_000).replace(b"Anna", b"\xe9\x00\xff")
    content = {"message_base64": base64.b64encode(raw).decode(), "recipient": "a@example.org"}
    async with served.client() as client:
        told = (await client.post(URL, content=json.dumps(content).encode())).json()
        name = told["certificates"][0]["id"]
        body = {"message_base64": content["message_base64"], "id": name}
        verdict = await client.post(
            "/v1/trust/verify", json=body, headers={"content-type": "application/json"}
        )
    assert verdict.json()["level"] == "exact"
