"""On whose behalf the model is called: who pays, how urgent it is, what it is for.

Set once where work enters (a gateway request, a task's run) and read by whatever meters, caches
or routes the call further down, so that no signature between has to carry it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

TASKS = -1
"""Added to a task's priority: in an engine's queue its calls come after those that somebody sits
and waits for."""


@dataclass(frozen=True, slots=True)
class Call:
    """Of one gateway request or one task."""

    workspace_id: UUID
    key_id: str | None = None
    """Of the API key that pays beside its workspace; None: the workspace alone."""
    task_id: UUID | None = None
    """Budgets and costs of a whole agent run come together under it."""
    priority: int = 0
    """Higher goes first, -10 … 10."""
    policy: str = "default"
    """Caches never share answers between policies."""


_CALL: ContextVar[Call | None] = ContextVar("maily_call", default=None)


def current_call() -> Call | None:
    """None: work of the runtime itself."""
    return _CALL.get()


@contextmanager
def calling(call: Call) -> Iterator[Call]:
    """Everything that is awaited within the block, and tasks made in it, is done for ``call``."""
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)
