"""Budgets from end to end: the API, metered calls, the ledger, counters that are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from gateway_support import EngineModels, House, build_house, shaped

from mesh.core.clock import SystemClock
from mesh.core.errors import BudgetExceeded, EngineError
from mesh.llm.budgets.client import MeteredClient
from mesh.llm.budgets.limits import Budget, Price, counters_of, window_of
from mesh.llm.budgets.meter import Meter
from mesh.llm.budgets.usage import Usage
from mesh.llm.budgets.valkey import ValkeyCounters
from mesh.llm.call import Call, calling
from mesh.llm.engine import Wire
from mesh.llm.fake import FakeEngine, FaultPlan
from mesh.storage.budgets import BudgetRepository, Spent
from mesh.storage.pool import Database
from serve_apps.gateway.app import create_app
from serve_apps.gateway.budget_admin import Budgets

PRICES = {"fake": Price(1.0, 2.0)}


class Models(EngineModels):
    """The fake engine with every method of a ModelClient."""

    async def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async for chunk in self.engine.stream_chat(body, timeout_s=timeout_s):
            yield chunk

    async def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async for chunk in self.engine.stream_completion(body, timeout_s=timeout_s):
            yield chunk


class Metered(MeteredClient):
    """… which the gateway can list, too."""

    def __init__(self, models: Models, meter: Meter) -> None:
        super().__init__(
            models,
            meter,
            SystemClock(),
            embedding_model="fake-embed",
            prices=PRICES,
            context_tokens={"fake": 2_048},
        )
        self.cards = models.cards


class Metering:
    """A house whose calls are metered by a meter that is flushed by hand."""

    def __init__(self, house: House, database: Database, prefix: str) -> None:
        self.store = BudgetRepository(database)
        self.counters = ValkeyCounters(house.redis, prefix)
        self.meter = Meter(self.store, self.counters, SystemClock())
        self.models = Metered(Models(house.engine), self.meter)
        gateway = replace(
            house.gateway, models=self.models, budgets=Budgets(database, self.counters)
        )
        self.house = replace(house, gateway=gateway, app=create_app(gateway))

    async def put(self, client: httpx.AsyncClient, **body: Any) -> Any:
        answer = await client.put("/v1/budgets", json=body)
        assert answer.status_code == 200, answer.text
        self.meter.changed()
        await asyncio.sleep(0.05)  # the limits are read in the background
        return answer.json()


@pytest_asyncio.fixture(loop_scope="session")
async def metering(database: Database, valkey_url: str) -> AsyncIterator[Metering]:
    house = await build_house(database, valkey_url)
    made = Metering(house, database, f"test:budget:{uuid4().hex}")
    yield made
    for key in (house.key, house.other):
        async with made.house.client(key) as client:
            for budget in (await client.get("/v1/budgets")).json()["items"]:
                assert (await client.delete(f"/v1/budgets/{budget['id']}")).status_code == 200
    await database.fetch("DELETE FROM usage")
    await house.redis.aclose()


def chat(tokens: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "model": "fake",
        "messages": [{"role": "user", "content": "Say something nice."}],
        "max_tokens": tokens,
        **more,
    }


async def test_the_api_sets_shows_and_removes(metering: Metering) -> None:
    async with metering.house.client() as client, metering.house.client(metering.house.other) as b:
        made = await metering.put(
            client, scope="workspace", unit="tokens", period="day", limit=1_000
        )
        assert made["id"] == "workspace.tokens.day"
        assert (made["limit"], made["spent"]) == (1_000, 0)
        again = await metering.put(
            client, scope="workspace", unit="tokens", period="day", limit=500
        )
        assert again["limit"] == 500
        await metering.put(client, scope="task", unit="cost", period="total", limit=9)
        listed = (await client.get("/v1/budgets")).json()["items"]
        assert [(i["id"], i["limit"]) for i in listed] == [
            ("task.cost.total", 9),
            ("workspace.tokens.day", 500),
        ]
        assert (await b.get("/v1/budgets")).json() == {"items": []}
        shaped(await b.delete("/v1/budgets/workspace.tokens.day"), 404, "not_found")
        assert (await client.delete("/v1/budgets/task.cost.total")).json()["limit"] == 9
        shaped(await client.delete("/v1/budgets/task.cost.total"), 404, "not_found")


async def test_a_priority_can_only_be_given_up(metering: Metering) -> None:
    async with metering.house.client() as client:
        for value, status in (("-10", 200), ("0", 200), ("1", 422), ("-11", 422), ("x", 422)):
            headers = {"x-priority": value}
            answer = await client.post("/v1/chat/completions", json=chat(), headers=headers)
            assert answer.status_code == status, value


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"scope": "team"}, "scope"),
        ({"limit": -1}, "limit"),
        ({"limit": 2**53}, "limit"),
        ({"key_id": "k"}, "body"),
        ({"scope": "task", "period": "day"}, "body"),
        ({"unit": "words"}, "unit"),
    ],
)
async def test_wrong_budgets_are_refused(
    metering: Metering, wrong: dict[str, Any], field: str
) -> None:
    body = {"scope": "workspace", "unit": "tokens", "period": "day", "limit": 5} | wrong
    async with metering.house.client() as client:
        shaped(await client.put("/v1/budgets", json=body), 422, "invalid_input", field)


async def test_usage_is_what_the_engine_counted(metering: Metering) -> None:
    async with metering.house.client() as client, metering.house.client(metering.house.other) as b:
        one = (await client.post("/v1/chat/completions", json=chat())).json()["usage"]
        streamed = await client.post("/v1/chat/completions", json=chat(stream=True))
        assert b'"usage"' not in streamed.content  # it was not asked for
        asked = chat(stream=True, stream_options={"include_usage": True})
        assert b'"usage"' in (await client.post("/v1/chat/completions", json=asked)).content
        embedded = await client.post(
            "/v1/embeddings", json={"model": "fake-embed", "input": ["two words", "one"]}
        )
        assert embedded.status_code == 200
        await metering.meter.flush()
        page = (await client.get("/v1/usage")).json()
        rows = {row["model"]: row for row in page["items"]}
        assert rows["fake"]["calls"] == 3
        assert rows["fake"]["prompt_tokens"] == 3 * one["prompt_tokens"]
        assert rows["fake"]["completion_tokens"] == 3 * one["completion_tokens"] == 12
        assert rows["fake"]["cost"] == 3 * (one["prompt_tokens"] + 2 * 4)
        assert page["total"]["calls"] == 4
        assert page["complete"] is True
        assert (await b.get("/v1/usage")).json()["items"] == []
        later = (await client.get("/v1/usage", params={"model": "none"})).json()
        assert later["items"] == []
        backwards = {"since": "2024-02-02", "until": "2024-02-01"}
        shaped(await client.get("/v1/usage", params=backwards), 422, "invalid_input", "since")


async def test_a_used_up_budget_refuses_names_itself_and_comes_back(metering: Metering) -> None:
    async with metering.house.client() as client, metering.house.client(metering.house.other) as b:
        budget = {"scope": "workspace", "unit": "tokens", "period": "month"}
        await metering.put(client, **budget, limit=110)
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        await metering.meter.flush()
        refused = await client.post("/v1/chat/completions", json=chat(10))
        body = shaped(refused, 429, "budget_exceeded")
        assert body["details"]["budget"] == "workspace.tokens.month"
        assert body["details"]["limit"] == 110
        assert 0 < body["details"]["spent"] < 110
        assert body["error"]["code"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert 1 <= int(refused.headers["retry-after"]) <= 31 * 86_400
        streamed = await client.post("/v1/chat/completions", json=chat(100, stream=True))
        shaped(streamed, 429, "budget_exceeded")  # before the stream began
        assert "retry-after" not in streamed.headers  # it is more than the whole budget
        assert (await b.post("/v1/chat/completions", json=chat(100))).status_code == 200
        await metering.put(client, **budget, limit=5_000)
        await asyncio.sleep(0.15)  # a refusal is remembered for a moment
        assert (await client.post("/v1/chat/completions", json=chat(100))).status_code == 200


async def test_keys_and_cost_have_budgets_of_their_own(metering: Metering) -> None:
    house = metering.house
    second = await house.keys.create("one", "second", ["chat:write"])
    async with house.client() as client, house.client(second.key) as other:
        await metering.put(
            client,
            scope="key", key_id=second.info.id, unit="cost", period="total", limit=10,
        )  # fmt: skip
        refused = shaped(
            await other.post("/v1/chat/completions", json=chat()), 429, "budget_exceeded"
        )
        assert refused["details"]["unit"] == "cost"
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_many_calls_at_once_never_spend_more_than_there_is(metering: Metering) -> None:
    """Two processes, one budget; every call may use 40 tokens and uses all of them."""
    workspace = await metering.house.keys.ensure_workspace(f"w-{uuid4().hex[:8]}")
    await metering.store.put(workspace, Budget("workspace", "tokens", "day", 1_000))
    await metering.counters.announce(workspace)
    meters = [Meter(metering.store, metering.counters, SystemClock()) for _ in range(2)]
    running = 0
    most = 0

    async def call(n: int) -> bool:
        nonlocal running, most
        meter, who = meters[n % 2], Call(workspace, "k")
        try:
            reservation = await meter.reserve(who, lambda: {"tokens": 40, "cost": 0})
        except BudgetExceeded:
            return False
        running += 40
        most = max(most, running)
        await asyncio.sleep(0.001)
        meter.settle(who, reservation, "fake", Usage(10, 30))
        return True

    served = sum(await asyncio.gather(*(call(n) for n in range(100))))
    for _ in range(20):  # what lies with one process goes back, and the rest is spent, too
        await asyncio.gather(*(meter.flush() for meter in meters))
        await asyncio.sleep(0.05)
        served += sum(await asyncio.gather(*(call(n) for n in range(4))))
    assert served == 25
    assert most <= 1_000
    await asyncio.gather(*(meter.flush() for meter in meters))
    counter = counters_of([Budget("workspace", "tokens", "day", 1_000)], None, None)[0]
    window = window_of("day", SystemClock().now())
    assert await metering.store.spent(workspace, counter, window) == 1_000


async def test_counters_are_made_anew_from_the_ledger(metering: Metering) -> None:
    workspace = await metering.house.keys.ensure_workspace(f"w-{uuid4().hex[:8]}")
    task = uuid4()
    for budget in (
        Budget("workspace", "tokens", "month", 100),
        Budget("key", "tokens", "total", 100),
        Budget("task", "tokens", "total", 100),
    ):
        await metering.store.put(workspace, budget)
    await metering.counters.announce(workspace)
    who = Call(workspace, "k", task)
    first = Meter(metering.store, metering.counters, SystemClock())
    reservation = await first.reserve(who, lambda: {"tokens": 80, "cost": 0})
    first.settle(who, reservation, "fake", Usage(40, 30))
    await first.flush()
    redis = metering.house.redis
    async for key in redis.scan_iter(f"{metering.counters._prefix}:{{{workspace}}}*"):
        await redis.delete(key)
    await metering.counters.announce(workspace)
    second = Meter(metering.store, metering.counters, SystemClock())
    with pytest.raises(BudgetExceeded) as caught:
        await second.reserve(who, lambda: {"tokens": 40, "cost": 0})
    assert caught.value.details["spent"] == 70
    assert await second.reserve(who, lambda: {"tokens": 30, "cost": 0}) is not None


async def test_a_stream_that_is_cut_short_pays_what_went_by() -> None:
    """… a failed one what it gave, and one that never began nothing."""
    seen: list[Usage] = []

    class Ledger(Meter):
        def __init__(self) -> None:
            pass

        async def reserve(self, call: Call, amounts: Any) -> None:
            assert amounts()["tokens"] > 0

        def settle(self, call: Call, reservation: Any, model: str, usage: Usage) -> None:
            seen.append(usage)

    async def run(engine: FakeEngine, read: int | None) -> None:
        metered = Metered(Models(engine), Ledger())
        with calling(Call(UUID(int=1))):
            stream = metered.stream_chat_encoded(chat(10), timeout_s=5)
            with suppress(EngineError):
                async for _ in stream:
                    if read is not None:
                        read -= 1
                        if read == 0:
                            break
            await stream.aclose()  # type: ignore[attr-defined]

    await run(FakeEngine(), 4)
    await run(FakeEngine(faults=FaultPlan(die_at_token=3)), None)
    await run(FakeEngine(faults=FaultPlan(fail_first=1)), None)
    assert [usage.completion_tokens for usage in seen] == [3, 2, 0]
    assert seen[0].prompt_tokens > 0
    assert seen[2].prompt_tokens == 0


async def test_batches_are_added_once_and_roll_up_to_days(database: Database) -> None:
    store = BudgetRepository(database)
    workspace, batch = uuid4(), uuid4()
    day = 1_700_000_000 // 86_400
    rows = [Spent(workspace, day * 1_440 + n, "k", "m", 1, 10, 5, 3) for n in range(3)]
    for _ in range(2):
        await store.add(batch, rows, [])
    before = await store.usage(workspace, _day(day), _day(day + 1))
    assert [(r.calls, r.prompt_tokens, r.completion_tokens, r.cost) for r in before] == [
        (3, 30, 15, 9)
    ]
    await store.sweep()
    await store.sweep()
    assert await store.usage(workspace, _day(day), _day(day + 1)) == before
    assert len(await database.fetch("SELECT FROM usage WHERE workspace_id = $1", workspace)) == 1


def _day(number: int) -> Any:
    return datetime.fromtimestamp(number * 86_400, UTC).date()
