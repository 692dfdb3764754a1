"""How steps run: retries, timeouts, branches, maps, handoffs, approvals, replay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from agents_support import Recorder
from graph_support import Agent, Killed, MortalJournal, QuickClock, World, run, task

from mesh.agents import MemoryJournal, StepContext, StepResult
from mesh.agents.agent import Verdict
from mesh.agents.graph import (
    Approval,
    Condition,
    Graph,
    Map,
    Parallel,
    Parking,
    Ref,
    Retry,
    Sequence,
    Step,
)
from mesh.agents.graph.expr import Exists
from mesh.agents.graph.replay import replay
from mesh.agents.registry import KindSpec
from mesh.agents.run import Parked, run_task
from mesh.contracts.base import Contract
from mesh.contracts.events import EventType
from mesh.contracts.tasks import TaskKind
from mesh.core.errors import (
    Conflict,
    DeadlineExceeded,
    EngineError,
    Fenced,
    InvalidInput,
    StepFailed,
    Unavailable,
)


@dataclass
class Stuck:
    """Never ends by itself."""

    name: str = "stuck"
    step: str = "stuck"
    cancelled: int = 0

    async def run(self, context: StepContext) -> StepResult:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError


@dataclass
class Meets:
    """Ends when so many of it run at once; remembers the most that did."""

    need: int
    name: str = "meets"
    step: str = "meets"
    now: int = 0
    most: int = 0
    together: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, context: StepContext) -> StepResult:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= self.need:
            self.together.set()
        await self.together.wait()
        await asyncio.sleep(0)
        self.now -= 1
        return StepResult({"value": context.input.get("item")})


async def test_a_step_is_tried_as_its_policy_says() -> None:
    agent = Agent("a", errors=[EngineError("x"), Unavailable("y", retry_after_s=7.0)], gives=1)
    clock, writer, journal = QuickClock(), Recorder(), MemoryJournal()
    before = clock.time
    graph = Graph(Step("a", agent, retry=Retry(3, 1.0, 10.0)))
    assert await run(graph, journal, clock=clock, writer=writer) == {"a": {"value": 1}}
    assert (await journal.finished())["a"].tries == 3
    retried = [e.data for e in writer.events if e.type is EventType.STEP_RETRIED]
    assert [(e["reason"], e["n"]) for e in retried] == [("engine_error", 1), ("unavailable", 2)]
    assert 0.5 + 3.5 <= clock.time - before <= 1.0 + 7.0


async def test_tries_that_are_used_up_end_the_step_for_good() -> None:
    agent = Agent("a", errors=[EngineError("once"), EngineError("twice"), EngineError("never")])
    graph, journal = Graph(Step("a", agent, retry=Retry(2))), MemoryJournal()
    with pytest.raises(StepFailed, match="twice") as caught:
        await run(graph, journal)
    assert caught.value.details == {"step": "a", "code": "engine_error", "details": {}}
    assert not caught.value.retryable
    with pytest.raises(StepFailed, match="twice"):  # a new attempt does not try again
        await run(graph, journal)
    assert len(agent.errors) == 1


async def test_errors_that_the_policy_does_not_name_are_final_at_once() -> None:
    agent = Agent("a", errors=[Conflict("no"), Conflict("no")])
    with pytest.raises(StepFailed):
        await run(Graph(Step("a", agent, retry=Retry(5))), MemoryJournal())
    assert len(agent.errors) == 1
    named = Agent("a", errors=[Conflict("no")], gives=1)
    graph = Graph(Step("a", named, retry=Retry(5, on=("conflict",))))
    assert await run(graph, MemoryJournal()) == {"a": {"value": 1}}


@pytest.mark.parametrize("error", [Unavailable("away"), Fenced(), Conflict("no")])
async def test_without_a_policy_an_error_is_the_workers(error: Any) -> None:
    journal = MemoryJournal()
    with pytest.raises(type(error)):
        await run(Graph(Step("a", Agent("a", always=error))), journal)
    assert await journal.finished() == {}


async def test_a_fenced_worker_retries_nothing() -> None:
    agent = Agent("a", errors=[Fenced(), Fenced()])
    with pytest.raises(Fenced):
        await run(Graph(Step("a", agent, retry=Retry(9))), MemoryJournal())
    assert len(agent.errors) == 1


async def test_a_step_that_takes_too_long_is_cancelled() -> None:
    stuck = Stuck()
    with pytest.raises(DeadlineExceeded) as caught:
        await run(Graph(Step("a", stuck, timeout_s=5.0)), MemoryJournal())
    assert caught.value.details == {"step": "a"}
    assert stuck.cancelled == 1
    graph = Graph(Step("a", stuck, timeout_s=5.0, retry=Retry(3)))
    with pytest.raises(StepFailed) as failed:
        await run(graph, MemoryJournal())
    assert failed.value.details["code"] == "deadline_exceeded"
    assert stuck.cancelled == 4


async def test_no_step_starts_after_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded):
        await run(Graph(Step("a", Agent("a"))), MemoryJournal(), seconds=0.0)


async def test_branches_run_at_once_and_the_first_failure_ends_them() -> None:
    meets = Meets(3)
    graph = Graph(Parallel(tuple(Step(n, meets) for n in ("a", "b", "c"))))
    assert isinstance(await run(graph, MemoryJournal()), dict)
    assert meets.most == 3
    stuck, journal = Stuck(), MemoryJournal()
    bad = Graph(Parallel((Step("a", stuck), Step("b", Agent("b", always=Conflict("no"))))))
    with pytest.raises(Conflict):
        await run(bad, journal)
    assert stuck.cancelled == 1
    assert await journal.finished() == {}


async def test_collected_branches_all_end() -> None:
    graph = Graph(
        Parallel(
            (Step("a", Agent("a", gives=1)), Step("b", Agent("b", always=Conflict("no")))),
            "both",
            "collect",
        )
    )
    journal = MemoryJournal()
    result = Graph(Sequence((graph.root, Step("end", Agent("end"), {"both": {"$ref": "both"}}))))
    outputs = await run(result, journal)
    assert isinstance(outputs, dict)
    both = outputs["end"]["value"][1]["both"]
    assert both["branches"] == [{"value": 1}, None]
    assert [failed["index"] for failed in both["failed"]] == [1]
    assert both["failed"][0]["error"]["details"]["code"] == "conflict"


async def test_what_is_away_is_no_result_to_collect() -> None:
    graph = Graph(Parallel((Step("a", Agent("a", always=Unavailable("x"))),), "p", "collect"))
    with pytest.raises(Unavailable):
        await run(graph, MemoryJournal())


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_a_map_runs_so_many_at_once_in_the_order_of_its_list(concurrency: int) -> None:
    meets = Meets(min(concurrency, 5))
    body = Step("each", meets, {"item": {"$ref": "item"}})
    graph = Graph(
        Sequence(
            (
                Map("all", Ref.parse("input.list"), body, concurrency=concurrency),
                Step("end", Agent("end"), {"all": {"$ref": "all.items"}}),
            )
        )
    )
    outputs = await run(graph, MemoryJournal(), given={"list": [5, 3, 4, 1, 2]})
    assert isinstance(outputs, dict)
    assert meets.most == concurrency
    assert outputs["end"]["value"][1]["all"] == [{"value": n} for n in (5, 3, 4, 1, 2)]
    assert {f"each[{i}]" for i in range(5)} <= set(outputs)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"list": 3}, "no list"), ({"list": [1] * 4}, "more than 3"), ({}, "refers")],
)
async def test_a_map_needs_a_list_of_bounded_length(given: dict[str, Any], words: str) -> None:
    graph = Graph(Map("all", Ref.parse("input.list"), Step("each", Agent("a")), max_items=3))
    with pytest.raises(InvalidInput, match=words):
        await run(graph, MemoryJournal(), given=given)


async def test_maps_within_maps() -> None:
    inner = Map("inner", Ref.parse("item"), Step("leaf", Agent("leaf"), {"x": {"$ref": "item"}}))
    graph = Graph(Map("outer", Ref.parse("input.rows"), inner))
    journal = MemoryJournal()
    outputs = await run(graph, journal, given={"rows": [[1, 2], [], [3]]})
    assert isinstance(outputs, dict)
    assert set(outputs) == {"leaf[0][0]", "leaf[0][1]", "leaf[2][0]"}
    positions = [step.position for step in (await journal.finished()).values()]
    assert len(set(positions)) == len(positions)


async def test_the_way_that_is_not_taken_does_not_run() -> None:
    world = World(MortalJournal())
    when = Exists(op="exists", ref="input.x")
    graph = Graph(
        Condition(when, Step("yes", Agent("y", world)), Step("no", Agent("n", world)), "way")
    )
    assert set(await run(graph, MortalJournal(), given={"x": 1}) or ()) == {"yes"}  # type: ignore[arg-type]
    assert set(await run(graph, MortalJournal(), given={}) or ()) == {"no"}  # type: ignore[arg-type]
    assert world.done == {"yes": 1, "no": 1}


async def test_work_is_handed_on_to_those_who_are_allowed() -> None:
    def triage(to: str | None) -> Agent:
        return Agent("triage", hand_to=to, gives="t")

    writer = Agent("writer", gives="w")
    graph = Graph(Step("work", triage("writer"), handoffs={"writer": writer}))
    recorder = Recorder()
    outputs = await run(graph, MemoryJournal(), writer=recorder)
    assert outputs == {"work": {"value": "t"}, "work:2": {"value": "w"}}
    finished = [e.data for e in recorder.events if e.type is EventType.STEP_FINISHED]
    assert finished[0]["hand_to"] == "writer"
    assert "hand_to" not in finished[1]

    with pytest.raises(StepFailed, match="may not hand over") as caught:
        await run(Graph(Step("work", triage("root"), handoffs={"writer": writer})), MemoryJournal())
    assert caught.value.details["code"] == "handoff_refused"

    def ball() -> dict[str, Agent]:
        return {"a": Agent("a", hand_to="b", gives=1), "b": Agent("b", hand_to="a", gives=2)}

    graph = Graph(Step("work", triage("a"), handoffs=ball(), max_hops=3))
    journal = MemoryJournal()
    with pytest.raises(StepFailed, match="changed hands") as endless:
        await run(graph, journal)
    assert endless.value.details["code"] == "too_many_handoffs"
    assert list(await journal.finished()) == ["work", "work:2", "work:3", "work:4"]


async def test_a_handoff_survives_its_worker() -> None:
    world = World(MortalJournal())
    graph = Graph(
        Step(
            "work",
            Agent("one", world, hand_to="two", gives=1),
            handoffs={"two": Agent("two", world, gives=2)},
        )
    )
    world.journal.die_at(2, after=False)
    with pytest.raises(Killed):
        await run(graph, world.journal)
    world.journal.die_at(-1, after=False)
    await run(graph, world.journal)
    assert world.done == {"work": 1, "work:2": 2}


def asks(**more: Any) -> Graph:
    return Graph(
        Sequence(
            (
                Step("draft", Agent("d", gives="hello")),
                Approval("ok", {"send": {"$ref": "draft.value"}}, timeout_s=60.0, **more),
                Step("send", Agent("s", gives="sent")),
            )
        )
    )


async def test_a_person_decides_and_it_goes_on() -> None:
    clock = QuickClock()
    journal, graph, writer = MemoryJournal(clock), asks(), Recorder()
    parked = await run(graph, journal, clock=clock, writer=writer)
    assert isinstance(parked, Parking)
    assert [(wait.step, wait.expires_at) for wait in parked.waits] == [("ok", clock.time + 60)]
    waiting = writer.events[-1]
    assert waiting.type is EventType.STEP_WAITING
    assert waiting.data["question"] == {"send": "hello"}
    again = Recorder(2)
    assert isinstance(await run(graph, journal, clock=clock, writer=again), Parking)
    assert again.events[-1].data["replayed"] is True
    journal.decide("ok", Verdict(approved=True, comment="fine", by="key1"))
    last = Recorder(3)
    outputs = await run(graph, journal, clock=clock, writer=last)
    assert isinstance(outputs, dict)
    assert outputs["ok"] == {
        "approved": True,
        "comment": "fine",
        "by": "key1",
        "timed_out": False,
    }
    said = [e.data for e in last.events if e.type is EventType.STEP_APPROVED]
    assert said == [{"step": "ok", **outputs["ok"]}]


@pytest.mark.parametrize(
    ("more", "decided", "code"),
    [
        ({}, False, "rejected"),
        ({}, None, "approval_timeout"),
        ({"on_timeout": "reject"}, None, "approval_timeout"),
        ({"on_timeout": "reject", "on_reject": "continue"}, None, ""),
        ({"on_timeout": "approve"}, None, ""),
        ({"on_reject": "continue"}, False, ""),
        ({"on_reject": "continue"}, None, "approval_timeout"),
    ],
)
async def test_no_answer_and_no_approval(
    more: dict[str, Any], decided: bool | None, code: str
) -> None:
    clock = QuickClock()
    journal, graph = MemoryJournal(clock), asks(**more)
    assert isinstance(await run(graph, journal, clock=clock), Parking)
    if decided is None:
        clock.time += 60
    else:
        journal.decide("ok", Verdict(approved=decided))
    if not code:
        outputs = await run(graph, journal, clock=clock)
        assert isinstance(outputs, dict)
        assert outputs["send"] == {"value": "sent"}
        assert outputs["ok"]["timed_out"] is (decided is None)
        return
    for _ in range(2):  # the same in every attempt
        with pytest.raises(StepFailed) as caught:
            await run(graph, journal, clock=clock)
        assert caught.value.details["code"] == code


async def test_other_branches_go_on_while_one_waits() -> None:
    world = World(MortalJournal())
    graph = Graph(
        Parallel(
            (
                Sequence((Approval("ok"), Step("a", Agent("a", world)))),
                Sequence((Step("b", Agent("b", world)), Step("c", Agent("c", world)))),
                Approval("also"),
            )
        )
    )
    parked = await run(graph, world.journal)
    assert isinstance(parked, Parking)
    assert {wait.step for wait in parked.waits} == {"ok", "also"}
    assert world.done == {"b": 1, "c": 1}
    world.journal.decide("ok", Verdict(approved=True))
    parked = await run(graph, world.journal)
    assert isinstance(parked, Parking)
    assert [wait.step for wait in parked.waits] == ["also"]
    world.journal.decide("also", Verdict(approved=True))
    assert isinstance(await run(graph, world.journal), dict)
    assert world.done == {"a": 1, "b": 1, "c": 1}


class Anything(Contract):
    """An input that holds nothing."""


def spec(graph: Graph) -> KindSpec:
    return KindSpec(
        TaskKind.WORKFLOW,
        1,
        Anything,
        lambda _task: graph,
        lambda _task, outputs: {name: step.output for name, step in outputs.items()},
    )


async def test_a_replay_takes_the_same_path_without_asking_anybody() -> None:
    graph, journal = asks(), MemoryJournal()
    assert isinstance(await run(graph, journal), Parking)
    half = await replay(spec(graph), task(), await journal.finished(), succeeded=False)
    assert (half.same, half.path, half.ended) == (True, ["draft"], "ok")
    journal.decide("ok", Verdict(approved=True))
    outputs = await run(graph, journal)
    rows = await journal.finished()
    whole = await replay(spec(graph), task(), rows, succeeded=True, result=outputs)  # type: ignore[arg-type]
    assert (whole.same, whole.ended, whole.path) == (True, "completed", ["draft", "send"])


async def test_a_replay_finds_what_is_not_as_it_was() -> None:
    def graph(*agents: Agent, word: str = "x") -> Graph:
        return Graph(Sequence(tuple(Step(a.step, a, {"w": word}) for a in agents)))

    def named(name: str, agent: str | None = None) -> Agent:
        return Agent(agent or name, step=name, gives=name)

    journal = MemoryJournal()
    outputs = await run(graph(named("a"), named("b")), journal)
    rows = await journal.finished()

    async def found(changed: Graph, result: Any = outputs) -> set[tuple[str, str]]:
        report = await replay(spec(changed), task(), rows, succeeded=True, result=result)
        assert report.same is (not report.differences)
        return {(d.step, d.what.split()[0]) for d in report.differences}

    assert await found(graph(named("a"), named("b"))) == set()
    assert ("a", "its") in await found(graph(named("a"), named("b"), word="y"))
    assert ("b", "b") in await found(graph(named("a"), named("b", "other")))
    assert ("b", "was") in await found(graph(named("a")))
    assert ("c", "the") in await found(graph(named("a"), named("b"), named("c")))
    assert ("b", "was") in await found(graph(named("b"), named("a")))
    assert ("", "the") in await found(graph(named("a"), named("b")), {"a": 1})


async def test_run_task_says_what_it_waits_for() -> None:
    from agents_support import ScriptedModel

    from mesh.agents import AgentOptions
    from mesh.agents.registry import Registry
    from mesh.resilience.deadline import Deadline

    clock = QuickClock()
    parked = await run_task(
        task(),
        ScriptedModel(),
        Recorder(),
        MemoryJournal(clock),
        AgentOptions(),
        clock,
        Deadline.after(60, clock),
        kinds=Registry((spec(asks()),)),
    )
    assert parked == Parked(("ok",))
