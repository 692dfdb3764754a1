"""The runtime's services at the gateway: how they come in, what they may, and for whom; keys that
rotate under them; strangers who guess."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gateway_support import SECRET, CountingLimiter, House, build_house, shaped
from joserfc import jwt
from joserfc.jwk import OKPKey

from mesh.core.clock import SystemClock, VirtualClock
from mesh.core.errors import Forbidden, RateLimited, Unauthenticated
from mesh.core.settings_tree import SecuritySettings
from mesh.security.algorithm import REGISTRY
from mesh.security.assertion import GRANT_TYPE, AssertionVerifier, make_assertion
from mesh.security.jwks_cache import JwksCache, JwksOptions
from mesh.security.key_cache import KeyCacheOptions
from mesh.security.principal import NO_WORKSPACE
from mesh.security.service_tokens import HttpTokenEndpoint, ServiceAuth, ServiceTokenSource
from mesh.security.services import GRANTS, Service, service_key
from mesh.security.verify import TokenVerifier
from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app
from serve_apps.gateway.logins import FailedLogins, client_address
from serve_apps.gateway.service_door import ServiceDoor

CLOCK = SystemClock()


def with_services(house: House, *, per_minute: int = 10_000) -> House:
    """The house with a door for services and a guard against guessing."""
    verifier = AssertionVerifier(SECRET, "maily", CLOCK)
    gateway = replace(
        house.gateway,
        services=ServiceDoor(house.tokens, house.keys, verifier, 300),
        logins=FailedLogins(CountingLimiter(per_minute), CountingLimiter(5), CLOCK),
    )
    return replace(house, gateway=gateway, app=create_app(gateway))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield with_services(built)
    await built.redis.aclose()


def source_of(house: House, service: Service) -> tuple[ServiceTokenSource, httpx.AsyncClient]:
    """The service's tokens, fetched from the house itself."""
    client = house.client("")
    key = service_key(SECRET, service)
    endpoint = HttpTokenEndpoint("http://gateway", service, key, "maily", client=client)
    return ServiceTokenSource(service, endpoint), client


async def token_of(house: House, service: Service, workspace: uuid.UUID | None = None) -> str:
    source, client = source_of(house, service)
    try:
        return await source.token(workspace)
    finally:
        await source.aclose()
        await client.aclose()


async def workspace_of(house: House, name: str) -> uuid.UUID:
    return await house.keys.ensure_workspace(name)


def assertion(service: Service = Service.JOB, **changed: Any) -> str:
    """A client assertion with some claims changed (None: left out)."""
    now = int(CLOCK.now())
    claims = {
        "iss": service.subject,
        "sub": service.subject,
        "aud": "maily",
        "iat": now,
        "exp": now + 60,
        "jti": str(uuid.uuid4()),
    } | changed.pop("claims", {})
    header = {"alg": "EdDSA", "typ": "client-authentication+jwt"} | changed.pop("header", {})
    key = changed.pop("key", service_key(SECRET, service))
    return jwt.encode(
        header, {k: v for k, v in claims.items() if v is not None}, key, registry=REGISTRY
    )


def form(statement: str, **more: str) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": GRANT_TYPE,
        "client_assertion": statement,
    } | more


async def test_a_service_calls_the_gateway_with_its_own_token(house: House) -> None:
    source, client = source_of(house, Service.SUPERVISOR)
    auth = ServiceAuth(source, "http://gateway")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app), base_url="http://gateway", auth=auth
    ) as service:
        assert (await service.get("/v1/models")).status_code == 200
        assert (await service.get("/v1/mesh/agents")).status_code == 200
        assert (await service.get("/metrics")).status_code == 200
    assert source.statistics()["fetched"] == 1
    await source.aclose()
    await client.aclose()


async def test_what_is_not_granted_is_refused(house: House) -> None:
    async with house.client(await token_of(house, Service.COORDINATOR)) as client:
        assert (await client.get("/v1/models")).status_code == 200
        for method, path in (
            ("GET", "/metrics"),
            ("GET", "/v1/keys"),
            ("GET", "/v1/mesh/tasks"),
            ("POST", "/v1/chat/completions"),
        ):
            shaped(await client.request(method, path, json={}), 403, "forbidden")


async def test_without_a_workspace_no_workspaces_route_is_open(house: House) -> None:
    """Even where the scope is there: a token that acts for nobody reads nobody's."""
    made = await house.tokens.issue_service(Service.JOB, 300)
    whole = await _forged(house, Service.JOB, scope="tasks:read tasks:write chat:write keys:admin")
    for token in (made.token, whole):
        async with house.client(token) as client:
            shaped(await client.get("/v1/mesh/tasks"), 403, "forbidden")
            shaped(await client.get(f"/v1/mesh/tasks/{uuid.uuid4()}/trace"), 403, "forbidden")
            shaped(await client.get("/v1/keys"), 403, "forbidden")


async def test_acting_for_a_workspace_it_sees_that_one_alone(house: House) -> None:
    mine, other = await workspace_of(house, "one"), await workspace_of(house, "two")
    async with house.client() as user:
        made = await user.post("/v1/mesh/tasks", json={"brief": {"goal": "Say hello"}})
        assert made.status_code == 202, made.text
        task = made.json()
    async with house.client(await token_of(house, Service.JOB, mine)) as client:
        listed = (await client.get("/v1/mesh/tasks")).json()["items"]
        assert task["id"] in [item["id"] for item in listed]
        shaped(await client.get("/v1/keys"), 403, "forbidden")
    async with house.client(await token_of(house, Service.JOB, other)) as client:
        shaped(await client.get(f"/v1/mesh/tasks/{task['id']}"), 404, "not_found")
        shaped(await client.get(f"/v1/mesh/tasks/{task['id']}/trace"), 404, "not_found")
    principal = await house.tokens.verify(await token_of(house, Service.AGENT_WORKER, mine))
    assert principal.workspace_id == mine
    assert principal.scopes <= GRANTS[Service.AGENT_WORKER].acting


async def test_who_may_not_act_and_workspaces_that_are_none(house: House) -> None:
    mine = await workspace_of(house, "one")
    async with house.client("") as client:
        for service, workspace, status, error in (
            (Service.COORDINATOR, mine, 400, "invalid_scope"),
            (Service.SUPERVISOR, mine, 400, "invalid_scope"),
            (Service.JOB, uuid.uuid4(), 400, "invalid_request"),
            (Service.JOB, NO_WORKSPACE, 400, "invalid_request"),
        ):
            answer = await client.post(
                "/oauth/token", data=form(assertion(service), workspace=str(workspace))
            )
            assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
        answer = await client.post("/oauth/token", data=form(assertion(), scope="keys:admin"))
        assert answer.json()["error"] == "invalid_scope"
    with pytest.raises(Forbidden):
        await house.tokens.issue_service(Service.JOB, 300, workspace_id=NO_WORKSPACE)


@pytest.mark.parametrize(
    "changed",
    [
        {"claims": {"aud": "maily-api"}},
        {"claims": {"aud": None}},
        {"claims": {"sub": "service:supervisor"}},
        {"claims": {"iss": "service:supervisor"}},
        {"claims": {"sub": "service:root", "iss": "service:root"}},
        {"claims": {"sub": 7}},
        {"claims": {"jti": None}},
        {"claims": {"jti": "no uuid"}},
        {"claims": {"exp": None}},
        {"claims": {"iat": None}},
        {"claims": {"exp": 1_700_000_000}},
        {"claims": {"iat": 4_000_000_000, "exp": 4_000_000_060}},
        {"claims": {"exp": 4_000_000_000}},
        {"header": {"typ": "JWT"}},
        {"header": {"typ": "at+jwt"}},
        {"key": service_key(SECRET, Service.SUPERVISOR)},
        {"key": service_key(b"x" * 40, Service.JOB)},
        {"key": OKPKey.generate_key("Ed25519")},
    ],
)
async def test_a_wrong_assertion_gets_no_token(house: House, changed: dict[str, Any]) -> None:
    house = with_services(house)
    async with house.client("") as client:
        good = await client.post("/oauth/token", data=form(assertion()))
        assert good.status_code == 200, "else this proves nothing"
        answer = await client.post("/oauth/token", data=form(assertion(**changed)))
        assert answer.status_code == 401, answer.text
        assert answer.json()["error"] == "invalid_client"


async def test_an_assertion_counts_once_and_only_as_it_is(house: House) -> None:
    statement = assertion()
    async with house.client("") as client:
        assert (await client.post("/oauth/token", data=form(statement))).status_code == 200
        again = await client.post("/oauth/token", data=form(statement))
        assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
        for data in (
            {"grant_type": "client_credentials", "client_assertion": assertion()},
            {"grant_type": "client_credentials", "client_assertion_type": GRANT_TYPE},
            form(assertion()) | {"client_assertion_type": "saml"},
            form(assertion()) | {"client_secret": house.key},
        ):
            answer = await client.post("/oauth/token", data=data)
            assert answer.json()["error"] == "invalid_request", answer.text
        key = house.key
        mine = await workspace_of(house, "one")
        answer = await client.post(
            "/oauth/token",
            data={
                "grant_type": "client_credentials",
                "client_secret": key,
                "workspace": str(mine),
            },
        )
        assert answer.json()["error"] == "invalid_request", "a key has its own workspace"
    async with house.client(assertion()) as client:
        shaped(await client.get("/v1/models"), 401, "unauthenticated")


async def test_assertions_are_remembered_by_all_gateways_together(house: House) -> None:
    seen: set[str] = set()

    async def remember(jti: str, seconds: float) -> bool:
        assert 60 <= seconds <= 120
        fresh = jti not in seen
        seen.add(jti)
        return fresh

    first, second = (AssertionVerifier(SECRET, "maily", CLOCK, remember=remember) for _ in "ab")
    statement = make_assertion(service_key(SECRET, Service.JOB), Service.JOB, "maily", CLOCK)
    assert await first.verify(statement) is Service.JOB
    with pytest.raises(Unauthenticated, match="before"):
        await second.verify(statement)


async def _forged(house: House, service: Service, **changed: Any) -> str:
    """A token by the real key, with claims that we would never give."""
    now = int(CLOCK.now())
    keys = await house.tokens._cache.current()
    claims = {
        "iss": "maily",
        "aud": "maily-api",
        "sub": service.subject,
        "client_id": service.subject,
        "scope": "models:read",
        "iat": now,
        "exp": now + 300,
    } | changed
    header = {"alg": "EdDSA", "typ": "maily-svc+jwt", "kid": keys.signer.kid}
    return jwt.encode(header, claims, keys.signer, registry=REGISTRY)


async def test_the_table_has_the_last_word_over_a_token(house: House) -> None:
    token = await _forged(house, Service.COORDINATOR, scope="models:read keys:admin metrics:read")
    assert (await house.tokens.verify(token)).scopes == {"models:read"}


@pytest.mark.parametrize(
    "changed",
    [
        {"sub": "service:root", "client_id": "service:root"},
        {"sub": "0123456789abcdef", "client_id": "0123456789abcdef"},
        {"client_id": "service:supervisor"},
        {"wsp": "no uuid"},
        {"wsp": str(NO_WORKSPACE)},
        {"wsp": ["a"]},
        {"sub": "service:coordinator", "client_id": "service:coordinator",
         "wsp": str(uuid.uuid4())},
        {"aud": "maily"},
        {"iss": "someone"},
        {"scope": ["models:read"]},
    ],
)  # fmt: skip
async def test_one_wrong_claim_is_refused(house: House, changed: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await house.tokens.verify(await _forged(house, Service.JOB, **changed))


async def test_the_two_kinds_of_token_never_pass_for_each_other(house: House) -> None:
    """A key's token with a service's claims, and the other way round."""
    keys = await house.tokens._cache.current()
    service = await _forged(house, Service.JOB)
    claims = jwt.decode(service, keys.verifiers[str(keys.signer.kid)], registry=REGISTRY).claims
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": keys.signer.kid}
    with pytest.raises(Unauthenticated):
        await house.tokens.verify(jwt.encode(header, claims, keys.signer, registry=REGISTRY))
    user = await house.tokens.issue(await house.keys.verify(house.key))
    claims = jwt.decode(user, keys.verifiers[str(keys.signer.kid)], registry=REGISTRY).claims
    header["typ"] = "maily-svc+jwt"
    with pytest.raises(Unauthenticated):
        await house.tokens.verify(jwt.encode(header, claims, keys.signer, registry=REGISTRY))


async def test_a_verifier_without_the_database_follows_a_rotation(house: House) -> None:
    """By the published key set alone: old tokens live out their time, new ones are known at once,
    and after a leak the old key is worth nothing."""
    clock = VirtualClock(CLOCK.now())
    async with house.client("") as client:
        cache = JwksCache(
            "http://gateway/.well-known/jwks.json",
            clock,
            JwksOptions(cache=KeyCacheOptions(max_age_s=60)),
            client=client,
        )
        verifier = TokenVerifier(cache, SecuritySettings(), clock)
        old = (await house.tokens.issue_service(Service.JOB, 300)).token
        assert (await verifier.verify(old)).subject == "service:job"
        await house.tokens.rotate()
        new = (await house.tokens.issue_service(Service.JOB, 300)).token
        await clock.advance(2)
        for token in (old, new):
            assert (await verifier.verify(token)).kind == "service"
        published = (await client.get("/.well-known/jwks.json")).json()["keys"]
        (retiring,) = [key for key in published if "exp" in key]
        assert retiring["exp"] > CLOCK.now() + 900
        await house.tokens.rotate(overlap_s=0)
        last = (await house.tokens.issue_service(Service.JOB, 300)).token
        await clock.advance(61)  # beyond max-age: the key set is read again
        assert (await verifier.verify(last)).kind == "service"
        for token in (old, new):
            with pytest.raises(Unauthenticated, match="don't know"):
                await verifier.verify(token)
            with pytest.raises(Unauthenticated, match="don't know"):
                await house.tokens.verify(token)


async def test_of_many_gateways_that_find_the_key_old_one_rotates(
    house: House, database: Database
) -> None:
    from mesh.security.tokens import TokenService

    await house.tokens.rotate(overlap_s=0)
    await database.fetch("UPDATE signing_keys SET created_at = now() - interval '40 days'")
    gateways = [TokenService(database, SecuritySettings(), SECRET, CLOCK) for _ in range(6)]
    kids = await asyncio.gather(*(one.rotate_if_older(30 * 86_400) for one in gateways))
    assert len(set(kids)) == 1
    assert len(await database.fetch("SELECT 1 FROM signing_keys")) == 2
    again = await asyncio.gather(*(one.rotate_if_older(30 * 86_400) for one in gateways))
    assert set(again) == set(kids)


async def test_the_key_set_is_not_sent_twice(house: House) -> None:
    async with house.client("") as client:
        first = await client.get("/.well-known/jwks.json")
        etag = first.headers["etag"]
        same = await client.get("/.well-known/jwks.json", headers={"if-none-match": etag})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == etag
        listed = f'"a", W/{etag}'
        assert (
            await client.get("/.well-known/jwks.json", headers={"if-none-match": listed})
        ).status_code == 304
        other = await client.get("/.well-known/jwks.json", headers={"if-none-match": '"a"'})
        assert other.json() == first.json()


async def test_a_service_is_not_told_of_in_the_clear(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither assertion nor token may reach a log."""
    noisy = house.changed(access_log="all")
    async with noisy.client("") as client:
        statement = assertion()
        answer = await client.post("/oauth/token", data=form(statement))
        token = answer.json()["access_token"]
        await client.post("/oauth/token", data=form(statement))
    async with noisy.client(token) as client:
        await client.get("/v1/keys")
    written = "".join(capsys.readouterr())
    assert "/oauth/token" in written
    for secret in (statement, token, statement.split(".")[2], token.split(".")[2]):
        assert secret not in written
    assert token not in json.dumps(answer.headers.multi_items())


async def test_who_guesses_is_held_off_and_nobody_else(house: House) -> None:
    house = with_services(house, per_minute=8)
    good = await house.keys.create("one", "good", ["models:read"])
    late = await house.keys.create("one", "late", ["models:read"])
    wrong = f"mk_{good.id}_{'0' * 64}"
    async with house.client(good.key) as client:
        assert (await client.get("/v1/models")).status_code == 200
    async with house.client(wrong) as client:
        statuses = [(await client.get("/v1/models")).status_code for _ in range(8)]
        assert statuses == [401] * 6 + [429] * 2, "six of one key's id, then unread"
        held = await client.get("/v1/models")
        shaped(held, 429, "rate_limited")
        assert int(held.headers["retry-after"]) >= 1
    form_ = {"grant_type": "client_credentials", "client_secret": wrong}
    async with house.client("") as client:
        answer = await client.post("/oauth/token", data=form_)
        assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")
    async with house.client(good.key) as client:
        assert (await client.get("/v1/models")).status_code == 200, "known, and still right"
    for n in range(4):  # other ids from there use up what the address has
        async with house.client(f"mk_{n:016x}_{'0' * 64}") as client:
            last = await client.get("/v1/models")
    assert last.status_code == 429
    async with house.client(late.key) as client:
        shaped(await client.get("/v1/models"), 429, "rate_limited")
    elsewhere = httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app, client=("192.0.2.7", 1)),
        base_url="http://gateway",
        headers={"authorization": f"Bearer {late.key}"},
    )
    async with elsewhere:
        assert (await elsewhere.get("/v1/models")).status_code == 200


async def test_an_expired_token_is_no_guess() -> None:
    guard = FailedLogins(CountingLimiter(3), CountingLimiter(2), VirtualClock())
    guard.check("a", "k")
    for _ in range(2):
        await guard.failed("a", "k", "key")
    guard.check("a", "k")
    await guard.failed("a", "k", "key")
    with pytest.raises(RateLimited):
        guard.check("a", "k")
    guard.check("b", "k")
    guard.check("a", "other")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", b"", "192.0.2.1"),
        ("192.0.2.1", b"198.51.100.9", "192.0.2.1"),
        ("127.0.0.1", b"198.51.100.9", "198.51.100.9"),
        ("127.0.0.1", b"203.0.113.5, 198.51.100.9", "198.51.100.9"),
        ("127.0.0.1", b"198.51.100.9, 127.0.0.1", "198.51.100.9"),
        ("127.0.0.1", b"nonsense", "127.0.0.1"),
        ("127.0.0.1", b"198.51.100.9, nonsense", "127.0.0.1"),
        ("127.0.0.1", b"", "127.0.0.1"),
        ("127.0.0.1", b"2001:db8::1", "2001:db8::1"),
        ("::1", b"198.51.100.9", "198.51.100.9"),
    ],
)
def test_only_our_own_proxies_are_believed(peer: str, forwarded: bytes, address: str) -> None:
    headers = {b"x-forwarded-for": forwarded} if forwarded else {}
    assert client_address(peer, headers, ("127.0.0.1", "::1")) == address


async def test_a_job_embeds_for_the_runtime_and_nobody_pays(house: House) -> None:
    async with house.client(await token_of(house, Service.JOB)) as client:
        answer = await client.post(
            "/v1/embeddings", json={"model": "fake-embed", "input": ["a", "b"]}
        )
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"]) == 2
        body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
        shaped(await client.post("/v1/chat/completions", json=body), 403, "forbidden")
