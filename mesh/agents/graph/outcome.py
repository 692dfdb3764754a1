"""What may come of a step: failures as rows and as errors, waits for people, events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.agents.agent import StepOutput
from mesh.core.errors import (
    EngineError,
    Internal,
    MailyError,
    Overloaded,
    RateLimited,
    StepFailed,
    Unavailable,
)

AWAY: tuple[type[MailyError], ...] = (Unavailable, EngineError, Overloaded, RateLimited)
"""Errors of the infrastructure: without a policy of the step they are the worker's to wait for."""
FAILED = "!failed"
"""The row that says a task is failing: its finished steps are being taken back."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that waits for a person."""

    step: str
    expires_at: float
    """Unix seconds."""


class Parking(Exception):
    """Nothing is left to do until a person decides. A signal, not an error."""

    def __init__(self, waits: Sequence[Wait]) -> None:
        super().__init__(tuple(waits))
        self.waits = tuple(waits)


def failure(step: str, body: Mapping[str, Any]) -> StepFailed:
    """A recorded failure as an error. What failed within a step is told as it is."""
    if body.get("code") == StepFailed.code:
        return StepFailed(str(body.get("message", "")), dict(body.get("details") or {}))
    return StepFailed(
        f"The step {step} failed: {body.get('message', '')}"[:500],
        {"step": step, "code": body.get("code"), "details": body.get("details") or {}},
    )


def rebuilt(body: Mapping[str, Any]) -> MailyError:
    """An error from its code, message and details."""
    kinds: list[type[MailyError]] = [MailyError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    found = next((kind for kind in kinds[1:] if kind.code == body.get("code")), Internal)
    return found(str(body.get("message", "")), dict(body.get("details") or {}))


def finished_event(step: StepOutput, *, replayed: bool = False) -> dict[str, Any]:
    """The data of ``step.finished``."""
    data: dict[str, Any] = {
        "step": step.name,
        "output": step.output,
        "decisions": [decision.model_dump(mode="json") for decision in step.decisions],
        "degraded": step.degraded,
    }
    if step.error is not None:
        data["error"] = step.error
    if step.hand_to is not None:
        data["hand_to"] = step.hand_to
    if replayed:
        data["replayed"] = True
    return data


def base_name(name: str) -> str:
    """The step's name without items, hops and parents: a label that stays bounded."""
    return name.rsplit("/", 1)[-1].split("[", 1)[0].split(":", 1)[0]
