"""Rubbish in: the right 4xx out, in our shape, naming the field, and nothing is harmed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gateway_support import House, build_house, served, shaped

from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 8,
}
TASK = {"brief": {"goal": "sell shoes"}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


BAD: list[tuple[str, str, bytes, int, str, str | None]] = [
    ("malformed", CHAT, b'{"model": ', 400, "malformed_body", "body"),
    ("empty", CHAT, b"", 400, "malformed_body", "body"),
    ("not UTF-8", CHAT, b'{"model": "\xff\xfe"}', 400, "malformed_body", "body"),
    ("lone surrogate", CHAT, b'{"model": "\\ud800"}', 400, "malformed_body", "body"),
    ("NaN", CHAT, b'{"model": "fake", "temperature": NaN}', 400, "malformed_body", "body"),
    ("no object", CHAT, b"[]", 400, "malformed_body", "body"),
    ("deep", CHAT, b'{"model":' + b"[" * 40 + b"]" * 40 + b"}", 400, "malformed_body", "body"),
    ("very deep", CHAT, b"[" * 100_000, 400, "malformed_body", "body"),
    ("NUL escape", CHAT, b'{"model": "a\\u0000b"}', 400, "malformed_body", "model"),
    ("NUL in a name", CHAT, b'{"a\\u0000": 1}', 400, "malformed_body", "body"),
    ("NUL byte", CHAT, b'{"model": "a\x00b"}', 400, "malformed_body", "body"),
    ("NUL in a brief", "/v1/mesh/tasks", b'{"brief":{"goal":"a\\u0000b"}}', 400, "malformed_body",
     "brief.goal"),
    ("huge number", CHAT, b'{"model":"fake","messages":[{"role":"user","content":"x"}],'
     b'"seed":' + b"9" * 40 + b"}", 422, "invalid_input", "seed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "field"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
async def test_rubbish_bodies(
    house: House, path: str, body: bytes, status: int, code: str, field: str
) -> None:
    async with house.client() as client:
        answer = await client.post(path, content=body, headers={"content-type": "application/json"})
        found = shaped(answer, status, code, field)
        if path == CHAT:
            assert found["error"]["param"] == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"temperature": 99}, "temperature"),
        ({"tempreature": 1}, "tempreature"),
        ({"stream": "yes"}, "stream"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"n": 2}, "n"),
    ],
)
async def test_wrong_fields_are_named(house: House, change: dict[str, Any], field: str) -> None:
    async with house.client() as client:
        body = shaped(await client.post(CHAT, json=HELLO | change), 422, "invalid_input", field)
        assert body["details"]["errors"][0]["field"] == field
        assert len(body["details"]["errors"][0]["message"]) > 5


async def test_errors_never_echo_what_was_sent(house: House) -> None:
    secret = "correct-horse-battery-staple"
    async with house.client() as client:
        answer = await client.post(CHAT, json=HELLO | {"seed": secret, "stop": [secret] * 99})
        shaped(answer, 422, "invalid_input")
        assert secret not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, HELLO | {"model": "gpt-99"}),
        (CHAT, HELLO | {"model": "fake-embed"}),
        ("/v1/completions", {"model": "nope", "prompt": "x"}),
        ("/v1/embeddings", {"model": "fake", "input": "x"}),
        ("/v1/mesh/tasks", TASK | {"model": "nope"}),
    ],
)
async def test_unknown_model(house: House, path: str, body: dict[str, Any]) -> None:
    async with house.client() as client:
        shaped(await client.post(path, json=body), 404, "unknown_model", "model")


async def test_a_large_body_is_refused_without_being_held(house: House) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 65_536
            yield b"x" * 65_536

    headers = {"content-type": "application/json"}
    async with house.client() as client:
        declared = await client.post(CHAT, content=b"x" * 10_000_000, headers=headers)
        shaped(declared, 413, "body_too_large", "body")
        assert declared.json()["details"]["limit_bytes"] == 1_048_576
        shaped(await client.post(CHAT, content=endless(), headers=headers), 413, "body_too_large")
    assert sent < 20_000_000


async def test_a_large_body_over_a_socket_still_reads_its_answer(house: House) -> None:
    app = await _own_loop(house)
    with served(app) as url:
        headers = {"content-type": "application/json"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            for content in (b"x" * 10_000_000, _chunks(160)):
                answer = await client.post("/oauth/token", content=content)
                assert answer.status_code == 415  # refused before the body, which is drained
            headers = {"content-type": "application/x-www-form-urlencoded"}
            for content in (b"x" * 10_000_000, _chunks(160)):
                answer = await client.post("/oauth/token", content=content, headers=headers)
                assert answer.status_code == 413
                assert answer.json()["error"] == "invalid_request"


async def _chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"y" * 65_536


async def _own_loop(house: House) -> Any:
    """The app for another thread's loop: only routes that touch no database are asked there."""
    return create_app(house.gateway)


async def test_media_types(house: House) -> None:
    async with house.client() as client:
        for media in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
            "application/jsonx",
            "application/json; charset=latin-1",
        ):
            answer = await client.post(CHAT, content=b"{}", headers={"content-type": media})
            shaped(answer, 415, "unsupported_media_type", "header.Content-Type")
        for media in ("application/json", "APPLICATION/JSON; charset=utf-8"):
            answer = await client.post(
                CHAT, content=json.dumps(HELLO), headers={"content-type": media}
            )
            assert answer.status_code == 200


async def test_headers_that_are_doubled_or_too_large(house: House) -> None:
    async with house.client() as client:
        doubled = [("idempotency-key", "a"), ("idempotency-key", "b")]
        body = shaped(await client.post(CHAT, json=HELLO, headers=doubled), 422, "invalid_input")
        assert body["details"]["field"] == "header.Idempotency-Key"
        shaped(await client.get("/v1/models", headers={"x": "y" * 9_000}), 431, "headers_too_large")
        many = [(f"x-{i}", "y") for i in range(120)]
        shaped(await client.get("/v1/models", headers=many), 431, "headers_too_large")


@pytest.mark.parametrize("key", ["", "a" * 256, "two words", "é", "a\tb"])
async def test_bad_idempotency_keys(house: House, key: str) -> None:
    async with house.client() as client:
        answer = await client.post(
            "/v1/mesh/tasks", json=TASK, headers={"idempotency-key": key.encode("latin-1")}
        )
        shaped(answer, 422, "invalid_input", "header.Idempotency-Key")


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "1e3", "", "nan", "9" * 40])
async def test_bad_deadlines(house: House, seconds: str) -> None:
    async with house.client() as client:
        answer = await client.post(CHAT, json=HELLO, headers={"x-request-timeout-seconds": seconds})
        shaped(answer, 422, "invalid_input", "header.X-Request-Timeout-Seconds")


async def test_raw_sockets_with_broken_requests(house: House) -> None:
    """What no client library would send; each gets a 4xx and the server goes on."""
    requests = [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET /%00%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: \x00\r\n\r\n",
        b"rubbish\r\n\r\n",
    ]
    with served(await _own_loop(house)) as url:
        host, port = url.removeprefix("http://").split(":")
        for request in requests:
            first = await asyncio.to_thread(_exchange, host, int(port), request)
            assert first.split(b" ")[1][:1] == b"4", (request, first)
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/healthz")).status_code == 200


def _exchange(host: str, port: int, request: bytes) -> bytes:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4_096)
