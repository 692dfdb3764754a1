"""Fair shares: the claim's SQL does what the model in memory says, and the model is fair."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.agents.balancing.turns import TurnQueue
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.errors import Overloaded
from mesh.core.ids import uuid7
from mesh.storage.pool import Database
from mesh.storage.tasks import ClaimFilter, NewTask, TaskRepository

SPACES = (0, 1, 2)

operations = st.one_of(
    st.tuples(
        st.just("add"),
        st.sampled_from(SPACES),
        st.sampled_from([0, 0, 0, 5, -5]),
        st.sampled_from([1.0, 1.0, 0.5, 4.0]),
    ),
    st.tuples(st.just("take"), st.integers(1, 4), st.sets(st.sampled_from(SPACES), max_size=1)),
    st.tuples(st.just("end"), st.integers(0, 50)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("weigh"), st.sampled_from(SPACES), st.sampled_from([0.5, 1.0, 2.0])),
)


@given(script=st.lists(operations, min_size=10, max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
async def test_the_database_gives_turns_as_the_model_does(
    database: Database, script: list[tuple[object, ...]]
) -> None:
    await database.fetch("DELETE FROM tasks")
    await database.fetch("DELETE FROM shares")
    tasks = TaskRepository(database)
    spaces = [uuid7() for _ in SPACES]
    for space in spaces:
        await database.fetch("INSERT INTO workspaces (id, name) VALUES ($1, $2)", space, str(space))
    model: TurnQueue[int] = TurnQueue()
    ids: dict[int, uuid.UUID] = {}
    numbers: dict[uuid.UUID, int] = {}
    queued: list[int] = []
    running: dict[int, int] = {}
    for step in script:
        match step:
            case ("add", int(space), int(priority), float(cost)):
                number = len(ids)
                task = NewTask(
                    id=uuid7(number),  # made in this order
                    workspace_id=spaces[space],
                    kind=TaskKind.WRITE_EMAIL,
                    request={},
                    deadline_at=datetime.now(UTC) + timedelta(minutes=10),
                    priority=priority,
                    cost=cost,
                )
                row, _ = await tasks.create(task)
                assert row.turn == model.add(number, space, cost=cost, priority=priority)
                ids[number], numbers[row.id] = row.id, number
                queued.append(number)
            case ("take", int(n), set(full)):
                take = ClaimFilter(full=frozenset(spaces[space] for space in full))
                rows = await tasks.claim_many("w", 60, n, take)
                taken = model.take(n, full)
                assert sorted(numbers[row.id] for row in rows) == sorted(taken)
                for row in rows:
                    running[numbers[row.id]] = row.attempt
                    queued.remove(numbers[row.id])
            case ("end", int(pick)) if running:
                number = sorted(running)[pick % len(running)]
                await tasks.finish(ids[number], running.pop(number), TaskState.SUCCEEDED)
                model.end(number)
            case ("cancel", int(pick)) if queued:
                number = queued.pop(pick % len(queued))
                row = await tasks.get(ids[number], await _space(database, ids[number]))
                await tasks.request_cancel(row.id, row.workspace_id)
                assert model.cancel(number)
            case ("weigh", int(space), float(weight)):
                await tasks.set_weight(spaces[space], weight)
                model.weights[space] = weight


async def _space(database: Database, task_id: uuid.UUID) -> uuid.UUID:
    rows = await database.fetch("SELECT workspace_id FROM tasks WHERE id = $1", task_id)
    found: uuid.UUID = rows[0]["workspace_id"]
    return found


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=5),
    flood=st.integers(5, 25),
    priorities=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_backlogged_workspaces_are_served_by_their_weights(
    weights: list[float], flood: int, priorities: object
) -> None:
    """At every moment, of any two that wait: their service over weight differs by no more than
    one task each. However much one floods, and whatever priorities it gives itself."""
    queue: TurnQueue[int] = TurnQueue(weights=dict(enumerate(weights)))
    number = 0
    for space in range(len(weights)):
        for _ in range(flood * (20 if space == 0 else 1)):
            queue.add(number, space, priority=number % 7 if space == 0 else 0)
            number += 1
    owner = {task.number: task.space for task in queue._queued.values()}
    served: Counter[int] = Counter()
    while all(queue.queued(space) for space in range(len(weights))):
        for taken in queue.take(1):
            served[owner[taken]] += 1
            queue.end(taken)
        for a in range(len(weights)):
            for b in range(a):
                gap = abs(served[a] / weights[a] - served[b] / weights[b])
                assert gap <= 1 / weights[a] + 1 / weights[b] + 1e-9


def test_idle_time_earns_nothing_and_a_flood_owes_nothing() -> None:
    queue: TurnQueue[str] = TurnQueue()
    for number in range(100):
        queue.add(number, "early")
    for number in queue.take(100):
        queue.end(number)
    # Both start level now: neither the 100 done nor the time idle counts.
    for number in range(100, 110):
        queue.add(number, "late")
        queue.add(number + 100, "early")
    order = []
    while len(queue):
        (number,) = queue.take(1)
        order.append("late" if number < 200 else "early")
        queue.end(number)
    assert order.count("late") == order.count("early") == 10
    assert max(order[:4].count("late"), order[:4].count("early")) == 2


async def test_a_full_queue_is_exact_however_many_come_at_once(database: Database) -> None:
    import asyncio

    tasks = TaskRepository(database)
    space = uuid7()
    await database.fetch("INSERT INTO workspaces (id, name) VALUES ($1, $2)", space, str(space))

    async def create() -> bool:
        task = NewTask(
            id=uuid7(),
            workspace_id=space,
            kind=TaskKind.WRITE_EMAIL,
            request={},
            deadline_at=datetime.now(UTC) + timedelta(minutes=10),
        )
        try:
            await tasks.create(task, queue_limit=7)
        except Overloaded:
            return False
        return True

    results = await asyncio.gather(*(create() for _ in range(40)))
    assert results.count(True) == 7
    depth = (await tasks.queues([space.int % 64]))[space]
    assert (depth.queued, depth.running) == (7, 0)


async def test_every_attempt_keeps_why_and_how_it_went(database: Database) -> None:
    await database.fetch("DELETE FROM tasks")
    tasks = TaskRepository(database)
    space = uuid7()
    await database.fetch("INSERT INTO workspaces (id, name) VALUES ($1, $2)", space, str(space))
    task = NewTask(
        id=uuid7(),
        workspace_id=space,
        kind=TaskKind.WRITE_EMAIL,
        request={},
        deadline_at=datetime.now(UTC) + timedelta(minutes=10),
        key_id="key-1",
    )
    await tasks.create(task)
    why = {"worker": "a", "candidates": [{"worker": "a", "score": 1.0}]}
    (first,) = await tasks.claim_offered("a/1", 60, {task.id: why}, 4)
    assert (first.attempt, first.key_id) == (1, "key-1")
    assert await tasks.claim_offered("b/1", 60, {task.id: why}, 4) == []
    assert await tasks.release_owner("a/1") == 1
    (second,) = await tasks.claim_many("b/1", 60, 1, decision={"reason": "turn"})
    assert await tasks.release(task.id, second.attempt, "handed_over")
    assert not await tasks.release(task.id, second.attempt, "handed_over")
    third = await tasks.claim(task.id, "c/1", 60)
    assert third is not None
    await tasks.finish(task.id, 3, TaskState.SUCCEEDED)
    kept = await tasks.attempts(task.id)
    assert [(a.attempt, a.worker, a.decision, a.outcome) for a in kept] == [
        (1, "a/1", why, "lost"),
        (2, "b/1", {"reason": "turn"}, "handed_over"),
        (3, "c/1", {}, "succeeded"),
    ]
    assert all(a.ended_at is not None and a.ended_at >= a.claimed_at for a in kept)


async def test_an_offer_never_lets_a_task_pass_before_its_turn(database: Database) -> None:
    await database.fetch("DELETE FROM tasks")
    await database.fetch("DELETE FROM shares")
    tasks = TaskRepository(database)
    spaces = [uuid7(), uuid7()]
    ids = []
    for index, space in enumerate(spaces):
        await database.fetch("INSERT INTO workspaces (id, name) VALUES ($1, $2)", space, str(space))
        for n in range(20):
            task = NewTask(
                id=uuid7(),
                workspace_id=space,
                kind=TaskKind.WRITE_EMAIL,
                request={},
                deadline_at=datetime.now(UTC) + timedelta(minutes=10),
                priority=1 if (index, n) == (1, 19) else 0,
            )
            ids.append((await tasks.create(task))[0].id)
    last_of_the_flood, passed, best = ids[19], ids[20], ids[39]
    offers: dict[uuid.UUID, dict[str, Any]] = {last_of_the_flood: {}, passed: {}, best: {}}
    assert await tasks.claim_offered("w", 60, offers, 4, slack=4.0) == []  # best's turn is far
    near = await tasks.claim_offered("w", 60, offers, 4, slack=30.0)
    assert {row.id for row in near} == {last_of_the_flood, best}
    full = ClaimFilter(full=frozenset({spaces[1]}))
    assert await tasks.claim_offered("w", 60, {passed: {}}, 4, full) == []
