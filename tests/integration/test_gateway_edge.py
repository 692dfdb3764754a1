"""The edge: credentials, scopes, limits, headers and rubbish, each with the answer it deserves."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from gateway_support import CountingLimiter, House, build_house, served

from mesh.core.clock import VirtualClock
from mesh.core.errors import Unauthenticated
from mesh.core.tracing import current_trace_id, span
from mesh.security.scopes import ALL_SCOPES
from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app
from serve_apps.gateway.auth import Authenticator
from serve_apps.gateway.policy import RULES, allowed_methods

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


def shaped(answer: httpx.Response, status: int, code: str, field: str | None = None) -> Any:
    """Assert our error shape and give the body."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert {"code", "message", "details", "traceId"} <= set(body)
    assert body["code"] == code, body
    assert re.fullmatch("[0-9a-f]{32}", body["traceId"])
    assert answer.headers["x-trace-id"] == body["traceId"]
    if field is not None:
        assert body["details"]["field"] == field, body
    return body


async def test_every_route_has_a_rule_and_every_rule_a_route(house: House) -> None:
    async with house.client() as client:
        document = (await client.get("/openapi.json")).json()
    hidden = {"/openapi.json", "/docs", "/docs/{asset}"}
    assert set(document["paths"]) == set(RULES) - hidden
    for path, operations in document["paths"].items():
        assert {m.upper() for m in operations} == set(RULES[path])
    assert {r.scope for rules in RULES.values() for r in rules.values()} - {None} == ALL_SCOPES


async def test_nothing_but_health_and_keys_of_ours_is_open(house: House) -> None:
    public = {"/healthz", "/readyz", "/.well-known/jwks.json", "/oauth/token"}
    async with house.client("") as client:
        for path, rules in RULES.items():
            for method in rules:
                url = re.sub(r"\{\w+\}", str(uuid4()), path)
                answer = await client.request(method, url)
                if path in public:
                    assert answer.status_code in (200, 415), (method, path)
                else:
                    shaped(answer, 401, "unauthenticated")
                    assert "www-authenticate" in answer.headers
        shaped(await client.get("/nothing"), 401, "unauthenticated")


async def test_each_route_asks_for_its_scope(house: House) -> None:
    for path, rules in RULES.items():
        for method, rule in rules.items():
            if rule.scope is None:
                continue
            weak = await house.keys.create("one", "weak", ALL_SCOPES - {rule.scope})
            async with house.client(weak.key) as client:
                url = re.sub(r"\{\w+\}", str(uuid4()), path)
                body = shaped(await client.request(method, url), 403, "forbidden")
                assert body["details"]["scope"] == rule.scope


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer mk_0000000000000000_" + "0" * 64,
        "Bearer mk_x",
        "Bearer not.a.token",
        "Bearer " + "x" * 5_000,
        "Basic abc",
        "Digest abc",
        "Bearer mk_\x00",
        "é",
    ],
)
async def test_wrong_credentials(house: House, header: str) -> None:
    async with house.client("") as client:
        answer = await client.get("/v1/models", headers={"authorization": header.encode("latin-1")})
        body = shaped(answer, 401, "unauthenticated")
        assert body["error"]["code"] == "invalid_api_key"


async def test_revoked_expired_and_forged(house: House) -> None:
    async with house.client() as admin:
        made = (await admin.post("/v1/keys", json={"name": "x", "scopes": ["models:read"]})).json()
        form = {"grant_type": "client_credentials", "client_id": made["id"]}
        refused = await admin.post("/oauth/token", data=form | {"client_secret": made["key"]})
        assert refused.status_code == 401  # a bearer header is no way to be an OAuth client
    async with house.client("") as client:
        token = await client.post("/oauth/token", data=form | {"client_secret": made["key"]})
        access = token.json()["access_token"]
    async with house.client(made["key"]) as by_key, house.client(access) as by_token:
        assert (await by_key.get("/v1/models")).status_code == 200
        assert (await by_token.get("/v1/models")).status_code == 200
        async with house.client() as admin:
            gone = await admin.delete(f"/v1/keys/{made['id']}")
            assert gone.json()["revoked_at"] is not None
        house.app.authenticator.forget(made["id"])  # what the published revocation does
        shaped(await by_key.get("/v1/models"), 401, "unauthenticated")
        shaped(await by_token.get("/v1/models"), 401, "unauthenticated")
    head, payload, signature = access.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"scope": "keys:admin"}).encode())
    for bad in (f"{head}.{forged.decode().rstrip('=')}.{signature}", f"{head}.{payload}.AAAA"):
        async with house.client(bad) as client:
            shaped(await client.get("/v1/keys"), 401, "unauthenticated")


async def test_the_cache_forgets_in_time(house: House) -> None:
    class Keys:
        calls = 0
        refuse = False

        async def verify(self, key: str) -> Any:
            Keys.calls += 1
            if Keys.refuse:
                raise Unauthenticated
            return await house.keys.verify(key)

    clock = VirtualClock()
    keys: Any = Keys()
    authenticator = Authenticator(keys, house.gateway.tokens, clock, cache_s=5.0, size=2)
    header = f"Bearer {house.key}".encode()
    many = await asyncio.gather(*(authenticator.authenticate(header, "bearer") for _ in range(20)))
    assert Keys.calls == 1
    assert len({p.key_id for p in many}) == 1
    await clock.advance(4.9)
    await authenticator.authenticate(header, "bearer")
    assert Keys.calls == 1
    await clock.advance(0.2)
    Keys.refuse = True
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header, "bearer")
    Keys.refuse = False
    for key in (house.key, house.other, (await house.keys.create("one", "3", ALL_SCOPES)).key):
        await authenticator.authenticate(f"Bearer {key}".encode(), "bearer")
    assert authenticator.statistics()["known"] == 2


async def test_basic_opens_the_docs_and_nothing_else(house: House) -> None:
    async with house.client("") as client:
        asked = await client.get("/docs")
        assert any("Basic" in v for v in asked.headers.get_list("www-authenticate"))
        auth = ("anybody", house.key)
        page = await client.get("/docs", auth=auth)
        assert page.status_code == 200
        assert "//cdn" not in page.text
        assert "script-src" in page.headers["content-security-policy"]
        script = await client.get("/docs/swagger-ui-bundle.js", auth=auth)
        assert script.headers["content-type"].startswith("text/javascript")
        shaped(await client.get("/docs/passwd", auth=auth), 404, "not_found")
        # Decoded it is another path, which a browser's credential does not open.
        shaped(await client.get("/docs/..%2f..%2fpasswd", auth=auth), 401, "unauthenticated")
        async with house.client() as bearer:
            shaped(await bearer.get("/docs/..%2f..%2fpasswd"), 404, "not_found")
        assert (await client.get("/openapi.json", auth=auth)).json()["openapi"].startswith("3.")
        shaped(await client.get("/v1/models", auth=auth), 401, "unauthenticated")


async def test_rate_limit_says_when_to_come_back(house: House) -> None:
    limiter = CountingLimiter(2)
    app = create_app(replace(house.gateway, limiter=limiter))
    async with replace(house, app=app).client() as client:
        first = await client.get("/v1/models")
        assert first.headers["ratelimit-limit"] == "2"
        assert first.headers["ratelimit-remaining"] == "1"
        await client.get("/v1/models")
        refused = await client.get("/v1/models")
        body = shaped(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == "30"
        assert body["error"]["code"] == "rate_limit_exceeded"
        assert (await client.get("/healthz")).status_code == 200
    async with replace(house, app=app).client(house.other) as client:
        assert (await client.get("/v1/models")).status_code == 200  # another key, another share


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


async def test_methods(house: House) -> None:
    async with house.client() as client:
        for path in ("/v1/models", CHAT, "/v1/mesh/tasks"):
            for method in ("PUT", "PATCH", "TRACE", "BREW"):
                answer = await client.request(method, path)
                shaped(answer, 405, "method_not_allowed")
                assert answer.headers["allow"] == ", ".join(allowed_methods(path))
        head = await client.head("/v1/models")
        assert head.status_code == 200
        assert head.content == b""
        assert int(head.headers["content-length"]) > 10
        missing = await client.head("/v1/models/nope")
        assert (missing.status_code, missing.content) == (404, b"")
        assert (await client.head(CHAT)).status_code == 405
        options = await client.options("/v1/mesh/tasks")
        assert options.status_code == 204
        assert options.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        shaped(await client.get("/v1/nothing"), 404, "not_found")
        shaped(await client.get("/v1/models/"), 404, "not_found")
        shaped(await client.get("/v1/models%2f"), 404, "not_found")


async def test_cors_answers_known_origins_alone(house: House) -> None:
    plain = house.changed()
    known = house.changed(cors_origins=("https://studio.example",))
    ask = {"origin": "https://studio.example", "access-control-request-method": "POST"}
    async with known.client("") as client:
        answer = await client.options("/v1/mesh/tasks", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://studio.example"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "idempotency-key" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        other = await client.options("/v1/mesh/tasks", headers=ask | {"origin": "https://evil"})
        assert not [h for h in other.headers if h.startswith("access-control")]
        refused = await client.get("/v1/models", headers={"origin": "https://studio.example"})
        assert refused.status_code == 401  # readable by the page all the same
        assert refused.headers["access-control-allow-origin"] == "https://studio.example"
        assert refused.headers["vary"] == "Origin"
    async with plain.client("") as client:
        answer = await client.options("/v1/mesh/tasks", headers=ask)
        assert not [h for h in answer.headers if h.startswith("access-control")]


async def test_every_answer_carries_the_security_headers(house: House) -> None:
    async with house.client() as client:
        for path in ("/v1/models", "/v1/nothing", "/healthz", "/v1/mesh/tasks"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"


async def test_traces_come_in_and_go_out(house: House) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with house.client() as client:
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        answer = await client.get("/v1/nothing", headers=headers)
        assert shaped(answer, 404, "not_found")["traceId"] == trace
        assert answer.headers["traceparent"].startswith(f"00-{trace}-")
        assert "b7ad6b7169203331" not in answer.headers["traceparent"]
        for bad in ("00-" + "0" * 32 + "-b7ad6b7169203331-01", "rubbish", "é"):
            answer = await client.get("/v1/models", headers={"traceparent": bad.encode("latin-1")})
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-trace-id"])
            assert answer.headers["x-trace-id"] != "0" * 32


async def test_a_trace_of_the_surroundings_is_not_inherited(house: House) -> None:
    """uvicorn's callbacks run in the context of an earlier request of the same connection."""
    with span("an earlier request"):
        around = current_trace_id()
        async with house.client() as client:
            answers = [await client.get("/v1/models") for _ in range(2)]
    traces = {answer.headers["x-trace-id"] for answer in answers}
    assert len(traces) == 2
    assert around not in traces


async def test_what_nobody_expected_says_nothing(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        async def list(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("password=hunter2")

    tasks: Any = Broken()
    app = create_app(replace(house.gateway, tasks=tasks))
    async with replace(house, app=app).client() as client:
        answer = await client.get("/v1/mesh/tasks")
        shaped(answer, 500, "internal")
        assert "hunter2" not in answer.text


async def test_readiness_names_each_part(house: House) -> None:
    async def good() -> str | None:
        return "fine"

    async def bad() -> str | None:
        raise ConnectionError("postgresql://user:hunter2@host")

    app = create_app(replace(house.gateway, probes={"database": good, "llm": bad}))
    async with replace(house, app=app).client("") as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {
            "status": "not ready",
            "parts": {
                "database": {"status": "ok", "detail": "fine"},
                "llm": {"status": "down", "detail": "ConnectionError"},
            },
        }
    app = create_app(replace(house.gateway, probes={"database": good}))
    async with replace(house, app=app).client("") as client:
        assert (await client.get("/readyz")).json()["status"] == "ready"


async def test_metrics_label_templates_not_paths(house: House) -> None:
    async with house.client() as client:
        unlike = uuid4().hex
        await client.get(f"/v1/models/{unlike}")
        await client.get(f"/{unlike}")
        text = (await client.get("/metrics")).text
        assert 'route="/v1/models/{model_id}"' in text
        assert 'route="unmatched"' in text
        assert unlike not in text


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
