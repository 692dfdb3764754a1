"""The actors in a Ray of their own: reconciled, killed, restarted."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from actors_support import (
    CLOCK,
    FakeClient,
    check_stream,
    ended,
    events,
    new_task,
    until,
    workspace,
)
from memory_support import SECRET, WordModel, asked, contact
from memory_support import memory as new_memory
from pydantic import SecretStr
from trust_house import T_S, die_once, mail, messages

from actors.context import ProcessContext
from actors.dispatch import Dispatcher
from actors.health import check_actors, check_snapshot
from actors.lookup import describe, find_actor
from actors.memory_open import open_memory
from actors.names import coordinator, memory_host, trust_host, worker
from actors.reconcile import ReconcileOptions, end_all, reconcile
from actors.trust_open import open_trust
from actors.trust_work import RayWork
from mesh.contracts.memory import ForgetSelector
from mesh.contracts.tasks import TaskState
from mesh.contracts.trust import CertificateLine, NewBatch
from mesh.core.errors import InvalidInput
from mesh.core.settings import AgentSettings, LLMSettings, PostgresSettings, RedisSettings, Settings
from mesh.core.settings_memory import MemorySettings
from mesh.core.settings_tree import SecuritySettings
from mesh.core.settings_trust import TrustSettings
from mesh.llm.fake import FaultPlan
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted([coordinator(0), coordinator(1), worker(0), worker(1)])
LLM = FakeClient(FaultPlan(token_delay_s=0.01))


@pytest.fixture(scope="module")
def ray_instance() -> Iterator[str]:
    """Its own head with a short temporary path (unix socket names have little room)."""
    import ray

    folder = tempfile.mkdtemp(prefix="mr")
    namespace = f"test-{os.path.basename(folder)}"
    ray.init(
        address="local",
        namespace=namespace,
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80_000_000,
        _temp_dir=folder,
        runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}},
    )
    yield namespace
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def settings(database_dsn: str, valkey_url: str) -> Settings:
    return Settings(
        postgres=PostgresSettings(url=SecretStr(database_dsn), pool_max=4),
        redis=RedisSettings(url=SecretStr(valkey_url)),
        llm=LLMSettings(engine="fake", model="fake"),
        memory=MemorySettings(hosts=0),  # they have tests of their own below
        trust=TrustSettings(hosts=0),
        agents=AgentSettings(workers=2, slots=8, lease_s=2.0, heartbeat_s=0.2),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def context(settings: Settings) -> AsyncIterator[ProcessContext]:
    opened = await ProcessContext.open(settings, "test")
    yield opened
    await opened.aclose()


@pytest.fixture
def options(ray_instance: str) -> ReconcileOptions:
    return ReconcileOptions(namespace=ray_instance, drain_s=3.0)


async def info(name: str, options: ReconcileOptions) -> dict[str, Any]:
    handle = await find_actor(name, options.namespace)
    assert handle is not None
    return await describe(handle)


async def kill(name: str, options: ReconcileOptions) -> dict[str, Any]:
    """``kill -9`` of its process; what it said of itself before."""
    before = await info(name, options)
    os.kill(before["pid"], signal.SIGKILL)
    return before


async def back(name: str, before: dict[str, Any], options: ReconcileOptions) -> dict[str, Any]:
    """What it says once it runs again in another process."""
    after: dict[str, Any] = {}

    async def look() -> bool:
        nonlocal after
        after = await info(name, options)
        return bool(after["healthy"]) and after["incarnation"] != before["incarnation"]

    await until(look)
    return after


async def test_reconcile_makes_adopts_replaces_and_ends(
    settings: Settings, options: ReconcileOptions
) -> None:
    first = await reconcile(settings, options, llm=LLM)
    assert (first.adopted, sorted(first.created), first.ended) == ((), NAMES, ())
    assert first.unhealthy == {}
    pids = {name: (await info(name, options))["pid"] for name in NAMES}

    again = await reconcile(settings, options, llm=LLM)
    assert (again.adopted, again.created, again.ended) == (tuple(NAMES), (), ())
    assert {name: (await info(name, options))["pid"] for name in NAMES} == pids

    smaller = settings.model_copy(
        update={"agents": settings.agents.model_copy(update={"workers": 1})}
    )
    changed = await reconcile(smaller, options, llm=LLM)
    assert changed.ended == tuple(NAMES)  # another configuration: each is made again or goes
    assert changed.created == (coordinator(0), coordinator(1), worker(0))
    assert changed.unhealthy == {}
    parts = await check_actors(2, namespace=options.namespace)
    assert [part.healthy for part in parts] == [True, True, True, False]
    assert parts[3].reason == "there is no such actor"

    restored = await reconcile(settings, options, llm=LLM)
    assert restored.unhealthy == {}


async def test_a_killed_worker_comes_back_and_every_task_ends_once(
    settings: Settings, options: ReconcileOptions, context: ProcessContext
) -> None:
    await reconcile(settings, options, llm=LLM)
    space = await workspace(context.db)
    dispatcher = Dispatcher(context.redis)
    rows = []
    for _ in range(20):
        row, _ = await context.tasks.create(new_task(space))
        await dispatcher.offer(row.id)
        rows.append(row)

    async def both_are_busy() -> bool:
        told = [await info(name, options) for name in (worker(0), worker(1))]
        return all(t["statistics"]["active"] > 0 for t in told)

    await until(both_are_busy)
    before = await kill(worker(0), options)
    done = await asyncio.gather(*(ended(context.tasks, row, 60) for row in rows))
    assert [(row.state, row.error) for row in done] == [(TaskState.SUCCEEDED, None)] * 20
    assert any(row.attempt > 1 for row in done)
    for row in done:
        check_stream(await events(context.streams, row.id))
    after = await back(worker(0), before, options)
    assert after["pid"] != before["pid"]

    async def both_are_published() -> bool:
        snapshot = await dispatcher.snapshot()
        parts = check_snapshot(snapshot, 2, CLOCK.now())
        return all(part.healthy for part in parts)

    await until(both_are_published)


async def test_running_tasks_do_not_notice_that_the_coordinators_die(
    settings: Settings, options: ReconcileOptions, context: ProcessContext
) -> None:
    await reconcile(settings, options, llm=LLM)
    space = await workspace(context.db)
    dispatcher = Dispatcher(context.redis)

    async def published() -> bool:
        return await dispatcher.snapshot() is not None

    await until(published)
    old = await dispatcher.snapshot()
    assert old is not None
    rows = [(await context.tasks.create(new_task(space)))[0] for _ in range(6)]
    before = [await kill(coordinator(shard), options) for shard in (0, 1)]
    done = await asyncio.gather(*(ended(context.tasks, row, 60) for row in rows))
    assert {(row.state, row.attempt) for row in done} == {(TaskState.SUCCEEDED, 1)}
    for shard in (0, 1):
        await back(coordinator(shard), before[shard], options)

    async def republished() -> bool:
        new = await dispatcher.snapshot()
        return new is not None and new.version > old.version and len(new.workers) == 2

    await until(republished)


async def test_memory_hosts_are_found_killed_and_answer_alike(
    settings: Settings, options: ReconcileOptions, tmp_path: Path
) -> None:
    changes = {
        "home": tmp_path,
        "memory": MemorySettings(hosts=2, lease_s=1.0, heartbeat_s=0.2),
        "security": SecuritySettings(secret=SecretStr(SECRET)),
    }
    remembering = settings.model_copy(update=changes)
    assert (await reconcile(remembering, options, llm=LLM)).unhealthy == {}
    hosts = [memory_host(0), memory_host(1)]
    opened = await ProcessContext.open(remembering, "test")
    try:
        model = WordModel()
        memory = open_memory(opened, model, namespace=options.namespace)  # type: ignore[arg-type]
        space = await workspace(opened.db)
        names = [f"name{n}" for n in range(6)]
        items = [new_memory(f"{name} likes roses", contact(name)) for name in names]
        kept = await memory.remember(space, items, timeout_s=20)
        query = asked("who likes roses", *map(contact, names), recency_weight=0.0)
        before = await memory.recall(space, query, timeout_s=20)
        assert {hit.item.id for hit in before.hits} == {item.id for item in kept}
        assert not before.degraded
        killed = [await kill(name, options) for name in hosts]
        after = before

        async def whole() -> bool:
            nonlocal after
            after = await memory.recall(space, query, timeout_s=20)
            return not after.degraded

        await until(whole)
        assert [(hit.item, hit.score) for hit in after.hits] == [
            (hit.item, hit.score) for hit in before.hits
        ]
        for name, old in zip(hosts, killed, strict=True):
            await back(name, old, options)
        wrong = new_memory("Two dimensions", contact("name0"), vector=[1.0, 2.0])
        with pytest.raises(InvalidInput):  # an error of the host's comes through as it is
            await memory.remember(space, [wrong], timeout_s=20)
        receipt = await memory.forget(space, ForgetSelector(contact="name0"), timeout_s=30)
        assert (receipt.erased["items"], receipt.remaining) == (1, 0)
    finally:
        await opened.aclose()


async def test_a_trust_host_is_killed_while_a_stream_fills_its_batch(
    settings: Settings, options: ReconcileOptions, tmp_path: Path
) -> None:
    changes = {
        "home": tmp_path,
        "trust": TrustSettings(hosts=1, lease_s=1.0, heartbeat_s=0.2),
        "security": SecuritySettings(secret=SecretStr(SECRET)),
    }
    certifying = settings.model_copy(update=changes)
    assert (await reconcile(certifying, options, llm=LLM)).unhealthy == {}
    host = trust_host(0)
    opened = await ProcessContext.open(certifying, "test")
    try:
        work = RayWork(2)
        # A worker that dies takes nothing with it: its task is given to another.
        assert await work.run(die_once, str(tmp_path / "died"), timeout_s=60) == "done"
        trust = open_trust(opened, work, namespace=options.namespace)
        space = await workspace(opened.db)
        batch = (await trust.open_batch(space, NewBatch(), timeout_s=T_S)).id
        told: dict[str, CertificateLine] = {}
        for at in range(0, 400, 50):
            if at == 200:
                old = await kill(host, options)
            lines = await trust.add(space, batch, messages(at, 50), timeout_s=60)
            told |= {line.message_id: line for line in lines}
        await back(host, old, options)
        again = await trust.add(space, batch, messages(150, 100), timeout_s=60)
        assert all(line.repeated and line.id == told[line.message_id].id for line in again)
        closed = await trust.close_batch(space, batch, timeout_s=60)
        assert closed.size == len(told) == 400
        keys = (await trust.keys(timeout_s=T_S)).keys
        policy = TrustPolicy(keys=tuple(map(VerifierKey.parse, keys)))
        for number in (0, 199, 200, 399):
            line = told[f"<{number}@shop.example>"]
            data = await trust.certificate_bytes(line.id, "cbor", timeout_s=T_S)
            assert verify(data, mail(number, f"person{number}@example.org"), policy).holds

        async def speaks() -> bool:
            return (await trust.networks(timeout_s=T_S)).networks == []

        await until(speaks)  # the host has the duty, though there is no network
    finally:
        await opened.aclose()


async def test_all_actors_end_and_leave_no_lease(
    settings: Settings, options: ReconcileOptions, context: ProcessContext
) -> None:
    await reconcile(settings, options, llm=LLM)  # this ends the memory hosts
    assert await end_all(replace(options, drain_s=1.0)) == tuple(NAMES)
    for name in NAMES:
        assert await find_actor(name, options.namespace) is None
    for shard in (0, 1):
        lease = await context.leases.get(coordinator(shard))
        assert lease is not None
        assert lease.expires_at.timestamp() <= CLOCK.now()
