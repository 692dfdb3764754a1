"""The tree that explains a task: from rows and events, whatever state the task is in."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cluster.cli.trace import BAR, bar, draw
from mesh.agents.explain import Remembered, add_totals, cited, explain, nest
from mesh.agents.ledger import Ledger, ledger, note_call, note_cost, note_read
from mesh.contracts.events import Event, EventType
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.contracts.trace import (
    CallRecord,
    CallTry,
    ReadKind,
    ReadRecord,
    StepTrace,
    TaskTrace,
    Totals,
    TryKind,
)
from mesh.storage.task_rows import AttemptRow, StepRow, TaskRow

T0 = datetime(2026, 1, 1, tzinfo=UTC)
TASK = UUID(int=1)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def task(state: TaskState = TaskState.SUCCEEDED, attempt: int = 1, **more: Any) -> TaskRow:
    ended = state.ended
    values: dict[str, Any] = {
        "id": TASK,
        "workspace_id": UUID(int=2),
        "kind": TaskKind.WRITE_EMAIL,
        "state": state,
        "request": {},
        "priority": 0,
        "idempotency_key": None,
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "attempt": attempt,
        "owner": "worker-1",
        "lease_until": None if ended else at(100),
        "cancel_requested": False,
        "degraded": False,
        "result": None,
        "error": None,
        "created_at": T0,
        "updated_at": at(10),
        "finished_at": at(10) if ended else None,
        "deadline_at": at(600),
        "announced_at": None,
    }
    return TaskRow(**values | more)


def step(name: str, start: float = 1, end: float = 2, **more: Any) -> StepRow:
    values: dict[str, Any] = {
        "task_id": TASK,
        "name": name,
        "position": 0,
        "attempt": 1,
        "output": {},
        "decisions": [],
        "degraded": False,
        "started_at": at(start),
        "finished_at": at(end),
        "agent": "writer",
    }
    return StepRow(**values | more)


def call(**more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "requested": "fast",
        "route": "fast",
        "engine": "default",
        "model": "smol",
        "started_at": at(1),
        "seconds": 0.5,
        "ttft_s": 0.1,
        "prompt_tokens": 100,
        "completion_tokens": 20,
    }
    return CallRecord(**values | more).model_dump(mode="json", exclude_defaults=True)


def attempt(number: int = 1, **more: Any) -> AttemptRow:
    values: dict[str, Any] = {
        "task_id": TASK,
        "attempt": number,
        "worker": f"worker-{number}",
        "decision": {},
        "claimed_at": at(0.5),
        "ended_at": None,
        "outcome": None,
    }
    return AttemptRow(**values | more)


def event(type: EventType, seconds: float, attempt: int = 1, **data: Any) -> Event:
    return Event(
        stream=str(TASK), attempt=attempt, sequence=1, type=type, at=at(seconds).timestamp(),
        data=data,
    )  # fmt: skip


def shown(trace: TaskTrace, **options: Any) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(draw(trace.model_dump(mode="json"), **options))
    return console.export_text()


def test_a_finished_task_tells_all() -> None:
    decision = {
        "agent": "writer",
        "what": "subject",
        "chosen": "Spring is here",
        "candidates": [{"text": "Spring is here", "score": 0.9}, {"text": "Sale", "score": 0.2}],
        "reason": "highest score",
        "repairs": ["shortened"],
        "prompt": "writer/v2#ab12",
        "cites": ["mem:7"],
    }
    tries = [
        CallTry(engine="default", outcome="failed", error="engine_error", seconds=0.1),
        CallTry(engine="spare", kind=TryKind.FALLBACK, seconds=0.4),
    ]
    row = step(
        "subject_lines",
        decisions=[decision],
        reads=[{"kind": "memory", "ref": "mem:7", "score": 0.8, "label": "brand"}],
        calls=[call(cost_micros=30.5, tries=tries, engine="spare"), call(outcome="cached")],
    )
    choice = {
        "reason": "cheaper of two",
        "candidates": [
            {"worker": "worker-1", "score": 1.5, "latency": 1.0, "load": 0.5},
            {"worker": "worker-2", "score": 3.0, "latency": 2.0, "load": 1.0},
        ],
        "eligible": 5,
    }
    trace = explain(
        task(), [attempt(decision=choice)], [row], [], at(99), memories=Remembered({"7": "red"})
    )
    assert trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (trace.seconds, trace.queued_s) == (10, 0.5)
    (first,) = trace.attempts
    assert (first.worker, first.outcome, first.seconds) == ("worker-1", "succeeded", 9.5)
    assert first.choice is not None
    assert [c.score for c in first.choice.candidates] == [1.5, 3.0]
    assert first.choice.candidates[0].parts == {"latency": 1.0, "load": 0.5}
    assert first.choice.details == {"eligible": 5}
    (node,) = first.steps
    assert node.prompts == ["writer/v2#ab12"]
    assert (node.reads[0].text, node.reads[0].erased) == ("red", False)
    totals = trace.totals
    assert totals == node.totals
    assert (totals.calls, totals.cached_calls, totals.extra_tries) == (2, 1, 1)
    assert (totals.prompt_tokens, totals.completion_tokens) == (200, 40)
    assert (totals.cost_micros, totals.unpriced_calls) == (30.5, 1)
    assert (totals.reads, totals.repairs) == (1, 1)
    text = shown(trace)
    for word in (
        "write_email succeeded in 10.00 s", "500 ms queued", "worker-1", "cheaper of two",
        "subject_lines", "writer/v2#ab12", "Spring is here", "0.900", "mended: shortened",
        "rests on mem:7", "memory mem:7", "“red”", "asked spare smol by route fast",
        "100→20 tokens", "first after 100 ms", "0.000030", "fallback spare ok", "█",
        "4bf92f3577b34da6a3ce929d0e0e4736",
    ):  # fmt: skip
        assert word in text, word


def test_a_forgotten_memory_is_erased_here_too() -> None:
    reads = [
        {"kind": "memory", "ref": "mem:7", "label": "likes red", "details": {"text": "red"}},
        {"kind": "memory", "ref": "8"},
        {"kind": "step", "ref": "strategy"},
    ]
    rows = [step("body", reads=reads)]
    assert cited(rows) == ["7", "8"]
    trace = explain(task(), [], rows, [], at(99), memories=Remembered({"8": None}))
    gone, kept, other = trace.attempts[0].steps[0].reads
    assert gone.erased
    assert (gone.label, gone.details, gone.text) == ("", {}, None)
    assert (kept.erased, kept.text, other.erased) == (False, None, False)
    assert "red" not in trace.model_dump_json()
    assert "erased since" in shown(trace)
    # Nobody could tell: nothing is claimed to be erased.
    unknown = explain(task(), [], rows, [], at(99), incomplete=["memory"])
    assert not any(read.erased for read in unknown.attempts[0].steps[0].reads)
    assert "the memory did not answer" in shown(unknown)


def test_a_running_task_is_explained_as_far_as_it_has_come() -> None:
    events = [
        event(EventType.STEP_STARTED, 1, step="strategy", agent="strategist"),
        event(EventType.STEP_FINISHED, 2, step="strategy"),
        event(EventType.STEP_STARTED, 2, step="body", agent="writer"),
        event(EventType.STEP_RETRIED, 3, step="body", reason="too long", n=1),
        event(EventType.STEP_STARTED, 3, step="approve", agent="human"),
        event(EventType.STEP_WAITING, 3, step="approve"),
    ]
    trace = explain(task(TaskState.RUNNING), [attempt()], [step("strategy")], events, at(5))
    assert [(s.name, s.state) for s in trace.attempts[0].steps] == [
        ("strategy", "succeeded"), ("body", "running"), ("approve", "waiting"),
    ]  # fmt: skip
    body = trace.attempts[0].steps[1]
    assert (body.agent, body.seconds) == ("writer", 3)
    assert [(r.n, r.reason) for r in body.retried] == [(1, "too long")]
    assert trace.attempts[0].outcome is None
    assert trace.seconds == 5
    assert "thrown away (try 1): too long" in shown(trace)


def test_what_was_thrown_away_by_an_earlier_attempt_is_not_told_of_the_next() -> None:
    events = [
        event(EventType.STEP_STARTED, 1, step="body"),
        event(EventType.STEP_RETRIED, 2, step="body", reason="first", n=1),
        event(EventType.STEP_STARTED, 3, 2, step="body"),
        event(EventType.STEP_RETRIED, 4, 2, step="body", reason="second", n=1),
    ]
    trace = explain(task(TaskState.RUNNING, 2), [attempt(), attempt(2)], [], events, at(5))
    (node,) = trace.attempts[1].steps
    assert [r.reason for r in node.retried] == ["second"]


def test_a_task_that_moved_shows_who_did_what() -> None:
    rows = [step("a", attempt=1), step("b", 5, 6, attempt=3)]
    attempts = [
        attempt(1, ended_at=at(3), outcome="lost"),
        attempt(2, claimed_at=at(3), ended_at=at(4), outcome="handed_over"),
        attempt(3, claimed_at=at(4)),
    ]
    trace = explain(task(attempt=3), attempts, rows, [], at(99))
    found = [(a.attempt, a.outcome, [s.name for s in a.steps]) for a in trace.attempts]
    assert found == [(1, "lost", ["a"]), (2, "handed_over", []), (3, "succeeded", ["b"])]


def test_a_failed_task_shows_the_step_that_was_cut_off() -> None:
    failed = task(TaskState.FAILED, error={"code": "deadline_exceeded", "message": "late"})
    events = [event(EventType.STEP_STARTED, 2, step="body", agent="writer")]
    trace = explain(failed, [attempt()], [step("strategy")], events, at(99))
    assert [(s.name, s.state) for s in trace.attempts[0].steps] == [
        ("strategy", "succeeded"), ("body", "failed"),
    ]  # fmt: skip
    assert trace.attempts[0].steps[1].seconds == 8
    assert "deadline_exceeded: late" in shown(trace)


def test_a_queued_task_and_one_without_records_of_its_attempts() -> None:
    queued = explain(task(TaskState.QUEUED, 0, owner=None), [], [], [], at(4))
    assert (queued.attempts, queued.queued_s, queued.totals.cost_micros) == ([], None, None)
    assert "nobody has claimed it yet" in shown(queued)
    old = explain(task(), [], [step("body")], [], at(99))
    assert [(a.worker, a.choice) for a in old.attempts] == [("worker-1", None)]


def test_nested_mapped_and_handed_over_steps() -> None:
    rows = [
        step("plan", 0, 1),
        step("each[0]", 1, 3, calls=[call()]),
        step("each[0]/draft", 1, 2, calls=[call()]),
        step("each[1]", 1, 4, error={"code": "x", "message": "y"}),
        step("review", 4, 5, hand_to="legal"),
        step("review:2", 5, 6),
        step("!failed", 6, 7),
    ]
    trace = explain(task(), [attempt()], rows, [], at(99))
    plan, each, review = trace.attempts[0].steps
    assert (plan.name, each.name, review.name) == ("plan", "each", "review")
    assert (each.kind, each.state) == ("group", "failed")
    assert each.seconds == 3
    assert [s.name for s in each.children] == ["each[0]", "each[1]"]
    (draft,) = each.children[0].children
    assert draft.name == "each[0]/draft"
    assert (each.totals.calls, each.children[0].totals.calls) == (2, 2)
    assert [s.name for s in review.children] == ["review", "review:2"]
    assert trace.totals.calls == 2, "a child's calls count once"
    assert trace.totals.steps == 6
    assert "handed to legal" in shown(trace)


@given(st.lists(st.sampled_from(["a", "a[0]", "a[1]", "a[0]/b", "a[0]/b[2]", "c:2", "c", "d/e"])))
def test_law_nesting_keeps_every_step_once(names: list[str]) -> None:
    names = list(dict.fromkeys(names))
    node = StepTrace(
        name="", state="succeeded", attempt=1, started_at=T0, offset_s=0, seconds=1,
        totals=Totals(steps=1, prompt_tokens=3),
    )  # fmt: skip
    tree = nest([node.model_copy(update={"name": name}) for name in names])

    def walk(nodes: list[StepTrace]) -> list[str]:
        found = []
        for one in nodes:
            found += [one.name] * (one.kind == "step") + walk(one.children)
        return found

    assert sorted(walk(tree)) == sorted(names)
    assert add_totals(one.totals for one in tree).prompt_tokens == 3 * len(names)


def test_a_ledger_collects_only_within_it_and_folds_what_is_too_much() -> None:
    record = CallRecord(started_at=T0, prompt_tokens=5, completion_tokens=2, seconds=1)
    read = ReadRecord(kind=ReadKind.TOOL, ref="search")
    note_call(record)
    note_read(read)
    with ledger() as outer:
        note_call(record)
        with ledger() as inner:
            note_call(record)
            note_read(read)
        note_cost(7.5, prompt_tokens=5, completion_tokens=2)
        note_cost(9.0, prompt_tokens=1, completion_tokens=1)
    note_call(record)
    assert len(outer.calls) == len(inner.calls) == 1
    assert (outer.calls[0].cost_micros, inner.calls[0].cost_micros) == (7.5, None)
    assert (len(outer.reads), len(inner.reads)) == (0, 1)
    small = Ledger(max_calls=3, max_reads=2)
    for n in range(10):
        small.add_call(record.model_copy(update={"cost_micros": 1.0 if n % 2 else None}))
        small.add_read(read)
    assert (len(small.calls), len(small.reads)) == (3, 2)
    assert small.statistics() == {"calls": 10, "reads": 10}
    assert sum(c.prompt_tokens for c in small.calls) == 50
    assert sum(c.cost_micros or 0 for c in small.calls) == 5
    with pytest.raises(ValueError, match="at least two"):
        Ledger(1, 5)


def test_bars_stay_within_their_width() -> None:
    for offset, seconds, whole in ((0, 10, 10), (9.99, 5, 10), (0, 0, 10), (50, 1, 10), (3, 99, 9)):
        assert len(bar(offset, seconds, whole)) == BAR
        assert "█" in bar(offset, seconds, whole)


def test_long_things_are_shortened_unless_asked_for() -> None:
    calls = [call() for _ in range(20)]
    decisions = [
        {"agent": "a", "what": "w", "chosen": "x" * 300, "candidates": [{"text": "y"}] * 9}
    ]
    trace = explain(task(), [], [step("body", calls=calls, decisions=decisions)], [], at(99))
    short, full = shown(trace), shown(trace, full=True)
    assert "and 14 calls more" in short
    assert "calls more" not in full
    assert short.count("asked ") == 6
    assert full.count("asked ") == 20


def test_markup_in_a_brief_is_text() -> None:
    decisions = [{"agent": "a", "what": "w", "chosen": "[red]no[/red] [link=http://x]y[/link]"}]
    trace = explain(task(), [], [step("[bold]", decisions=decisions)], [], at(99))
    assert "[red]no[/red] [link=http://x]y[/link]" in shown(trace)
