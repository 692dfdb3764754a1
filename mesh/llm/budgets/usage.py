"""What calls have used, gathered in the process until it goes into the ledger as one batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID, uuid4

from mesh.storage.budgets import Spent, SpentTask

MAX_ROWS = 50_000
"""While the ledger is away, rows beyond this are added up by the day instead of the minute."""
_DAY_MINUTES = 1_440


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0
    """Millionths of the currency."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Batch:
    id: UUID
    spent: tuple[Spent, ...]
    tasks: tuple[SpentTask, ...]


@dataclass(slots=True)
class UsageBuffer:
    """One per process. Bounded: the same key, model and minute share a row."""

    calls: int = 0
    _rows: dict[tuple[UUID, int, str, str], list[int]] = field(default_factory=dict)
    _tasks: dict[tuple[UUID, UUID], list[int]] = field(default_factory=dict)

    def add(
        self,
        workspace_id: UUID,
        began_at: float,
        key_id: str | None,
        task_id: UUID | None,
        model: str,
        usage: Usage,
    ) -> None:
        """``began_at``: Unix seconds."""
        self.calls += 1
        key = (workspace_id, int(began_at // 60), key_id or "", model)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MAX_ROWS:
                key = (key[0], key[1] // _DAY_MINUTES * _DAY_MINUTES, *key[2:])
            row = self._rows.setdefault(key, [0, 0, 0, 0])
        _add(row, usage)
        if task_id is not None:
            _add(self._tasks.setdefault((workspace_id, task_id), [0, 0, 0, 0]), usage)

    def take(self) -> Batch | None:
        """Everything gathered so far, as one batch; None where there is nothing."""
        if not self._rows:
            return None
        rows, self._rows = self._rows, {}
        tasks, self._tasks = self._tasks, {}
        return Batch(
            uuid4(),
            tuple(Spent(*key, *row) for key, row in rows.items()),
            tuple(SpentTask(*key, *row) for key, row in tasks.items()),
        )


def _add(row: list[int], usage: Usage) -> None:
    row[0] += 1
    row[1] += usage.prompt_tokens
    row[2] += usage.completion_tokens
    row[3] += usage.cost
