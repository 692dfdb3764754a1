"""Valkey's script and its twin in Python decide alike, and keep the counters' law."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.llm.budgets.counters import Ask, Counters, Grant, MemoryCounters, Status
from mesh.llm.budgets.valkey import ValkeyCounters
from mesh.streams.connect import connect

HOLDERS = ("a", "b", "c")


@st.composite
def asks(draw: st.DrawFn) -> tuple[str, Ask]:
    floor = draw(st.integers(0, 60))
    return draw(st.sampled_from(HOLDERS)), Ask(
        counter=draw(st.sampled_from(("w::tokens:day", "k:1:cost:minute"))),
        limit=draw(st.sampled_from((0, 50, 100, 2**52))),
        window=draw(st.integers(5, 7)),
        ttl_s=60.0,
        sequence=draw(st.integers(1, 4)),
        known=draw(st.booleans()),
        used=draw(st.integers(0, 40)),
        floor=floor,
        need=floor + draw(st.integers(0, 60)),
        spare=draw(st.integers(0, 100)),
        seed=draw(st.none() | st.integers(0, 30)),
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.lists(asks(), min_size=1, max_size=2), min_size=1, max_size=15))
def test_the_script_and_its_twin_decide_alike(
    steps: list[list[tuple[str, Ask]]], valkey_url: str
) -> None:
    """Leases don't run out within the test: one clock stands, the other hardly moves."""
    workspace = uuid4()

    async def play(counters: Counters) -> list[list[Grant]]:
        """Seeds come with the ticket that was given last, whatever it was."""
        await counters.announce(workspace)
        tickets: dict[str, int] = {}
        told = []
        for step in steps:
            wanted = [replace(ask, ticket=tickets.get(ask.counter, 0)) for _, ask in step]
            grants = await counters.exchange(workspace, step[0][0], wanted)
            for ask, grant in zip(wanted, grants, strict=True):
                tickets[ask.counter] = grant.ticket or tickets.get(ask.counter, 0)
            told.append([replace(grant, ticket=int(grant.ticket > 0)) for grant in grants])
        return told

    async def there() -> list[list[Grant]]:
        redis = connect(valkey_url)
        try:
            return await play(ValkeyCounters(redis, prefix="test:budget"))
        finally:
            await redis.aclose()

    async def here() -> list[list[Grant]]:
        return await play(MemoryCounters(lambda: 1_000.0))

    assert asyncio.run(there()) == asyncio.run(here())


async def test_counters_that_were_lost_settle_before_they_grant(valkey_url: str) -> None:
    """No mark is there: what others hold isn't known yet, so nothing new is granted."""
    redis = connect(valkey_url)
    workspace = uuid4()
    try:
        counters = ValkeyCounters(redis, prefix="test:budget")
        ask = Ask("w::tokens:day", 100, 5, 60.0, 1, False, 0, 0, 10, 0)
        for which in (counters, MemoryCounters(lambda: 10.0)):
            asked = (await which.exchange(workspace, "a", [ask]))[0]
            assert asked.status is Status.UNKNOWN
            stale = replace(ask, seed=40, ticket=asked.ticket - 1)
            assert (await which.exchange(workspace, "a", [stale]))[0].status is Status.UNKNOWN
            seeded = replace(ask, seed=40, ticket=asked.ticket)
            granted = (await which.exchange(workspace, "a", [seeded]))[0]
            assert granted == Grant(Status.SETTLING, 5, 0, 40, 0)
    finally:
        await redis.aclose()


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_number_of_its_own(status: Status) -> None:
    assert Status(int(status)) is status


def test_counters_of_workspaces_are_apart() -> None:
    counters = MemoryCounters(lambda: 10.0)
    one, two = UUID(int=1), UUID(int=2)
    for workspace in (one, two):
        counters._marks[workspace] = 0.0
        ask = Ask("w::tokens:day", 100, 5, 60.0, 1, False, 30, 0, 50, 0)
        ticket = counters.decide(workspace, "a", [ask])[0].ticket
        ask = replace(ask, seed=0, ticket=ticket)
        assert counters.decide(workspace, "a", [ask]) == [Grant(Status.GRANTED, 5, 50, 30, 0)]
