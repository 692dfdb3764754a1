"""Budgets as the gateway's routes need them: the tables, and the news of a change."""

from __future__ import annotations

from uuid import UUID

from mesh.llm.budgets.counters import Counters
from mesh.storage.budgets import BudgetRepository
from mesh.storage.pool import Database


class Budgets(BudgetRepository):
    """Implements ``deps.BudgetAdmin``."""

    def __init__(self, db: Database, counters: Counters) -> None:
        super().__init__(db)
        self._counters = counters

    async def announce(self, workspace_id: UUID) -> None:
        await self._counters.announce(workspace_id)
