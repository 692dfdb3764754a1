"""Why a task came out as it did: its rows, events and records as one tree. Pure.

task → attempts (worker, why that one) → steps, nested as their names say → what each read, what
it decided among which candidates, which models it asked. What has not finished is taken from the
task's stream, so a running task is explained as far as it has come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mesh.contracts.events import Event, EventType
from mesh.contracts.tasks import Decision, TaskState
from mesh.contracts.trace import (
    AttemptTrace,
    CallRecord,
    ReadKind,
    ReadRecord,
    ReadTrace,
    Retried,
    StepTrace,
    TaskTrace,
    Totals,
    TryKind,
    WorkerCandidate,
    WorkerChoice,
)
from mesh.core.tracing import parse_traceparent
from mesh.storage.task_rows import AttemptRow, StepRow, TaskRow

MAX_RETRIED = 50
"""Thrown-away answers that are told per step."""
_PART = re.compile(r"^(?P<base>[^\[:]+)(?P<rest>[\[:].*)$")
_HIDDEN = "!"
"""First letter of rows that are the graph's own book-keeping."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is still there of the memories that steps cite."""

    texts: Mapping[str, str | None]
    """By id; None: it is there, but the caller may not read it. Missing: it was erased."""


@dataclass(slots=True)
class _Open:
    """A step that the stream tells of and no row holds."""

    name: str
    agent: str
    attempt: int
    started_at: datetime
    waiting: bool = False
    retried: list[Retried] = field(default_factory=list)


def explain(
    task: TaskRow,
    attempts: Sequence[AttemptRow],
    steps: Sequence[StepRow],
    events: Iterable[Event],
    now: datetime,
    *,
    memories: Remembered | None = None,
    incomplete: Sequence[str] = (),
) -> TaskTrace:
    """The tree. ``events``: of its stream, any part of them; ``memories``: None, nobody asked."""
    shown = [step for step in steps if not step.name.startswith(_HIDDEN)]
    opened, retried = _from_events(events, {step.name for step in shown})
    nodes = [_step(step, task, retried.get(step.name, ()), memories) for step in shown]
    nodes += [_unfinished(step, task, now) for step in opened.values()]
    by_attempt: dict[int, list[StepTrace]] = {}
    for node in nodes:
        by_attempt.setdefault(node.attempt, []).append(node)
    claims = {row.attempt: row for row in attempts}
    trees = [
        _attempt(number, claims.get(number), by_attempt.get(number, []), task, now)
        for number in sorted({*claims, *by_attempt} | ({task.attempt} if task.attempt else set()))
    ]
    first = min((row.claimed_at for row in attempts), default=None)
    parent = parse_traceparent(task.traceparent)
    return TaskTrace(
        id=task.id,
        kind=task.kind,
        state=task.state,
        trace_id=None if parent is None else f"{parent.trace_id:032x}",
        created_at=task.created_at,
        finished_at=task.finished_at,
        seconds=_seconds(task.created_at, task.finished_at or now),
        queued_s=None if first is None else _seconds(task.created_at, first),
        degraded=task.degraded,
        error=task.error,
        totals=add_totals(node.totals for node in nodes),
        attempts=trees,
        incomplete=list(incomplete),
    )


def cited(steps: Iterable[StepRow]) -> list[str]:
    """Ids of the memories that steps have read, each once."""
    ids: dict[str, None] = {}
    for step in steps:
        for read in step.reads:
            if read.get("kind") == ReadKind.MEMORY:
                ids[memory_id(str(read.get("ref", "")))] = None
    return list(ids)


def memory_id(ref: str) -> str:
    """The id in a citation (``mem:<id>``) or as it is."""
    return ref.removeprefix("mem:")


def add_totals(parts: Iterable[Totals]) -> Totals:
    sums: dict[str, Any] = dict.fromkeys(Totals.model_fields, 0)
    priced = False
    for part in parts:
        for name in sums:
            sums[name] += getattr(part, name) or 0
        priced = priced or part.cost_micros is not None
    sums["model_seconds"] = round(sums["model_seconds"], 6)
    if not priced:
        sums["cost_micros"] = None
    return Totals(**sums)


def _step(
    row: StepRow, task: TaskRow, retried: Sequence[Retried], memories: Remembered | None
) -> StepTrace:
    calls = [CallRecord.model_validate(call) for call in row.calls]
    decisions = [Decision.model_validate(decision) for decision in row.decisions]
    return StepTrace(
        name=row.name,
        state="succeeded" if row.error is None else "failed",
        agent=row.agent or next((decision.agent for decision in decisions), ""),
        prompts=sorted({decision.prompt for decision in decisions if decision.prompt}),
        attempt=row.attempt,
        started_at=row.started_at,
        finished_at=row.finished_at,
        offset_s=_seconds(task.created_at, row.started_at),
        seconds=_seconds(row.started_at, row.finished_at),
        tries=row.tries,
        reads=[_read(ReadRecord.model_validate(read), memories) for read in row.reads],
        decisions=decisions,
        calls=calls,
        retried=list(retried)[:MAX_RETRIED],
        degraded=row.degraded,
        handed_to=row.hand_to,
        error=row.error,
        totals=_totals(calls, row, decisions),
    )


def _read(record: ReadRecord, memories: Remembered | None) -> ReadTrace:
    fields = record.model_dump()
    if record.kind is not ReadKind.MEMORY or memories is None:
        return ReadTrace(**fields)
    known = memory_id(record.ref) in memories.texts
    if not known:
        # Its label may tell what it was about: gone, too.
        fields |= {"label": "", "details": {}}
    return ReadTrace(
        **fields,
        text=memories.texts.get(memory_id(record.ref)) if known else None,
        erased=not known,
    )


def _totals(calls: Sequence[CallRecord], row: StepRow, decisions: Sequence[Decision]) -> Totals:
    costs = [call.cost_micros for call in calls if call.cost_micros is not None]
    return Totals(
        steps=1,
        calls=sum(call.folded for call in calls),
        failed_calls=sum(call.folded for call in calls if call.outcome == "failed"),
        extra_tries=sum(1 for call in calls for one in call.tries if one.kind is not TryKind.FIRST),
        cached_calls=sum(call.folded for call in calls if call.outcome == "cached"),
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        completion_tokens=sum(call.completion_tokens for call in calls),
        cost_micros=sum(costs) if costs else None,
        unpriced_calls=sum(call.folded for call in calls if call.cost_micros is None),
        model_seconds=sum(call.seconds for call in calls),
        reads=sum(int(read.get("folded", 1)) for read in row.reads),
        repairs=sum(len(decision.repairs) for decision in decisions),
        degraded_steps=int(row.degraded),
    )


def _from_events(
    events: Iterable[Event], kept: set[str]
) -> tuple[dict[str, _Open], dict[str, list[Retried]]]:
    """Steps that began and have no row, and what was thrown away on the way, by step."""
    opened: dict[str, _Open] = {}
    retried: dict[str, list[Retried]] = {}
    for event in events:
        name = str(event.data.get("step", ""))
        at = datetime.fromtimestamp(event.at, UTC)
        if event.type is EventType.STEP_STARTED:
            retried.pop(name, None)  # what an earlier attempt threw away went with it
            if name not in kept:
                agent = str(event.data.get("agent", ""))
                opened[name] = _Open(name, agent, event.attempt, at)
        elif event.type is EventType.STEP_WAITING and name not in kept:
            step = opened.setdefault(name, _Open(name, "", event.attempt, at))
            step.waiting = True
        elif event.type is EventType.STEP_APPROVED and name in opened:
            opened[name].waiting = False
        elif event.type is EventType.STEP_RETRIED:
            entry = Retried(
                n=int(event.data.get("n", 0)), reason=str(event.data.get("reason", "")), at=at
            )
            retried.setdefault(name, []).append(entry)
        elif event.type is EventType.STEP_FINISHED:
            opened.pop(name, None)
    for name, step in opened.items():
        step.retried = retried.get(name, [])[:MAX_RETRIED]
    return opened, retried


def _unfinished(step: _Open, task: TaskRow, now: datetime) -> StepTrace:
    """A step of the attempt that runs is running; any other was cut off."""
    alive = not task.state.ended and step.attempt == task.attempt
    state: Any = ("waiting" if step.waiting else "running") if alive else "failed"
    if step.waiting and task.state is TaskState.QUEUED:
        state = "waiting"
    until = now if state != "failed" else (task.finished_at or now)
    return StepTrace(
        name=step.name,
        state=state,
        agent=step.agent,
        attempt=step.attempt,
        started_at=step.started_at,
        offset_s=_seconds(task.created_at, step.started_at),
        seconds=_seconds(step.started_at, until),
        retried=step.retried,
        totals=Totals(steps=1),
    )


def _attempt(
    number: int, row: AttemptRow | None, nodes: list[StepTrace], task: TaskRow, now: datetime
) -> AttemptTrace:
    last = number == task.attempt
    worker = row.worker if row is not None else (task.owner or "" if last else "")
    ended = row.ended_at if row is not None else None
    outcome = row.outcome if row is not None else None
    if last and outcome is None and task.state.ended:
        outcome, ended = task.state.value, ended or task.finished_at
    claimed = row.claimed_at if row is not None else None
    return AttemptTrace(
        attempt=number,
        worker=worker,
        choice=_choice(row.decision) if row is not None and row.decision else None,
        claimed_at=claimed,
        ended_at=ended,
        outcome=outcome,
        seconds=None if claimed is None else _seconds(claimed, ended or now),
        steps=nest(nodes),
    )


def _choice(decision: Mapping[str, Any]) -> WorkerChoice:
    """Whatever the balancer wrote: its known parts by name, the rest as details."""
    candidates = []
    for entry in decision.get("candidates") or ():
        if not isinstance(entry, Mapping):
            continue
        score = next((entry[n] for n in ("score", "cost", "total") if n in entry), None)
        parts = {k: v for k, v in entry.items() if k not in ("worker", "score", "cost", "total")}
        candidates.append(
            WorkerCandidate(
                worker=str(entry.get("worker", "")),
                score=float(score) if isinstance(score, int | float) else None,
                parts=parts,
            )
        )
    rest = {k: v for k, v in decision.items() if k not in ("reason", "candidates")}
    return WorkerChoice(reason=str(decision.get("reason", "")), candidates=candidates, details=rest)


def nest(nodes: Sequence[StepTrace]) -> list[StepTrace]:
    """Steps under the step that ran them (``parent/step``); items (``step[3]``) and hops
    (``step:2``) under a group of their own."""
    by_path: dict[str, list[StepTrace]] = {}
    names = {node.name for node in nodes}
    for node in nodes:
        parent, _, _ = node.name.rpartition("/")
        while parent and parent not in names:
            parent, _, _ = parent.rpartition("/")
        by_path.setdefault(parent, []).append(node)

    def under(parent: str) -> list[StepTrace]:
        children = []
        for node in by_path.get(parent, ()):
            inner = under(node.name)
            if inner:
                totals = add_totals([node.totals, *(child.totals for child in inner)])
                node = node.model_copy(update={"children": inner, "totals": totals})
            children.append(node)
        return _grouped(children)

    return under("")


def _grouped(nodes: list[StepTrace]) -> list[StepTrace]:
    groups: dict[str, list[StepTrace]] = {}
    for node in nodes:
        match = _PART.match(node.name.rpartition("/")[2])
        path = node.name.rpartition("/")[0]
        base = node.name if match is None else f"{path}/{match['base']}".lstrip("/")
        groups.setdefault(base, []).append(node)
    result = []
    for base, members in groups.items():
        if len(members) == 1:
            result += members
            continue
        started = min(member.started_at for member in members)
        ends = [member.finished_at for member in members if member.finished_at is not None]
        states = [member.state for member in members]
        state = next((s for s in ("running", "waiting", "failed") if s in states), "succeeded")
        result.append(
            StepTrace(
                name=base,
                kind="group",
                state=state,
                attempt=members[0].attempt,
                started_at=started,
                finished_at=max(ends) if len(ends) == len(members) else None,
                offset_s=min(member.offset_s for member in members),
                seconds=max(
                    (member.started_at - started).total_seconds() + member.seconds
                    for member in members
                ),
                degraded=any(member.degraded for member in members),
                totals=add_totals(member.totals for member in members),
                children=members,
            )
        )
    return sorted(result, key=lambda node: (node.started_at, node.name))


def _seconds(start: datetime, end: datetime) -> float:
    return round(max(0.0, (end - start).total_seconds()), 6)
