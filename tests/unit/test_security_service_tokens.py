"""A service's tokens: kept, renewed before they run out, given on while renewal fails."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.clock import VirtualClock
from mesh.core.errors import Unavailable
from mesh.security.service_tokens import (
    Granted,
    HttpTokenEndpoint,
    ServiceAuth,
    ServiceTokenOptions,
    ServiceTokenSource,
)
from mesh.security.services import GRANTS, Service, service_key, service_of

SECRET = b"s" * 32
LIFE = 300.0


class Endpoint:
    """Gives ``token-1``, ``token-2`` … while it is up."""

    def __init__(self, life_s: float = LIFE) -> None:
        self.life_s = life_s
        self.up = True
        self.asked: list[uuid.UUID | None] = []
        self.failures = 0

    async def fetch(self, workspace_id: uuid.UUID | None) -> Granted:
        await asyncio.sleep(0)
        if not self.up:
            self.failures += 1
            raise Unavailable
        self.asked.append(workspace_id)
        return Granted(f"token-{len(self.asked)}", self.life_s)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest_asyncio.fixture(loop_scope="session")
async def source(endpoint: Endpoint, clock: VirtualClock) -> AsyncIterator[ServiceTokenSource]:
    opened = ServiceTokenSource(Service.JOB, endpoint, clock, random.Random(1))
    yield opened
    await opened.aclose()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_request_serves_all_who_ask_at_once(
    source: ServiceTokenSource, endpoint: Endpoint
) -> None:
    tokens = await asyncio.gather(*(source.token() for _ in range(50)))
    assert set(tokens) == {"token-1"}
    assert len(endpoint.asked) == 1
    await source.token()
    assert len(endpoint.asked) == 1


async def test_a_waiter_that_leaves_takes_the_request_not_along(
    source: ServiceTokenSource, endpoint: Endpoint
) -> None:
    first = asyncio.create_task(source.token())
    second = asyncio.create_task(source.token())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "token-1"
    assert len(endpoint.asked) == 1


async def test_it_is_renewed_before_it_runs_out_and_nobody_waits(
    source: ServiceTokenSource, endpoint: Endpoint, clock: VirtualClock
) -> None:
    await source.token()
    await settle()
    for _ in range(100):  # used all the time, over many lives
        await clock.advance(LIFE / 10)
        before = len(endpoint.asked)
        await source.token()
        assert len(endpoint.asked) == before, "a caller had to fetch"
    assert 10 <= len(endpoint.asked) <= 18
    assert source.statistics()["fetched"] == 1


async def test_the_old_one_goes_on_while_renewal_fails(
    source: ServiceTokenSource, endpoint: Endpoint, clock: VirtualClock
) -> None:
    await source.token()
    await settle()
    await source.token()
    endpoint.up = False
    await clock.advance(LIFE * 0.85)
    assert endpoint.failures >= 1
    assert await source.token() == "token-1"
    assert endpoint.failures < 60, "tries are paced"
    endpoint.up = True
    await clock.advance(LIFE * 0.1)
    assert await source.token() == "token-2"


async def test_when_it_has_run_out_the_caller_learns_why(
    source: ServiceTokenSource, endpoint: Endpoint, clock: VirtualClock
) -> None:
    await source.token()
    await settle()
    await source.token()
    endpoint.up = False
    await clock.advance(LIFE + 1)
    with pytest.raises(Unavailable):
        await source.token()
    endpoint.up = True
    assert await source.token() == "token-2"


async def test_a_token_that_nobody_uses_is_not_renewed(
    source: ServiceTokenSource, endpoint: Endpoint, clock: VirtualClock
) -> None:
    await source.token()
    await settle()
    await clock.advance(LIFE * 3)
    assert len(endpoint.asked) == 1
    assert source.statistics()["held"] == 0


async def test_each_workspace_has_its_own_and_their_number_is_bounded(
    endpoint: Endpoint, clock: VirtualClock
) -> None:
    options = ServiceTokenOptions(max_tokens=3)
    source = ServiceTokenSource(Service.JOB, endpoint, clock, random.Random(1), options)
    workspaces = [uuid.uuid4() for _ in range(5)]
    tokens = [await source.token(workspace) for workspace in workspaces]
    assert len(set(tokens)) == 5
    assert source.statistics()["held"] == 3
    assert await source.token(workspaces[-1]) == tokens[-1]
    await source.aclose()
    with pytest.raises(Unavailable):
        await source.token()


async def test_an_endpoint_that_gives_dead_tokens_is_an_error_not_a_loop(
    clock: VirtualClock,
) -> None:
    endpoint = Endpoint(life_s=1.0)
    source = ServiceTokenSource(Service.JOB, endpoint, clock)
    with pytest.raises(Exception, match="run out"):
        await source.token()
    assert len(endpoint.asked) == 1
    await source.aclose()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.booleans(), min_size=5, max_size=40))
def test_law_a_given_token_is_always_valid(seed: int, weather: list[bool]) -> None:
    """Whatever the endpoint's ups and downs: what is handed out has time left, or an error is."""

    async def run() -> None:
        clock, endpoint = VirtualClock(), Endpoint()
        expires: dict[str, float] = {}
        fetch = endpoint.fetch

        async def noted(workspace: uuid.UUID | None) -> Granted:
            granted = await fetch(workspace)
            expires[granted.token] = clock.monotonic() + granted.expires_in_s
            return granted

        endpoint.fetch = noted  # type: ignore[method-assign, assignment]
        source = ServiceTokenSource(Service.JOB, endpoint, clock, random.Random(seed))
        for up in weather:
            endpoint.up = up
            await clock.advance(random.Random(seed + len(expires)).uniform(1, LIFE))
            await settle()
            try:
                token = await source.token()
            except Unavailable:
                assert not up
            else:
                assert expires[token] - clock.monotonic() > 0
        await source.aclose()

    asyncio.run(run())


async def test_the_auth_carries_the_token_to_its_origin_alone() -> None:
    endpoint = Endpoint()
    source = ServiceTokenSource(Service.JOB, endpoint)
    seen: list[tuple[str, str | None]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers.get("authorization")))
        return httpx.Response(200)

    auth = ServiceAuth(source, "http://gateway:8000")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), auth=auth) as client:
        await client.get("http://gateway:8000/v1/models")
        await client.get("http://elsewhere:8000/v1/models", headers={"authorization": "Bearer x"})
        await client.get("http://gateway:9000/v1/models")
        await client.get("https://gateway:8000/v1/models")
    assert seen[0] == ("gateway", "Bearer token-1")
    assert [header for _, header in seen[1:]] == [None, None, None]
    await source.aclose()


async def test_a_refused_token_is_replaced_once() -> None:
    endpoint = Endpoint()
    source = ServiceTokenSource(Service.JOB, endpoint)
    good = {"Bearer token-2"}
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200 if seen[-1] in good else 401)

    auth = ServiceAuth(source, "http://gateway")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), auth=auth) as client:
        assert (await client.get("http://gateway/")).status_code == 200
        assert seen == ["Bearer token-1", "Bearer token-2"]
        good.clear()
        assert (await client.get("http://gateway/")).status_code == 401
        assert len(seen) == 4, "twice, then it is the caller's"
    await source.aclose()


async def test_the_endpoint_is_asked_with_an_assertion_in_the_body_alone() -> None:
    key = service_key(SECRET, Service.JOB)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"access_token": "t", "expires_in": 300})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    endpoint = HttpTokenEndpoint("http://gateway/", Service.JOB, key, "maily", client=client)
    granted = await endpoint.fetch(uuid.UUID(int=7))
    assert granted.expires_in_s == 300
    assert "t'" not in repr(granted)
    (request,) = seen
    assert str(request.url) == "http://gateway/oauth/token"
    assert "authorization" not in request.headers
    assert b"client_assertion=" in request.content
    assert b"workspace=00000000-0000-0000-0000-000000000007" in request.content
    await client.aclose()


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(401, json={}),
        httpx.Response(302, headers={"location": "http://elsewhere/"}),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json={"access_token": "t"}),
        httpx.Response(200, json={"access_token": "t", "expires_in": "soon"}),
        httpx.ConnectError("no"),
    ],
)
async def test_whatever_the_endpoint_does_is_unavailable(
    response: httpx.Response | httpx.ConnectError,
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return response

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    key = service_key(SECRET, Service.JOB)
    endpoint = HttpTokenEndpoint("http://gateway", Service.JOB, key, "maily", client=client)
    with pytest.raises(Unavailable):
        await endpoint.fetch(None)
    await client.aclose()


def test_every_service_has_a_grant_and_a_key_of_its_own() -> None:
    assert set(GRANTS) == set(Service)
    keys = {service: service_key(SECRET, service).as_dict(private=True)["d"] for service in Service}
    assert len(set(keys.values())) == len(Service)
    again = service_key(SECRET, Service.JOB).as_dict(private=True)["d"]
    assert again == keys[Service.JOB]
    other = service_key(b"t" * 32, Service.JOB).as_dict(private=True)["d"]
    assert other != again


@pytest.mark.parametrize(
    "subject", ["job", "service:", "service:root", "", "service:JOB", "a1" * 8]
)
def test_a_stranger_is_no_service(subject: str) -> None:
    assert service_of(subject) is None
