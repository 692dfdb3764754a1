"""Durability: kill the worker at any await and another goes on; every step commits once.

Exhaustive, not sampled: the run is killed at its first await, its second, and so on to its last,
before and after the awaited thing took effect.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from agents_support import GOOD, Recorder, ScriptedModel, piece_of, shown, write

from mesh.agents import AGENTS, MemoryJournal, StepOutput
from mesh.contracts.events import Event, EventType
from mesh.contracts.tasks import TaskKind

STEPS = [agent.step for agent in AGENTS if agent.kind is TaskKind.WRITE_EMAIL]


class Killed(BaseException):
    """The process is gone: nothing of ours may catch this."""


class Fuse:
    """Blows at its n-th tick."""

    def __init__(self, at: int) -> None:
        self.left = at

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class CountingJournal(MemoryJournal):
    """Outlives workers, as the database does; counts what was really written."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[str] = []
        self.fuse = Fuse(0)

    async def finished(self) -> Mapping[str, StepOutput]:
        self.fuse.tick()
        return await super().finished()

    async def commit(self, step: StepOutput) -> StepOutput:
        self.fuse.tick()
        if step.name not in self._steps:
            self.commits.append(step.name)
        kept = await super().commit(StepOutput.model_validate_json(step.model_dump_json()))
        self.fuse.tick()
        return kept


class FusedModel(ScriptedModel):
    """Answers by the request alone (one bad answer first), as a seeded model does."""

    fuse = Fuse(0)

    async def stream_chat(
        self, body: dict[str, Any], *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        self.fuse.tick()
        first_try = body["temperature"] < 0.2
        bad = first_try and piece_of(body) in ("line 2", "opening")
        self.script = lambda piece, n: "Only $5 at evil.example!" if bad else GOOD[piece]
        async for chunk in super().stream_chat(body, timeout_s=timeout_s):
            self.fuse.tick()
            yield chunk


class FusedWriter(Recorder):
    fuse = Fuse(0)

    async def append(self, type: EventType, data: dict[str, Any]) -> Event:
        self.fuse.tick()
        event = await super().append(type, data)
        self.fuse.tick()
        return event


async def _run(journal: CountingJournal, events: list[Event], attempt: int, at: int) -> Any:
    fuse = Fuse(at)
    model, writer = FusedModel(chunk=40), FusedWriter(attempt, events)
    journal.fuse = model.fuse = writer.fuse = fuse
    return await write(model, journal=journal, writer=writer)


async def test_killed_at_any_await_it_ends_with_the_same_email() -> None:
    reference_events: list[Event] = []
    reference = await _run(CountingJournal(), reference_events, 1, 0)
    assert any(e.type is EventType.STEP_RETRIED for e in reference_events)
    kills = 0
    for at in itertools.count(1):
        journal = CountingJournal()
        events: list[Event] = []
        try:
            await _run(journal, events, 1, at)
        except Killed:
            kills += 1
        else:
            break
        before = list(journal.commits)
        result = await _run(journal, events, 2, 0)
        assert journal.commits == STEPS, at
        assert result == reference, at
        second = [e for e in events if e.attempt == 2]
        assert second[0].data["resumed_from"] == (before[-1] if before else None)
        again = [
            e.data["step"] for e in events if e.attempt == 2 and e.type is EventType.STEP_STARTED
        ]
        assert again == STEPS[len(before) :], at
        # Whoever followed both attempts has seen every step finish, and has the accepted text.
        finished = {e.data["step"] for e in events if e.type is EventType.STEP_FINISHED}
        assert finished == set(STEPS), at
        assert shown(events) == shown(reference_events), at
    assert kills > 100


async def test_killed_again_and_again_it_still_ends() -> None:
    """A worker that dies after every few awaits makes progress with each committed step."""
    journal, events = CountingJournal(), []
    for attempt in itertools.count(1):
        try:
            result = await _run(journal, events, attempt, 120)
            break
        except Killed:
            assert attempt < 50
    assert journal.commits == STEPS
    assert result.email.subject


@pytest.mark.parametrize("step", STEPS)
async def test_a_competing_commit_wins(step: str) -> None:
    """What the journal keeps counts, not what this worker made."""
    journal = MemoryJournal()
    first = await write(ScriptedModel(), journal=journal)
    kept = dict(await journal.finished())

    class Theirs(MemoryJournal):
        async def commit(self, output: StepOutput) -> StepOutput:
            return await super().commit(kept[output.name] if output.name == step else output)

    def worse(piece: str, n: int) -> str:
        return GOOD[piece].replace("plants", "plants now")

    mixed = Theirs()
    await write(ScriptedModel(worse), journal=mixed)
    assert (await mixed.finished())[step] == kept[step]
    assert first.email
