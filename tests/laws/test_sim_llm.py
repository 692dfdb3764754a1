"""The router in its simulation: a few seeds of ``python -m benchmarks.sim_llm``, and proof that
the simulation notices when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.sim.llm_world import simulate
from mesh.llm.routing import attempt, resume
from mesh.llm.routing.journal import Emitted
from mesh.resilience.breaker import CircuitBreaker, Permit


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_everything_holds(first: int) -> None:
    for seed in range(first, first + 20):
        outcome = simulate(seed)
        assert not outcome.problems, (seed, outcome.problems)


def test_a_seed_tells_the_same_story_again() -> None:
    digests = {simulate(3).digest for _ in range(2)}
    assert len(digests) == 1
    assert simulate(4).digest not in digests


def _repeats_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = resume.continued

    def continued(body: Any, emitted: Emitted, **more: Any) -> Any:
        text = emitted.pieces.get("content", "")
        short = Emitted(pieces={"content": text.rsplit(" ", 1)[0]}, tokens=emitted.tokens)
        return original(body, short, **more)

    monkeypatch.setattr("mesh.llm.routing.client.continued", continued)


def _forgets_used_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "added", lambda usage, tokens: usage)


def _never_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt.Watch, "begin", lambda self, limit: None)


def _keeps_losers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def aclose(self: attempt.Attempt) -> None:
        self._watch.close()

    monkeypatch.setattr(attempt.Attempt, "aclose", aclose)


def _never_half_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CircuitBreaker, "heard_open", None)
    monkeypatch.setattr(CircuitBreaker, "retry_after_s", lambda self: 1.0)


def _silent_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.llm.routing.journal.Journal.finished", lambda self: True)


def _loses_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Permit, "release", lambda self: None)
    monkeypatch.setattr(Permit, "well", lambda self: None)


@pytest.mark.parametrize(
    "spoil",
    [
        _repeats_a_token,
        _forgets_used_tokens,
        _never_gives_up,
        _keeps_losers,
        _never_half_open,
        _silent_cut,
        _loses_probes,
    ],
)
def test_the_simulation_notices(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    spoil(monkeypatch)
    for seed in range(40):
        try:
            if simulate(seed).problems:
                return
        except Exception:  # a world that gets stuck or breaks is noticed, too
            return
    pytest.fail("nothing was noticed")
