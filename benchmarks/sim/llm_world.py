"""One seed's world for the router: engines that fail by a drawn schedule, callers who come, leave
and wait, all in virtual time; and what must hold whatever was drawn.

The engines are the fake that ships, the router is the real one; only time is not the world's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from mesh.core.errors import DeadlineExceeded, MailyError
from mesh.core.virtual_loop import LoopClock, run_virtual
from mesh.llm.assemble import assemble_chat, assemble_completion
from mesh.llm.engine import Wire
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.llm.fake_text import made_up, tokens_of
from mesh.llm.routing import EngineBackend, RoutedClient, RoutingOptions, Target
from mesh.resilience.breaker import BreakerOptions, BreakerState
from mesh.resilience.hedging import HedgeOptions

CHAOS_S = 60.0
"""Virtual seconds in which things go wrong."""
EPSILON_S = 1e-6
SCHEMA = {
    "type": "object",
    "properties": {"subject": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["subject", "score"],
}


class Replicas:
    """Several fakes behind one target; a request goes to one that is not to be avoided."""

    def __init__(self, engines: list[FakeEngine], rng: random.Random) -> None:
        self.engines = engines
        self._backends = [EngineBackend(e, f"replica-{i}") for i, e in enumerate(engines)]
        self._rng = rng
        self.calls = 0

    def _choose(self, avoid: str | None) -> EngineBackend:
        self.calls += 1
        free = [i for i in range(len(self.engines)) if f"replica-{i}" != avoid]
        return self._backends[self._rng.choice(free or [0])]

    def frames(
        self, body: Wire, *, avoid: str | None = None, **more: Any
    ) -> AsyncGenerator[bytes, None]:
        return self._choose(avoid).frames(body, **self._lawless(more))

    async def answer(self, body: Wire, *, avoid: str | None = None, **more: Any) -> Wire:
        return await self._choose(avoid).answer(body, **self._lawless(more))

    def _lawless(self, more: dict[str, Any]) -> dict[str, Any]:
        """Every second call reaches an engine that keeps no deadline: the router has to."""
        return more if self.calls % 2 else more | {"timeout_s": 1e6}


@dataclass(slots=True)
class Outcome:
    """What one seed showed; ``problems`` empty: everything held."""

    seed: int
    asked: int = 0
    answered: int = 0
    failed: int = 0
    left: int = 0
    resumed: int = 0
    hedged: int = 0
    retried: int = 0
    opened: int = 0
    problems: list[str] = field(default_factory=list)
    digest: str = ""
    """Of all that happened, with its times: the same seed gives the same."""


class World:
    """Draws everything from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.outcome = Outcome(seed)
        self.log: list[tuple[Any, ...]] = []
        rng = self.rng
        self.options = RoutingOptions(
            connect_s=rng.choice([0.5, 2.0]),
            first_token_s=rng.choice([1.0, 3.0]),
            between_tokens_s=rng.choice([0.5, 2.0]),
            retries=rng.randrange(3),
            away_s=rng.choice([0.0, 2.0, 10.0]),
            breaker=BreakerOptions(
                failures=rng.randrange(1, 6),
                window=rng.choice([5, 20]),
                min_calls=rng.choice([3, 10]),
                open_s=rng.choice([0.2, 1.0]),
                open_max_s=8.0,
                probes=rng.randrange(1, 3),
                probe_s=10.0,
            ),
            hedge=HedgeOptions(
                budget=rng.choice([0.0, 0.05]), min_samples=5, min_s=0.01, quantile=0.8
            ),
        )
        self.backends = [
            Replicas(
                [
                    FakeEngine(model_id=f"m{n}", slots=rng.randrange(1, 5), queue_limit=8)
                    for _ in range(rng.choice([1, 1, 2]))
                ],
                random.Random(rng.random()),
            )
            for n in range(rng.randrange(1, 4))
        ]
        self.targets = [
            Target(f"e{n}", backend, f"m{n}", replicas=len(backend.engines))
            for n, backend in enumerate(self.backends)
        ]

    async def run(self) -> Outcome:
        router = RoutedClient(
            {"fast": self.targets, "last": self.targets[-1:]},
            default="fast",
            options=self.options,
            clock=LoopClock(),
            rng=random.Random(self.rng.random()),
        )
        engines = [engine for backend in self.backends for engine in backend.engines]
        async with asyncio.TaskGroup() as group:
            for engine in engines:
                group.create_task(self._trouble(engine, random.Random(self.rng.random())))
            for number in range(self.rng.randrange(10, 40)):
                at = self.rng.uniform(0, CHAOS_S)
                group.create_task(
                    self._caller(router, number, at, random.Random(self.rng.random()))
                )
        await self._recovers(router)
        await router.aclose()
        self._settled(router, engines)
        self.outcome.digest = hashlib.sha256(repr(self.log).encode()).hexdigest()[:16]
        return self.outcome

    async def _trouble(self, engine: FakeEngine, rng: random.Random) -> None:
        """Episodes of trouble and peace, until the chaos ends."""
        loop = asyncio.get_running_loop()
        pace = rng.choice([0.0, 0.005, 0.05])
        while loop.time() < CHAOS_S:
            engine.faults = FaultPlan(token_delay_s=pace)
            await asyncio.sleep(rng.expovariate(1 / 6))
            at = rng.randrange(1, 14)
            engine.faults = rng.choice(
                [
                    FaultPlan(unavailable=True),
                    FaultPlan(fail_first=rng.randrange(1, 20)),
                    FaultPlan(refuse_first=rng.randrange(1, 20)),
                    FaultPlan(limit_first=rng.randrange(1, 5)),
                    FaultPlan(hang_at_token=1),
                    FaultPlan(hang_at_token=at, token_delay_s=pace),
                    FaultPlan(die_at_token=at, token_delay_s=pace),
                    FaultPlan(die_at_token=at, every=2),
                    FaultPlan(malformed_at_token=at),
                    FaultPlan(first_token_delay_s=rng.uniform(0, 5), token_delay_s=pace),
                    FaultPlan(token_delay_s=rng.uniform(0, 3)),
                ]
            )
            await asyncio.sleep(rng.expovariate(1 / 6))
        engine.faults = FaultPlan()

    async def _caller(
        self, router: RoutedClient, number: int, at: float, rng: random.Random
    ) -> None:
        await asyncio.sleep(at)
        chat = rng.random() < 0.8
        body = drawn_body(rng, chat, number)
        deadline_s = rng.choice([0.5, 3.0, 20.0])
        patience_s = rng.uniform(0, 2) if rng.random() < 0.1 else None
        loop = asyncio.get_running_loop()
        started = loop.time()
        self.outcome.asked += 1
        chunks: list[Wire] = []
        error: BaseException | None = None
        answer: Wire | None = None
        try:
            async with asyncio.timeout(patience_s):
                if body.get("stream"):
                    ask = router.stream_chat if chat else router.stream_completion
                    stream: Any = ask(body, timeout_s=deadline_s)
                    async with aclosing(stream):
                        async for chunk in stream:
                            chunks.append(chunk)  # noqa: PERF401 - kept when it breaks off
                    if not any(c.get("finish_reason") for k in chunks for c in k["choices"]):
                        self.outcome.problems.append(f"request {number}: cut off in silence")
                    answer = assemble_chat(chunks) if chat else assemble_completion(chunks)
                else:
                    whole = router.chat if chat else router.complete
                    answer = await whole(body, timeout_s=deadline_s)
        except TimeoutError as failure:
            error = failure
            self.outcome.left += 1
        except MailyError as failure:
            error = failure
            self.outcome.failed += 1
        else:
            self.outcome.answered += 1
        took = loop.time() - started
        self._judge(number, body, chunks, answer, error, took, deadline_s)
        what = type(error).__name__ if error else said(answer)
        self.log.append((number, round(started, 6), round(took, 6), what))

    def _judge(
        self,
        number: int,
        body: Wire,
        chunks: list[Wire],
        answer: Wire | None,
        error: BaseException | None,
        took: float,
        deadline_s: float,
    ) -> None:
        def problem(text: str) -> None:
            self.outcome.problems.append(f"request {number}: {text}; {body}")

        if took > deadline_s + EPSILON_S:
            problem(f"took {took:.6f} s with {deadline_s} s to go ({error!r})")
        known = "response_format" not in body or "seed" in body
        expected = tokens_of(made_up(body))[: body.get("max_tokens")]
        emitted = "".join(text_of(chunk) for chunk in chunks)
        if known and not "".join(expected).startswith(emitted):
            problem(f"said {emitted!r}, expected {expected!r}")
        ids = {chunk["id"] for chunk in chunks}
        if len(ids) > 1:
            problem(f"{len(ids)} ids in one stream")
        roles = sum("role" in (c.get("delta") or {}) for k in chunks for c in k["choices"])
        if roles > 1:
            problem(f"{roles} roles")
        if answer is None:
            if not isinstance(error, DeadlineExceeded | TimeoutError | MailyError):
                problem(f"ended with {error!r}")
            return
        if known and said(answer) != "".join(expected):
            problem(f"answered {said(answer)!r}, expected {expected!r}")
        if not known and answer["choices"][0]["finish_reason"] == "stop":
            json.loads(said(answer))
        usage = answer.get("usage")
        if known and usage and usage["completion_tokens"] != len(expected):
            problem(f"usage {usage}, tokens {len(expected)}")

    async def _recovers(self, router: RoutedClient) -> None:
        """When all engines are well again, so is every route, within the longest opening."""
        await asyncio.sleep(self.options.breaker.open_max_s * 1.3 + 31)
        for route in ("fast", "last"):
            for _ in range(3):
                body = {"model": route, "messages": [{"role": "user", "content": "well?"}]}
                try:
                    await router.chat(body, timeout_s=20)
                except MailyError as error:
                    self.outcome.problems.append(f"{route} did not recover: {error!r}")
        for name, figures in router.statistics()["engines"].items():
            state = figures["breaker"]["state"]
            if name == "e0" and state != BreakerState.CLOSED.value:
                self.outcome.problems.append(f"{name} is {state} though it answers")

    def _settled(self, router: RoutedClient, engines: list[FakeEngine]) -> None:
        outcome, figures = self.outcome, router.statistics()
        for engine in engines:
            found = engine.statistics()
            if found["active"] or found["queued"]:
                outcome.problems.append(f"slots are held: {found}")
        for name, one in figures["engines"].items():
            if one["active"]:
                outcome.problems.append(f"{name}: {one['active']} attempts never ended")
            hedging, retries = one["hedging"], one["retries"]
            if hedging["hedges"] > self.options.hedge.budget * hedging["calls"]:
                outcome.problems.append(f"{name}: {hedging} is over the budget")
            allowed = self.options.retry_ratio * retries["calls"] + self.options.retry_reserve
            if retries["retries"] > allowed:
                outcome.problems.append(f"{name}: {retries} is over the budget")
            outcome.hedged += hedging["hedges"]
            outcome.retried += retries["retries"]
            outcome.opened += one["breaker"]["opened"]
        outcome.resumed = figures["resumed"]["prefix"] + figures["resumed"]["replay"]


def drawn_body(rng: random.Random, chat: bool, number: int) -> Wire:
    prompt = f"request {number} " + "word " * rng.randrange(20)
    body: Wire = {"model": rng.choice(["fast", "fast", "last"])}
    body |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    if rng.random() < 0.7:
        body["stream"] = True
        if rng.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    if rng.random() < 0.3:
        body["max_tokens"] = rng.randrange(1, 15)
    if rng.random() < 0.5:
        body["seed"] = rng.randrange(1_000)
    if chat and rng.random() < 0.2:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "mail", "schema": SCHEMA},
        }
    return body


def text_of(chunk: Wire) -> str:
    return "".join(
        choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        for choice in chunk["choices"]
    )


def said(answer: Wire | None) -> str:
    if answer is None:
        return ""
    choice = answer["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"] or "")


def simulate(seed: int) -> Outcome:
    """One world, from its beginning to its end."""

    async def world() -> Outcome:
        return await World(seed).run()

    return run_virtual(world())
