"""One call on its way through its route: what was asked, whom it asked, what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from mesh.contracts.trace import CallRecord, CallTry, TryKind
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded, InvalidInput, MailyError, Overloaded, RateLimited
from mesh.llm.engine import Wire
from mesh.llm.routing.attempt import LeftQueue
from mesh.llm.routing.state import TargetState, Tried


@dataclass(slots=True)
class Request:
    """Belongs to one call; ``deadline`` is of the loop's clock."""

    route: str
    body: Wire
    chat: bool
    chain: Sequence[TargetState]
    deadline: float
    traceparent: str | None
    asked: set[str] = field(default_factory=set)
    """Engines that were called: calling one again is a retry."""
    tries: list[Tried] = field(default_factory=list)
    avoid: str | None = None
    """A replica that has failed this call."""
    away_until: float | None = None
    """While its whole route is away."""

    def left(self) -> float:
        """Seconds. Raises DeadlineExceeded when there are none."""
        left = self.deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise DeadlineExceeded("the deadline passed before an engine answered")
        return left

    def alternatives(self) -> bool:
        """Whether there is anybody else to ask."""
        return len(self.chain) > 1 or self.chain[0].target.replicas > 1


def verdict(error: BaseException) -> Literal["caller", "busy", "failed"]:
    """Whose fault it is: the caller's (or nobody's), load, or the engine's."""
    if isinstance(error, (Overloaded, RateLimited, LeftQueue)):
        return "busy"
    if isinstance(error, DeadlineExceeded):
        return "caller"  # phases have limits of their own, which are EngineErrors
    if isinstance(error, MailyError):
        return "failed" if error.retryable or error.status >= 500 else "caller"
    return "failed"


def speaks_against(error: BaseException) -> bool:
    """Whether a breaker should count it."""
    return verdict(error) == "failed"


def too_long(error: BaseException, following: Sequence[TargetState]) -> bool:
    """The prompt doesn't fit this engine, but a later one."""
    if not isinstance(error, InvalidInput):
        return False
    limit, prompt = error.details.get("context_tokens"), error.details.get("prompt_tokens")
    if not isinstance(limit, int) or not isinstance(prompt, int):
        return False
    return any(state.target.context_tokens > prompt for state in following)


def record(
    request: Request,
    clock: Clock,
    started: float,
    answer: dict[str, Any],
    error: BaseException | None,
) -> CallRecord:
    """For the step's ledger. ``started``: of the loop's clock; ``answer``: model, usage and
    finish reason, as far as they are known."""
    seconds = asyncio.get_running_loop().time() - started
    usage = answer.get("usage") or {}
    winner = next((t for t in reversed(request.tries) if t.outcome == "ok"), None)
    outcome: Literal["ok", "failed", "cancelled"] = "ok"
    if error is not None:
        outcome = "failed" if isinstance(error, Exception) else "cancelled"
    return CallRecord(
        operation="chat" if request.chat else "completion",
        requested=str(request.body.get("model") or ""),
        route=request.route,
        engine=winner.engine if winner else "",
        model=str(answer.get("model") or (winner.model if winner else "")),
        outcome=outcome,
        error=error.code if isinstance(error, MailyError) else "",
        started_at=datetime.fromtimestamp(clock.now() - seconds, UTC),
        seconds=max(0.0, seconds),
        ttft_s=winner.ttft_s if winner else None,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        finish_reason=str(answer.get("finish_reason") or ""),
        tries=[
            CallTry(
                engine=tried.engine,
                kind=TryKind(tried.kind),
                outcome=_OUTCOMES[tried.outcome],
                error=tried.error,
                seconds=max(0.0, tried.seconds),
                ttft_s=tried.ttft_s,
            )
            for tried in request.tries
        ],
    )


_OUTCOMES: dict[str, Literal["ok", "failed", "cancelled"]] = {
    "ok": "ok",
    "failed": "failed",
    "cancelled": "cancelled",
}
