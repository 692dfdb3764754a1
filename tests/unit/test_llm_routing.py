"""The router's decisions, one at a time, in virtual time: breakers, retries, fallback, hedging."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from uuid import UUID

import pytest

from mesh.contracts.trace import CallRecord
from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    MailyError,
    Overloaded,
    Unavailable,
    UnknownModel,
)
from mesh.core.virtual_loop import LoopClock, run_virtual
from mesh.llm.call import Call, calling
from mesh.llm.engine import Wire
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.llm.routing import EngineBackend, RoutedClient, RoutingOptions, Target
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.hedging import HedgeOptions

USER = [{"role": "user", "content": "hello"}]
BODY: Wire = {"messages": USER, "stream": True}
OPTIONS = RoutingOptions(
    connect_s=1,
    first_token_s=2,
    between_tokens_s=1,
    retries=1,
    away_s=0,
    breaker=BreakerOptions(failures=3, open_s=5, open_max_s=20, jitter=0),
    hedge=HedgeOptions(budget=0),
)


class Counting(EngineBackend):
    """Counts calls, and those that run."""

    def __init__(self, engine: FakeEngine, name: str = "local") -> None:
        super().__init__(engine, name)
        self.fake = engine
        self.calls = 0
        self.at: list[float] = []
        self.avoided: list[str | None] = []

    async def frames(
        self, body: Wire, *, avoid: str | None = None, **more: Any
    ) -> AsyncGenerator[bytes, None]:
        self._count(avoid)
        async with aclosing(super().frames(body, **more)) as items:
            async for item in items:
                yield item

    async def answer(self, body: Wire, *, avoid: str | None = None, **more: Any) -> Wire:
        self._count(avoid)
        return await super().answer(body, **more)

    def _count(self, avoid: str | None) -> None:
        self.calls += 1
        self.at.append(asyncio.get_running_loop().time())
        self.avoided.append(avoid)


def engine(**more: Any) -> Counting:
    faults = {k: v for k, v in more.items() if k in FaultPlan.__slots__}
    rest = {k: v for k, v in more.items() if k not in faults}
    return Counting(FakeEngine(faults=FaultPlan(**faults), **rest))


def routed(
    *backends: Counting, options: RoutingOptions = OPTIONS, replicas: int = 1, **more: Any
) -> RoutedClient:
    targets = [
        Target(f"e{n}", backend, "fake", backend.engine.info.context_tokens, replicas)
        for n, backend in enumerate(backends)
    ]
    return RoutedClient(
        {"fast": targets}, default="fast", options=options, clock=LoopClock(),
        rng=random.Random(1), **more,
    )  # fmt: skip


async def ask(client: RoutedClient, body: Wire = BODY, timeout_s: float = 30.0) -> str:
    """The streamed text."""
    chunks = [chunk async for chunk in client.stream_chat(body, timeout_s=timeout_s)]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def virtual(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run it in virtual time."""

    def run() -> None:
        async def main() -> None:
            await test()

        run_virtual(main())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


def state(client: RoutedClient, name: str = "e0") -> str:
    return str(client.statistics()["engines"][name]["breaker"]["state"])


@virtual
async def test_a_dead_engine_is_left_alone_probed_and_taken_back() -> None:
    dead, other = engine(unavailable=True), engine()
    client = routed(dead, other)
    for _ in range(10):
        assert await ask(client)
    assert dead.calls == 3, "its breaker opened at the third failure in a row"
    assert other.calls == 10
    assert state(client) == "open"
    await asyncio.sleep(5)
    assert state(client) == "half_open"
    await ask(client)  # the probe fails: twice as long
    assert dead.calls == 4
    assert state(client) == "open"
    dead.fake.faults = FaultPlan()
    await asyncio.sleep(9.9)
    await ask(client)
    assert dead.calls == 4
    await asyncio.sleep(0.2)
    await ask(client)
    assert (dead.calls, state(client)) == (5, "closed")


@virtual
async def test_one_probe_at_a_time() -> None:
    dead, other = engine(unavailable=True), engine()
    client = routed(dead, other)
    for _ in range(3):
        await ask(client)
    await asyncio.sleep(5)
    dead.fake.faults = FaultPlan(first_token_delay_s=1)
    before = dead.calls
    await asyncio.gather(*(ask(client) for _ in range(8)))
    assert dead.calls == before + 1
    assert state(client) == "closed"


@virtual
async def test_a_hanging_engine_costs_its_phase_and_no_more() -> None:
    hanging, other = engine(hang_at_token=1), engine()
    client = routed(hanging, other)
    for _ in range(3):
        started = now()
        assert await ask(client)
        assert now() - started == pytest.approx(OPTIONS.first_token_s)
    assert state(client) == "open"
    started = now()
    assert await ask(client)
    assert now() == started
    assert hanging.fake.statistics()["active"] == 0, "given up means cancelled"


@virtual
async def test_nothing_waits_beyond_its_deadline() -> None:
    for faults in ({"hang_at_token": 1}, {"hang_at_token": 4}, {"token_delay_s": 0.9}):
        client = routed(engine(**faults), engine(hang_at_token=1))
        for body in (BODY, {"messages": USER}):
            started = now()
            with pytest.raises(MailyError):
                await ask(client, body, timeout_s=1.5)
            assert now() - started <= 1.5 + 1e-9


@virtual
async def test_the_callers_mistakes_go_nowhere_else() -> None:
    first, other = engine(context_tokens=300), engine(context_tokens=300)
    client = routed(first, other)
    long = {"messages": [{"role": "user", "content": "word " * 400}], "stream": True}
    for _ in range(20):
        with pytest.raises(InvalidInput):
            await ask(client, long)
    assert other.calls == 0
    assert state(client) == "closed"
    with pytest.raises(UnknownModel):
        await ask(client, BODY | {"model": "gpt-9"})


@virtual
async def test_a_prompt_too_long_for_one_goes_to_one_with_more() -> None:
    first, other = engine(context_tokens=300), engine(context_tokens=2_000)
    client = routed(first, other)
    long = {"messages": [{"role": "user", "content": "word " * 400}], "stream": True}
    assert await ask(client, long)
    assert (first.calls, other.calls) == (1, 1)


@virtual
async def test_load_is_no_failure() -> None:
    busy, other = engine(refuse_first=50), engine()
    client = routed(busy, other)
    for _ in range(20):
        assert await ask(client)
    assert state(client) == "closed"
    alone = routed(engine(refuse_first=1))
    with pytest.raises(Overloaded):
        await ask(alone)


@virtual
async def test_who_says_too_many_requests_is_passed_over_for_as_long_as_asked() -> None:
    limited, other = engine(limit_first=1), engine()
    client = routed(limited, other)
    await ask(client)
    await ask(client)
    assert (limited.calls, other.calls) == (1, 2)
    await asyncio.sleep(1.01)
    await ask(client)
    assert (limited.calls, other.calls) == (2, 2)


@virtual
async def test_retries_are_jittered_and_within_their_budget() -> None:
    options = RoutingOptions(
        retries=1, retry_ratio=0.1, retry_reserve=3, away_s=0,
        breaker=BreakerOptions(failures=10_000, failure_ratio=1, window=1_000, min_calls=999),
    )  # fmt: skip
    failing, other = engine(fail_first=10_000), engine()
    client = routed(failing, other, options=options)
    for _ in range(200):
        assert await ask(client)
    retries = client.statistics()["engines"]["e0"]["retries"]["retries"]
    assert retries == failing.calls - 200
    assert 3 <= retries <= 0.1 * 200 + 3
    pauses = {round(b - a, 6) for a, b in zip(failing.at, failing.at[1:], strict=False)} - {0.0}
    assert len(pauses) > 5
    assert max(pauses) <= options.pause_s


@virtual
async def test_a_route_that_is_away_is_waited_for() -> None:
    """Three callers' engine comes back after 4 s; with patience nobody is refused."""
    options = RoutingOptions(away_s=10, breaker=OPTIONS.breaker, hedge=OPTIONS.hedge)
    dead = engine(unavailable=True)
    client = routed(dead, options=options)

    async def back() -> None:
        await asyncio.sleep(4)
        dead.fake.faults = FaultPlan()

    async with asyncio.TaskGroup() as group:
        group.create_task(back())
        asked = [group.create_task(ask(client)) for _ in range(3)]
    assert all(task.result() for task in asked)
    assert dead.calls <= 3 + OPTIONS.breaker.failures + 1
    impatient = routed(engine(unavailable=True))
    started = now()
    with pytest.raises(Unavailable):
        await ask(impatient)
    assert now() - started < 0.2


@virtual
async def test_who_queues_at_an_engine_that_proves_dead_goes_elsewhere() -> None:
    hanging, other = engine(hang_at_token=1, slots=3, queue_limit=8), engine()
    client = routed(hanging, other)
    started = now()
    answers = await asyncio.gather(*(ask(client) for _ in range(6)))
    assert all(answers)
    assert now() - started == pytest.approx(OPTIONS.first_token_s)
    assert hanging.fake.statistics()["queued"] == 0


@virtual
async def test_late_first_tokens_are_hedged_within_the_budget() -> None:
    options = RoutingOptions(
        first_token_s=30, hedge=HedgeOptions(budget=0.05, min_samples=20, min_s=0.05)
    )
    slow, other = engine(first_token_delay_s=5, every=20), engine()
    client = routed(slow, other, options=options)
    waits = []
    for _ in range(400):
        started = now()
        assert await ask(client)
        waits.append(now() - started)
    late = [wait for wait in waits[40:] if wait > 1]
    assert len(late) <= 2, "those that came when the budget was spent"
    figures = client.statistics()["engines"]["e0"]
    assert 10 <= figures["hedging"]["hedges"] <= 0.05 * 400
    assert other.calls == figures["hedging"]["hedges"]
    assert slow.fake.statistics()["active"] == 0, "losers are cancelled"
    assert state(client) == "closed", "losing is no failure"


@virtual
async def test_a_hedge_goes_to_a_peer_replica() -> None:
    options = RoutingOptions(
        first_token_s=30, hedge=HedgeOptions(budget=0.5, min_samples=5, min_s=0.05)
    )
    slow = engine(first_token_delay_s=5, every=8)
    client = routed(slow, options=options, replicas=2)
    for _ in range(24):
        assert await ask(client)
    assert "local" in slow.avoided
    alone = routed(engine(first_token_delay_s=5, every=8), options=options)
    for _ in range(24):
        assert await ask(alone)
    assert alone.statistics()["engines"]["e0"]["hedging"]["hedges"] == 0, "nobody to ask"


@virtual
async def test_when_both_of_a_race_fail_the_next_round_answers() -> None:
    options = RoutingOptions(
        first_token_s=1, retries=0, hedge=HedgeOptions(budget=0.5, min_samples=3, min_s=0.05)
    )
    first, second = engine(), engine()
    client = routed(first, second, options=options)
    for _ in range(8):
        await ask(client)
    first.fake.faults = FaultPlan(hang_at_token=1)
    second.fake.faults = FaultPlan(fail_first=1)
    assert await ask(client)
    assert first.fake.statistics()["active"] == second.fake.statistics()["active"] == 0


@virtual
async def test_an_answer_breaks_off_with_every_engine_at_once() -> None:
    """All die at the same token: the answer gets there, a piece from each."""
    whole = await ask(routed(engine()))
    client = routed(engine(die_at_token=4), engine(die_at_token=4), options=OPTIONS)
    assert await ask(client) == whole
    assert client.statistics()["resumed"]["prefix"] == 3
    stuck = routed(engine(die_at_token=2), options=OPTIONS)
    with pytest.raises((EngineError, Unavailable)):
        await ask(stuck)
    assert stuck.statistics()["resumed"]["refused"] == 1


@virtual
async def test_the_death_of_one_replica_is_one_failure() -> None:
    """It takes twenty answers with it; the peer is well, and must not be left alone for that."""
    dying, peer = FakeEngine(faults=FaultPlan(token_delay_s=0.1, die_at_token=6)), FakeEngine()

    class Twins(Counting):
        async def frames(
            self, body: Wire, *, avoid: str | None = None, **more: Any
        ) -> AsyncGenerator[bytes, None]:
            self._count(avoid)
            chosen = EngineBackend(peer if avoid == "one" else dying, "two" if avoid else "one")
            async with aclosing(chosen.frames(body, **more)) as items:
                async for item in items:
                    yield item

    client = routed(Twins(dying), replicas=2)
    answers = await asyncio.gather(*(ask(client) for _ in range(8)))
    assert set(answers) == {await ask(routed(engine()))}
    assert state(client) == "closed"
    figures = client.statistics()
    assert figures["resumed"]["prefix"] == 8
    assert figures["engines"]["e0"]["breaker"]["failures"] == 1


@virtual
async def test_replicas_that_all_fail_are_left_alone_nevertheless() -> None:
    client = routed(engine(die_at_token=1), replicas=2)
    for _ in range(3):
        with pytest.raises(MailyError):
            await ask(client)
    assert state(client) == "open"


@virtual
async def test_an_overlong_answer_ends_with_the_error() -> None:
    options = RoutingOptions(journal_bytes=100)
    client = routed(engine(die_at_token=6), engine(), options=options)
    with pytest.raises(EngineError):
        await ask(client)


@virtual
async def test_half_a_chunk_is_no_answer() -> None:
    whole = await ask(routed(engine()))
    client = routed(engine(malformed_at_token=3), engine())
    assert await ask(client) == whole


@virtual
async def test_urgency_reaches_the_engine() -> None:
    one = engine()
    client = routed(one)
    with calling(Call(UUID(int=1), priority=7)):
        await ask(client)
    await ask(client)
    assert [body.get("priority") for body in one.fake.bodies] == [7, None]


@virtual
async def test_what_happened_is_told_to_the_ledger() -> None:
    notes: list[CallRecord] = []
    client = routed(engine(die_at_token=4), engine(), note=notes.append)
    await ask(client, BODY | {"stream_options": {"include_usage": True}})
    with pytest.raises(InvalidInput):
        await client.chat({"messages": [{"role": "user", "content": "w " * 3_000}]}, timeout_s=9)
    first, second = notes
    assert (first.route, first.engine, first.outcome) == ("fast", "e1", "ok")
    assert [(t.engine, t.kind, t.outcome) for t in first.tries] == [
        ("e0", "first", "failed"),
        ("e1", "resume", "ok"),
    ]
    assert first.tries[0].error == "engine_error"
    assert first.completion_tokens == 12
    assert first.finish_reason == "stop"
    assert (second.outcome, second.error) == ("failed", "invalid_input")


@virtual
async def test_whole_answers_alone_go_without_a_stream() -> None:
    alone = engine(fail_first=1)
    client = routed(alone)
    answer = await client.chat({"messages": USER}, timeout_s=5)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert alone.calls == 2
    hanging = routed(engine(hang_at_token=1))
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            await hanging.chat({"messages": USER}, timeout_s=3)
    assert state(hanging) == "open", "silent for longer than a first token may take"


@virtual
async def test_a_callers_leaving_says_nothing_of_the_engine() -> None:
    slow = engine(token_delay_s=0.5)
    client = routed(slow, engine())
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.7):
                await ask(client)
    assert state(client) == "closed"
    assert slow.fake.statistics()["active"] == 0


@virtual
async def test_embeddings_have_a_breaker() -> None:
    calls = 0

    async def embed(texts: Any, *, timeout_s: float) -> list[list[float]]:
        nonlocal calls
        calls += 1
        raise Unavailable("gone")

    client = routed(engine(), embed=embed)
    for _ in range(6):
        with pytest.raises(Unavailable):
            await client.embed(["x"], timeout_s=1)
    assert calls == 3
