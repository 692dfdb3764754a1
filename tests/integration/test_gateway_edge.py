"""The edge: credentials, scopes, limits, headers: each request gets what it deserves."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from gateway_support import CountingLimiter, House, build_house, shaped

from mesh.core.clock import VirtualClock
from mesh.core.errors import Unauthenticated
from mesh.core.tracing import current_trace_id, span
from mesh.security.scopes import ALL_SCOPES
from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app
from serve_apps.gateway.auth import Authenticator
from serve_apps.gateway.policy import RULES, allowed_methods

CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


async def test_every_route_has_a_rule_and_every_rule_a_route(house: House) -> None:
    async with house.client() as client:
        document = (await client.get("/openapi.json")).json()
    pages = {"/verify/{certificate}", "/verify/assets/{name}"}
    hidden = {"/openapi.json", "/docs", "/docs/{asset}", *pages}
    assert set(document["paths"]) == set(RULES) - hidden
    for path, operations in document["paths"].items():
        assert {m.upper() for m in operations} == set(RULES[path])
    assert {r.scope for rules in RULES.values() for r in rules.values()} - {None} == ALL_SCOPES


async def test_nothing_but_health_keys_and_certificates_is_open(house: House) -> None:
    public = {"/healthz", "/readyz", "/.well-known/jwks.json", "/oauth/token"}
    async with house.client("") as client:
        for path, rules in RULES.items():
            for method, rule in rules.items():
                if rule.by_address or path.startswith("/verify/"):
                    continue  # trust's public routes: tests/integration/test_trust_public.py
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
