"""Public keys of an issuer: fresh where that is possible, never a stranger's, used on while the
issuer is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from mesh.core.clock import VirtualClock
from mesh.core.errors import Unauthenticated, Unavailable
from mesh.security.jwks_cache import JwksCache, JwksOptions, usable_keys
from mesh.security.key_cache import KeyCacheOptions

URL = "http://issuer/.well-known/jwks.json"


def public(key: OKPKey, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), "use": "sig", "alg": "EdDSA", **more}


class Issuer:
    """Counts how often it is asked; ``up`` False: it does not answer."""

    def __init__(self) -> None:
        self.keys = [OKPKey.generate_key("Ed25519", auto_kid=True)]
        self.cache_control = "public, max-age=60"
        self.more: dict[str, dict[str, Any]] = {}
        self.up = True
        self.asked: list[int] = []
        self.reply: Callable[[], httpx.Response] | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.up:
            self.asked.append(0)
            raise httpx.ConnectError("away")
        if self.reply is not None:
            return self.reply()
        entries = [public(key, **self.more.get(str(key.kid), {})) for key in self.keys]
        body = json.dumps({"keys": entries})
        headers = {"etag": f'"{hash(body)}"', "cache-control": self.cache_control}
        if request.headers.get("if-none-match") == headers["etag"]:
            self.asked.append(304)
            return httpx.Response(304, headers=headers)
        self.asked.append(200)
        return httpx.Response(200, content=body, headers=headers)

    def kid(self, number: int = -1) -> str:
        return str(self.keys[number].kid)

    def add(self) -> str:
        self.keys.append(OKPKey.generate_key("Ed25519", auto_kid=True))
        return self.kid()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest_asyncio.fixture(loop_scope="session")
async def cache(issuer: Issuer, clock: VirtualClock) -> AsyncIterator[JwksCache]:
    options = JwksOptions(cache=KeyCacheOptions(stale_s=3_600))
    async with httpx.AsyncClient(transport=httpx.MockTransport(issuer)) as client:
        yield JwksCache(URL, clock, options, client=client)


async def test_many_at_once_cost_one_fetch(cache: JwksCache, issuer: Issuer) -> None:
    keys = await asyncio.gather(*(cache.verifier(issuer.kid()) for _ in range(50)))
    assert len({id(key) for key in keys}) == 1
    assert issuer.asked == [200]


async def test_the_issuers_max_age_counts_and_its_etag_spares_the_body(
    cache: JwksCache, issuer: Issuer, clock: VirtualClock
) -> None:
    await cache.verifier(issuer.kid())
    await clock.advance(59)
    await cache.verifier(issuer.kid())
    assert issuer.asked == [200]
    await clock.advance(2)
    await cache.verifier(issuer.kid())
    assert issuer.asked == [200, 304]


@pytest.mark.parametrize(
    ("header", "still", "gone"),
    [("no-store", 4, 6), ("max-age=999999", 3_599, 3_601), ("", 59, 61), ("max-age=0", 4, 6)],
)
async def test_its_wishes_have_bounds(
    cache: JwksCache, issuer: Issuer, clock: VirtualClock, header: str, still: int, gone: int
) -> None:
    issuer.cache_control = header
    await cache.verifier(issuer.kid())
    await clock.advance(still)
    await cache.verifier(issuer.kid())
    assert len(issuer.asked) == 1
    await clock.advance(gone - still)
    await cache.verifier(issuer.kid())
    assert len(issuer.asked) == 2


async def test_a_new_key_is_found_at_once_and_strangers_cost_one_fetch_a_second(
    cache: JwksCache, issuer: Issuer, clock: VirtualClock
) -> None:
    await cache.verifier(issuer.kid())
    new = issuer.add()
    await clock.advance(1.1)
    assert await cache.verifier(new)
    assert issuer.asked == [200, 200]
    for n in range(100):
        with pytest.raises(Unauthenticated):
            await cache.verifier(f"stranger-{n}")
    assert len(issuer.asked) == 2
    await clock.advance(1.1)
    for n in range(100):
        with pytest.raises(Unauthenticated):
            await cache.verifier(f"stranger-{n}")
    assert len(issuer.asked) == 3


async def test_old_keys_verify_while_the_issuer_is_away_but_not_for_ever(
    cache: JwksCache, issuer: Issuer, clock: VirtualClock
) -> None:
    await cache.verifier(issuer.kid())
    issuer.up = False
    await clock.advance(600)
    for _ in range(10):
        assert await cache.verifier(issuer.kid())
    assert issuer.asked == [200, 0], "not asked again for each"
    assert cache.statistics()["stale"] >= 10
    with pytest.raises(Unauthenticated):
        await cache.verifier("unknown")
    await clock.advance(3_600)
    with pytest.raises(Unavailable):
        await cache.verifier(issuer.kid())
    issuer.up = True
    await clock.advance(6)
    assert await cache.verifier(issuer.kid())


async def test_without_any_key_it_is_unavailable_not_a_wrong_token(
    cache: JwksCache, issuer: Issuer
) -> None:
    issuer.up = False
    with pytest.raises(Unavailable):
        await cache.verifier(issuer.kid())


async def test_a_key_ends_at_its_own_time_even_while_the_issuer_is_away(
    cache: JwksCache, issuer: Issuer, clock: VirtualClock
) -> None:
    issuer.more[issuer.kid()] = {"exp": int(clock.now()) + 100}
    await cache.verifier(issuer.kid())
    issuer.up = False
    await clock.advance(99)
    assert await cache.verifier(issuer.kid())
    await clock.advance(1)
    with pytest.raises(Unauthenticated):
        await cache.verifier(issuer.kid())


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"keys": []}),
        httpx.Response(200, json={"keys": "many"}),
        httpx.Response(500),
        httpx.Response(302, headers={"location": "http://elsewhere/"}),
        httpx.Response(304),
        httpx.Response(200, content=b" " * 100_000),
    ],
)
async def test_nonsense_does_not_replace_what_we_have(
    cache: JwksCache, issuer: Issuer, clock: VirtualClock, reply: httpx.Response
) -> None:
    kid = issuer.kid()
    await cache.verifier(kid)
    issuer.reply = lambda: httpx.Response(
        reply.status_code, content=reply.content, headers=dict(reply.headers)
    )
    await clock.advance(61)
    assert await cache.verifier(kid)


def test_only_ed25519_keys_that_verify_are_taken() -> None:
    good = OKPKey.generate_key("Ed25519", auto_kid=True)
    others: list[dict[str, Any]] = [
        {**RSAKey.generate_key(2_048).as_dict(private=False), "kid": "rsa", "alg": "RS256"},
        {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "ec"},
        {**OctKey.generate_key(256).as_dict(private=True), "kid": "oct", "alg": "HS256"},
        {**OKPKey.generate_key("X25519").as_dict(private=False), "kid": "x"},
        {**public(OKPKey.generate_key("Ed25519")), "kid": "enc", "use": "enc"},
        {**public(OKPKey.generate_key("Ed25519")), "kid": "alg", "alg": "HS256"},
        {**OKPKey.generate_key("Ed25519").as_dict(private=True), "kid": "private"},
        {**public(OKPKey.generate_key("Ed25519")), "kid": 7},
        {"kty": "OKP", "crv": "Ed25519", "x": "!!", "kid": "bad"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "no x"},
    ]
    verifiers, _ = usable_keys({"keys": [*others, public(good), "text", None]})
    assert set(verifiers) == {good.kid}
    with pytest.raises(ValueError, match="no key"):
        usable_keys({"keys": others})


async def test_a_caller_that_leaves_does_not_end_the_read_of_the_others(
    clock: VirtualClock, issuer: Issuer
) -> None:
    gate = asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return issuer(request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as client:
        cache = JwksCache(URL, clock, client=client)
        first = asyncio.create_task(cache.verifier(issuer.kid()))
        second = asyncio.create_task(cache.verifier(issuer.kid()))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await second
    assert issuer.asked == [200]
