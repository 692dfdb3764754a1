"""Laws of durable graphs: die between any two commits and the result is the same.

Graphs are made at random; the worker dies before or after every single commit of a run (not at
some of them), again and again with successors that die, too. What is committed is never done
again, compensation happens once, and what runs at the same time does not show in the result.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from agents_support import Recorder
from graph_support import Agent, Killed, MortalJournal, World, run, undo
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.agents.graph import Condition, Graph, Map, Node, Parallel, Ref, Sequence, Step, Undo
from mesh.agents.graph.expr import Compare, Reference, Value
from mesh.agents.graph.outcome import FAILED
from mesh.contracts.events import EventType
from mesh.core.errors import Conflict, StepFailed

GIVEN = {"list": [3, 1, 2], "flag": True, "word": "x"}


class _Maker:
    """A sound graph from random choices."""

    def __init__(self, draw: Any, world: World) -> None:
        self._draw = draw
        self._world = world
        self._count = 0
        self.undoable: list[str] = []

    def name(self) -> str:
        self._count += 1
        return f"s{self._count}"

    def node(self, depth: int, *, in_map: bool = False, in_undo: bool = True) -> Node:
        kinds = ["step"] if depth == 0 else ["step", "sequence", "parallel", "map", "condition"]
        kind = self._draw(st.sampled_from(kinds))
        if kind == "step":
            return self._step(in_map)
        if kind == "sequence":
            size = self._draw(st.integers(1, 3))
            return Sequence(tuple(self.node(depth - 1, in_map=in_map) for _ in range(size)))
        if kind == "parallel":
            size = self._draw(st.integers(1, 3))
            branches = tuple(self.node(depth - 1, in_map=in_map) for _ in range(size))
            gather = self._draw(st.sampled_from(["fail_fast", "collect"]))
            return Parallel(branches, self.name(), gather)
        if kind == "map":
            body = self.node(depth - 1, in_map=True)
            return Map(
                self.name(),
                Ref.parse("input.list"),
                body,
                concurrency=self._draw(st.integers(1, 3)),
                max_items=3,
                gather=self._draw(st.sampled_from(["fail_fast", "collect"])),
            )
        when = Compare(
            op="eq", left=Reference(ref="input.flag"), right=Value(value=self._draw(st.booleans()))
        )
        otherwise = self.node(depth - 1, in_map=in_map) if self._draw(st.booleans()) else None
        return Condition(when, self.node(depth - 1, in_map=in_map), otherwise)

    def _step(self, in_map: bool) -> Step:
        name = self.name()
        binding: dict[str, Any] | None = None
        if self._draw(st.booleans()):
            binding = {"word": {"$ref": "input.word"}, "said": {"$text": "{input.list.0}!"}}
            if in_map:
                binding |= {"item": {"$ref": "item"}, "index": {"$ref": "index"}}
        back = None
        if self._draw(st.booleans()):
            back = Undo(Agent(f"back-{name}", self._world), {"of": {"$ref": f"{name}.value"}})
            self.undoable.append(name)
        return Step(name, Agent(f"agent-{name}", self._world), binding, undo=back)


def make(draw: Any) -> tuple[Graph, World]:
    world = World(MortalJournal())
    return Graph(_Maker(draw, world).node(3)), world


@settings(max_examples=40, deadline=None)
@given(st.data())
async def test_dying_at_any_commit_gives_the_same_result(data: Any) -> None:
    graph, world = make(data.draw)
    reference = await run(graph, world.journal, given=GIVEN)
    steps = list(world.journal.order)
    for at, after in itertools.product(range(1, len(steps) + 1), (False, True)):
        journal = world.journal = MortalJournal()
        world.done.clear()
        journal.die_at(at, after=after)
        with pytest.raises(Killed):
            await run(graph, journal, given=GIVEN)
        committed = set(journal.order)
        before = dict(world.done)
        journal.die_at(-1, after=False)
        writer = Recorder(attempt=2)
        assert await run(graph, journal, given=GIVEN, writer=writer) == reference
        assert sorted(journal.order) == sorted(steps)  # each step committed once
        for name in committed:
            assert world.done[name] == before[name]  # and what was committed, not done again
        started = {e.data["step"] for e in writer.events if e.type is EventType.STEP_STARTED}
        assert started == set(steps) - committed


@settings(max_examples=25, deadline=None)
@given(st.data())
async def test_killed_again_and_again_it_still_ends(data: Any) -> None:
    """Each worker dies at its first or second commit; each commit is progress."""
    graph, world = make(data.draw)
    reference = await run(graph, world.journal, given=GIVEN)
    journal = world.journal = MortalJournal()
    for _ in range(200):
        journal.die_at(data.draw(st.integers(1, 2)), after=True)
        try:
            found = await run(graph, journal, given=GIVEN)
        except Killed:
            continue
        break
    journal.die_at(-1, after=False)
    assert await run(graph, journal, given=GIVEN) == reference == found


@settings(max_examples=40, deadline=None)
@given(st.data())
async def test_a_reader_of_both_attempts_has_seen_every_step_finish(data: Any) -> None:
    graph, world = make(data.draw)
    await run(graph, world.journal, given=GIVEN)
    steps = set(world.journal.order)
    if not steps:
        return  # a condition without the other way
    at = data.draw(st.integers(1, len(steps)))
    journal = world.journal = MortalJournal()
    journal.die_at(at, after=data.draw(st.booleans()))
    first, second = Recorder(1), Recorder(2)
    with pytest.raises(Killed):
        await run(graph, journal, given=GIVEN, writer=first)
    journal.die_at(-1, after=False)
    await run(graph, journal, given=GIVEN, writer=second)
    events = [*first.events, *second.events]
    assert {e.data["step"] for e in events if e.type is EventType.STEP_FINISHED} == steps


@settings(max_examples=40, deadline=None)
@given(st.data())
async def test_compensation_is_done_once_and_in_reverse(data: Any) -> None:
    graph, world = make(data.draw)
    await run(graph, world.journal, given=GIVEN)
    finished = [(s.position, s.name) for s in (await world.journal.finished()).values()]
    undoable = {step.name for step in graph.steps() if step.undo is not None}
    wanted = [
        f"undo:{name}"
        for _, name in sorted(finished, reverse=True)
        if name.split("[")[0] in undoable
    ]
    world.log.clear()
    for at in itertools.count(1):
        world.journal.die_at(at, after=data.draw(st.booleans()))
        try:
            failed = await undo(graph, world.journal, given=GIVEN)
        except Killed:
            # Nobody may go forward with a task that is being taken back.
            if FAILED in await world.journal.finished():
                world.journal.die_at(-1, after=False)
                with pytest.raises(Exception, match="it failed"):
                    await run(graph, world.journal, given=GIVEN)
            continue
        break
    assert failed == []
    committed = [name for name in world.journal.order if name.startswith("undo:")]
    assert committed == wanted
    # What death kept from being committed is done again, under the same idempotency key.
    assert [name for name, _ in itertools.groupby(world.log)] == wanted
    assert await undo(graph, world.journal, given=GIVEN) == []
    assert [name for name in world.journal.order if name.startswith("undo:")] == wanted


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=5), st.integers(1, 5))
async def test_collected_failures_are_the_same_in_every_attempt(
    fails: list[bool], concurrency: int
) -> None:
    """Which branch failed is durable: a successor does not try it again."""
    world = World(MortalJournal())
    branches = tuple(
        Step(f"b{i}", Agent(f"b{i}", world, always=Conflict("no") if bad else None))
        for i, bad in enumerate(fails)
    )
    graph = Graph(Sequence((Parallel(branches, "all", "collect"), Step("end", Agent("e", world)))))
    reference = await run(graph, world.journal)
    assert isinstance(reference, dict)
    for at, after in itertools.product(range(1, len(fails) + 2), (False, True)):
        journal = MortalJournal()
        journal.die_at(at, after=after)
        with pytest.raises(Killed):
            await run(graph, journal)
        journal.die_at(-1, after=False)
        assert await run(graph, journal) == reference
    kept = await world.journal.finished()
    assert [kept[f"b{i}"].error is not None for i in range(len(fails))] == fails


async def test_a_failed_undo_is_told_and_keeps_no_other_from_being_done() -> None:
    world = World(MortalJournal())
    bad = Undo(Agent("bad", world, always=Conflict("stuck")))
    good = Undo(Agent("good", world))
    graph = Graph(
        Sequence((Step("a", Agent("a", world), undo=good), Step("b", Agent("b", world), undo=bad)))
    )
    await run(graph, world.journal)
    assert await undo(graph, world.journal) == ["b"]
    assert world.done["undo:a"] == 1
    with pytest.raises(Exception, match="it failed") as caught:
        await run(graph, world.journal)
    assert not isinstance(caught.value, StepFailed)
