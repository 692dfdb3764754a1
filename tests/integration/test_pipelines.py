"""Pipelines over real PostgreSQL and the gateway: people decide, workers die, releases change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from actors_support import CLOCK, EngineClient, new_task, workspace
from gateway_support import House, build_house, shaped
from graph_support import Agent, MortalJournal, World

from actors.run_parts import RunOptions, RunParts
from actors.streamed import streamed
from actors.task_run import TaskRun
from actors.waker import Waker
from mesh.agents.graph import Approval, Graph, Map, Node, Parallel, Ref, Sequence, Step, Undo
from mesh.agents.registry import KindSpec, Registry
from mesh.agents.run import run_task, undo_task
from mesh.agents.services import AgentServices
from mesh.agents.tools.box import ToolBox
from mesh.agents.tools.own import OWN
from mesh.contracts.base import Contract
from mesh.contracts.events import Event, EventType
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.errors import Conflict, Fenced, NotFound, Overloaded
from mesh.core.ids import uuid7
from mesh.storage.pool import Database
from mesh.storage.tasks import ClaimFilter, TaskRepository, TaskRow
from mesh.storage.waits import WaitRepository
from mesh.streams.memory import MemoryStreamLog

TASKS = "/v1/mesh/tasks"
RUN = RunOptions(settle_s=0.5)
BRIEF = {"goal": "sell shoes"}
CHECK = {"type": "tool", "name": "check", "tool": "email.check"} | {
    "input": {"text": "Buy shoes.", "brief": BRIEF}
}


def asks(**more: Any) -> dict[str, Any]:
    """A workflow that checks a text and asks whether it may be sent."""
    approval = {
        "type": "approval",
        "name": "ok",
        "question": {"send": {"$ref": "check.content.ok"}},
    }
    return {
        "kind": "workflow",
        "input": {
            "graph": {"type": "sequence", "steps": [CHECK, approval | more]},
            "output": {"approved": {"$ref": "ok.approved"}},
        },
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    yield built
    await built.redis.aclose()


def parts(
    db: Database, streams: MemoryStreamLog, kinds: Registry | None = None, name: str = "w"
) -> RunParts:
    return RunParts(
        worker=name,
        tasks=TaskRepository(db),
        streams=streams,
        llm=EngineClient(),
        runner=run_task if kinds is None else partial(run_task, kinds=kinds),
        clock=CLOCK,
        options=RUN,
        services=AgentServices(tools=ToolBox.of(OWN), streamed=streamed(streams)),
        waits=WaitRepository(db),
        undo=undo_task if kinds is None else partial(undo_task, kinds=kinds),
    )


async def work(run_parts: RunParts, task_id: UUID) -> TaskRun | None:
    """Claim it and run it as far as it goes; None: there is nothing to claim."""
    row = await run_parts.tasks.claim(task_id, run_parts.worker, 60.0)
    if row is None:
        return None
    run = TaskRun(row, run_parts, CLOCK.monotonic() + 60)
    await run.run()
    return run


async def told(streams: Any, task_id: Any) -> list[Event]:
    last = await streams.last(str(task_id))
    found: list[Event] = []
    async for event in streams.read(str(task_id)):
        found.append(event)
        if event.cursor >= last.cursor:
            break
    return found


# People


async def test_a_person_approves_through_the_gateway(house: House, database: Database) -> None:
    run_parts = parts(database, house.streams)  # type: ignore[arg-type]
    async with house.client() as client, house.client(house.other) as stranger:
        task = (await client.post(TASKS, json=asks())).json()
        url, task_id = f"{TASKS}/{task['id']}", UUID(task["id"])
        early = await client.post(f"{url}/approvals/ok", json={"decision": "approve"})
        shaped(early, 404, "not_found")
        run = await work(run_parts, task_id)
        assert run is not None
        assert run.dropped == "it waits for people"
        assert (await client.get(url)).json()["state"] == "waiting"
        assert await work(run_parts, task_id) is None  # no worker is held, none may take it
        (asked,) = (await client.get(f"{url}/approvals")).json()["items"]
        assert (asked["step"], asked["state"]) == ("ok", "waiting")
        assert asked["question"] == {"send": True}

        for body, field_name in (
            ({}, "decision"),
            ({"decision": "maybe"}, "decision"),
            ({"decision": "approve", "comment": 3}, "comment"),
            ({"decision": "approve", "more": 1}, "more"),
        ):
            answer = await client.post(f"{url}/approvals/ok", json=body)
            shaped(answer, 422, "invalid_input", field_name)
        yes = {"decision": "approve", "comment": "fine"}
        shaped(await client.post(f"{url}/approvals/other", json=yes), 404, "not_found")
        shaped(await stranger.post(f"{url}/approvals/ok", json=yes), 404, "not_found")
        shaped(await stranger.get(f"{url}/approvals"), 404, "not_found")

        first = await client.post(f"{url}/approvals/ok", json=yes)
        again = await client.post(f"{url}/approvals/ok", json=yes)
        assert first.status_code == again.status_code == 200
        assert first.json() == again.json()
        assert (first.json()["state"], first.json()["comment"]) == ("approved", "fine")
        shaped(
            await client.post(f"{url}/approvals/ok", json={"decision": "reject"}), 409, "conflict"
        )
        assert (await client.get(url)).json()["state"] == "queued"
        await work(run_parts, task_id)
        done = (await client.get(url)).json()
        assert (done["state"], done["attempt"]) == ("succeeded", 2)
        assert done["result"] == {"output": {"approved": True}, "degraded": False}
        report = (await client.get(f"{url}/replay")).json()
        assert (report["same"], report["path"]) == (True, ["check", "result"])
        shaped(await stranger.get(f"{url}/replay"), 404, "not_found")
    types = [event.type for event in await told(house.streams, task_id)]
    assert types.index(EventType.STEP_WAITING) < types.index(EventType.STEP_APPROVED)
    assert types[-1] is EventType.TASK_SUCCEEDED


async def test_what_is_rejected_fails_and_says_why(house: House, database: Database) -> None:
    run_parts = parts(database, house.streams)  # type: ignore[arg-type]
    async with house.client() as client:
        task = (await client.post(TASKS, json=asks())).json()
        url = f"{TASKS}/{task['id']}"
        await work(run_parts, UUID(task["id"]))
        no = {"decision": "reject", "comment": "not this way"}
        assert (await client.post(f"{url}/approvals/ok", json=no)).status_code == 200
        await work(run_parts, UUID(task["id"]))
        done = (await client.get(url)).json()
    assert (done["state"], done["error"]["code"]) == ("failed", "step_failed")
    assert done["error"]["details"]["comment"] == "not this way"


async def test_time_that_is_up_wakes_the_task(house: House, database: Database) -> None:
    run_parts = parts(database, house.streams)  # type: ignore[arg-type]
    woken = asyncio.Event()
    waker = Waker(WaitRepository(database), CLOCK, on_woken=woken.set, graphs=())
    async with house.client() as client:
        body = asks(timeout_s=0.2, on_timeout="approve")
        task = (await client.post(TASKS, json=body)).json()
        url = f"{TASKS}/{task['id']}"
        await work(run_parts, UUID(task["id"]))
        async with asyncio.timeout(20):
            while not await waker.wake():  # noqa: ASYNC110 (the database's clock decides)
                await asyncio.sleep(0.02)
        assert woken.is_set()
        assert waker.statistics()["woken"] >= 1
        late = await client.post(f"{url}/approvals/ok", json={"decision": "reject"})
        shaped(late, 409, "conflict")
        await work(run_parts, UUID(task["id"]))
        assert (await client.get(url)).json()["result"]["output"] == {"approved": True}


async def test_an_answer_while_the_task_parks_is_never_lost(
    house: House, database: Database
) -> None:
    """Whichever comes first, the task goes on: by itself, or woken."""
    run_parts = parts(database, house.streams)  # type: ignore[arg-type]
    waits = WaitRepository(database)
    space = (await house.keys.verify(house.key)).workspace_id

    async def answer(task_id: UUID, delay: float) -> None:
        while True:
            try:
                await waits.decide(task_id, space, "ok", approved=True)
            except NotFound:
                await asyncio.sleep(delay)
            else:
                return

    async def one(seed: int) -> None:
        async with house.client() as client:
            task_id = UUID((await client.post(TASKS, json=asks())).json()["id"])
        delay = random.Random(seed).choice((0, 0.001, 0.003))
        answering = asyncio.create_task(answer(task_id, delay))
        async with asyncio.timeout(30):
            while True:
                await work(run_parts, task_id)
                row = await run_parts.tasks.get(task_id, space)
                if row.state.ended:
                    break
                if row.state is TaskState.WAITING:
                    await answering
        await answering
        assert row.state is TaskState.SUCCEEDED

    for start in range(0, 24, 8):
        await asyncio.gather(*(one(start + n) for n in range(8)))


async def test_questions_are_bounded_and_fenced(database: Database) -> None:
    space = await workspace(database)
    tasks, waits = TaskRepository(database), WaitRepository(database, open_limit=2)
    rows = [(await tasks.create(new_task(space)))[0] for _ in range(3)]
    for row in rows:
        assert await tasks.claim(row.id, "w", 60) is not None
    for row in rows[:2]:
        asked, new = await waits.ask(row.id, 1, "a", {"q": 1}, 60)
        assert new
        assert (await waits.ask(row.id, 1, "a", {"q": 2}, 1)) == (asked, False)
    with pytest.raises(Overloaded):
        await waits.ask(rows[2].id, 1, "a", {}, 60)
    with pytest.raises(Fenced):
        await waits.ask(rows[2].id, 2, "a", {}, 60)
    with pytest.raises(Fenced):
        await waits.park(rows[0].id, 2, ["a"])
    parked = await waits.park(rows[0].id, 1, ["a"])
    assert (parked.state, parked.lease_until, parked.parks) == (TaskState.WAITING, None, 1)
    assert await waits.park(rows[0].id, 1, ["a"]) == parked  # its answer was lost
    await waits.decide(rows[1].id, space, "a", approved=True)
    assert (await waits.park(rows[1].id, 1, ["a"])).state is TaskState.RUNNING
    with pytest.raises(NotFound):
        await waits.decide(rows[0].id, uuid7(), "a", approved=True)
    await tasks.finish(rows[1].id, 1, TaskState.CANCELLED)
    with pytest.raises(Conflict):
        await waits.decide(rows[1].id, space, "a", approved=False)


async def test_waiting_costs_no_attempts(database: Database) -> None:
    """A task may wait more often than workers may be lost."""
    space = await workspace(database)
    streams, waits = MemoryStreamLog(), WaitRepository(database)
    nodes = tuple(Approval(f"q{i}") for i in range(4))
    kinds = Registry((spec(Sequence(nodes)),))
    run_parts = replace(parts(database, streams, kinds), options=replace(RUN, max_attempts=2))
    row, _ = await run_parts.tasks.create(task_of(space))
    for node in nodes:
        await work(run_parts, row.id)
        await waits.decide(row.id, space, node.name, approved=True)
    await work(run_parts, row.id)
    done = await run_parts.tasks.get(row.id, space)
    assert (done.state, done.attempt, done.parks) == (TaskState.SUCCEEDED, 5, 4)
    outcomes = [attempt.outcome for attempt in await run_parts.tasks.attempts(row.id)]
    assert outcomes == ["waiting"] * 4 + ["succeeded"]


# Compensation


class Anything(Contract):
    """Takes no input."""


def spec(root: Node, version: int = 1) -> KindSpec:
    graph = Graph(root)
    return KindSpec(
        TaskKind.WORKFLOW,
        version,
        Anything,
        lambda _task: graph,
        lambda _task, outputs: {name: step.output for name, step in sorted(outputs.items())},
    )


def task_of(space: UUID, graph: str | None = None, **given: Any) -> Any:
    request = {"kind": "workflow", "input": given}
    return new_task(space, kind=TaskKind.WORKFLOW, request=request, graph=graph)


@dataclass
class Flaky(Agent):
    """Fails for good with this error."""

    always: Any = field(default_factory=lambda: Conflict("the mail was refused"))


def saga(world: World, last: Node) -> Node:
    def step(name: str) -> Step:
        return Step(name, Agent(name, world, gives=name), undo=Undo(Agent(f"un{name}", world)))

    each = Step(
        "each",
        Agent("each", world),
        {"n": {"$ref": "item"}},
        undo=Undo(Agent("uneach", world), {"n": {"$ref": "each.value.1.n"}}),
    )
    return Sequence((step("a"), Map("all", Ref.parse("input.list"), each), step("b"), last))


BACK = ["undo:b", "undo:each[1]", "undo:each[0]", "undo:a"]


async def test_a_failed_task_is_taken_back_in_reverse_whatever_dies(database: Database) -> None:
    """The worker is lost before or after any of the commits of its way back."""
    space = await workspace(database)
    for cut in (None, 1, 2, 3, 4, 5):
        world = World(MortalJournal())
        kinds = Registry((spec(saga(world, Step("end", Flaky("end")))),))
        run_parts = parts(database, MemoryStreamLog(), kinds)
        row, _ = await run_parts.tasks.create(task_of(space, list=[1, 2]))
        if cut is not None:
            await lose_a_worker(run_parts, row, world, cut)
        await work(run_parts, row.id)
        done = await run_parts.tasks.get(row.id, space)
        assert (done.state, (done.error or {})["code"]) == (TaskState.FAILED, "conflict"), cut
        rows = {step.name: step for step in await run_parts.tasks.steps(row.id)}
        assert set(BACK) <= set(rows), cut
        times = [rows[name].finished_at for name in BACK]
        assert times == sorted(times), cut
        assert world.done["undo:b"] >= 1
        assert "undo:end" not in rows


async def lose_a_worker(run_parts: RunParts, row: TaskRow, world: World, undos: int) -> None:
    """Run until so many undos ran, then the process is gone."""
    claimed = await run_parts.tasks.claim(row.id, "lost", 60)
    assert claimed is not None
    run = asyncio.create_task(TaskRun(claimed, run_parts, CLOCK.monotonic() + 60).run())
    for _ in range(1_000_000):
        if sum(name.startswith("undo:") for name in world.log) >= undos or run.done():
            break
        await asyncio.sleep(0)  # the run is lost between two of its awaits
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await run_parts.tasks.release_owner("lost")


async def test_a_cancelled_task_is_taken_back(database: Database) -> None:
    space = await workspace(database)
    world = World(MortalJournal())
    kinds = Registry((spec(saga(world, Approval("ok"))),))
    run_parts = parts(database, MemoryStreamLog(), kinds)
    row, _ = await run_parts.tasks.create(task_of(space, list=[1, 2]))
    await work(run_parts, row.id)
    asked = await run_parts.tasks.request_cancel(row.id, space)
    assert asked.state is TaskState.QUEUED  # it has something to take back
    await work(run_parts, row.id)
    done = await run_parts.tasks.get(row.id, space)
    assert done.state is TaskState.CANCELLED
    assert [name for name in world.log if name.startswith("undo:")] == BACK
    events = await told(run_parts.streams, row.id)
    assert events[-1].type is EventType.TASK_CANCELLED
    finished = [e.data["step"] for e in events if e.type is EventType.STEP_FINISHED]
    assert finished[-len(BACK) :] == BACK


async def test_what_can_not_be_taken_back_is_told(database: Database) -> None:
    space = await workspace(database)
    root = Sequence((Step("a", Agent("a"), undo=Undo(Flaky("un"))), Step("end", Flaky("end"))))
    run_parts = parts(database, MemoryStreamLog(), Registry((spec(root),)))
    row, _ = await run_parts.tasks.create(task_of(space))
    await work(run_parts, row.id)
    done = await run_parts.tasks.get(row.id, space)
    assert (done.error or {})["details"] == {"not_taken_back": ["a"]}


async def test_a_queued_task_is_cancelled_at_once(database: Database) -> None:
    space = await workspace(database)
    tasks = TaskRepository(database)
    row, _ = await tasks.create(task_of(space))
    assert (await tasks.request_cancel(row.id, space)).state is TaskState.CANCELLED


# Crashes


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_random_it_ends_as_if_nothing_had_been(
    database: Database, seed: int
) -> None:
    space = await workspace(database)
    rng = random.Random(seed)
    world = World(MortalJournal())
    body = Sequence((Step("x", Agent("x", world), {"n": {"$ref": "item"}}), Step("y", Agent("y"))))
    root = Sequence(
        (
            Step("a", Agent("a", world)),
            Parallel((Step("b", Agent("b", world)), Step("c", Agent("c", world)))),
            Map("all", Ref.parse("input.list"), body, concurrency=3),
            Step("end", Agent("end", world), {"all": {"$ref": "all.items"}}),
        )
    )
    kinds = Registry((spec(root),))
    streams = MemoryStreamLog()
    run_parts = parts(database, streams, kinds)
    given = {"list": list(range(5))}
    whole, _ = await run_parts.tasks.create(task_of(space, **given))
    await work(run_parts, whole.id)
    reference = (await run_parts.tasks.get(whole.id, space)).result
    world.done.clear()
    row, _ = await run_parts.tasks.create(task_of(space, **given))
    committed: dict[str, Any] = {}
    for attempt in range(12):
        claimed = await run_parts.tasks.claim(row.id, f"w{attempt}", 60)
        assert claimed is not None
        run = asyncio.create_task(TaskRun(claimed, run_parts, CLOCK.monotonic() + 60).run())
        # How far so many turns of the loop reach is up to the machine: the first attempt gets few.
        for _ in range(rng.randrange(5, 120) if attempt else rng.randrange(5, 30)):
            await asyncio.sleep(0)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await run_parts.tasks.release_owner(f"w{attempt}")
        rows = {step.name: step for step in await run_parts.tasks.steps(row.id)}
        for name, step in committed.items():
            assert rows[name] == step  # never done again, never changed
        committed = rows
        if (await run_parts.tasks.get(row.id, space)).state.ended:
            break
    else:
        await work(run_parts, row.id)
    done = await run_parts.tasks.get(row.id, space)
    assert (done.state, done.result) == (TaskState.SUCCEEDED, reference)
    assert done.attempt > 1  # it was killed under way


# Versions


async def test_a_running_task_survives_an_upgrade(database: Database) -> None:
    """Half under v1, then the release changes: it ends under v1, a new one takes v2."""
    space = await workspace(database)

    def graph(*names: str) -> Node:
        return Sequence(
            tuple(Approval(n) if n == "ok" else Step(n, Agent(n, gives=n)) for n in names)
        )

    v1 = spec(graph("one", "ok", "two"))
    old = Registry((v1,))
    streams, waits = MemoryStreamLog(), WaitRepository(database)
    row, _ = await TaskRepository(database).create(task_of(space, v1.graph))
    await work(parts(database, streams, old), row.id)
    v2 = spec(graph("first", "second"), version=2)
    new = Registry((v1, v2))
    assert new.spec_for(TaskKind.WORKFLOW) is v2
    await waits.decide(row.id, space, "ok", approved=True)
    upgraded = parts(database, streams, new)
    await work(upgraded, row.id)
    done = await upgraded.tasks.get(row.id, space)
    assert done.state is TaskState.SUCCEEDED
    assert set(done.result or {}) == {"one", "ok", "two"}
    fresh, _ = await upgraded.tasks.create(task_of(space, v2.graph))
    await work(upgraded, fresh.id)
    assert set((await upgraded.tasks.get(fresh.id, space)).result or {}) == {"first", "second"}


async def test_a_worker_takes_no_graph_that_it_does_not_know(database: Database) -> None:
    space = await workspace(database)
    tasks, waits = TaskRepository(database), WaitRepository(database)
    mine, theirs = "workflow:1:aaaa", "workflow:2:bbbb"
    await database.fetch("UPDATE tasks SET cancel_requested = true WHERE state = 'queued'")
    newer, _ = await tasks.create(task_of(space, theirs))
    known, _ = await tasks.create(task_of(space, mine))
    unpinned, _ = await tasks.create(task_of(space))
    take = ClaimFilter(graphs=frozenset({mine}))
    offered = await tasks.claim_offered("w", 60, {newer.id: {}}, 5, take)
    assert offered == []
    taken = {row.id for row in await tasks.claim_many("w", 60, 50, take)}
    assert newer.id not in taken
    assert {known.id, unpinned.id} <= taken
    assert (await waits.strange_graphs([mine])).get(theirs) == 1
    assert theirs not in await waits.strange_graphs([mine, theirs])
    assert newer.id in {row.id for row in await tasks.claim_many("new", 60, 50)}
