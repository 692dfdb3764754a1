"""Budgets of this process: reserve before a call, settle after it, keep ledger and counters told.

A workspace without budgets costs a look into a dictionary and a row added up in memory. With
budgets a call spends from what the process holds; only when that does not do is the shared
counter asked, one exchange at a time for each workspace. What ended calls used goes into the
ledger (PostgreSQL) every ``FLUSH_S`` in one batch, and from there to the counters.

A process that is killed loses from the ledger what ended in its last ``FLUSH_S`` and the calls
that ran; what it held is free for others when its lease ends (``counters.LEASE_S``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID, uuid4

from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import BudgetExceeded, MailyError
from mesh.core.logging import get_logger
from mesh.llm.budgets.book import Amounts, Book, Hold, Reservation, Short
from mesh.llm.budgets.counters import Ask, Counters
from mesh.llm.budgets.limits import Budget, Counter
from mesh.llm.budgets.usage import Batch, Usage, UsageBuffer
from mesh.llm.call import Call
from mesh.storage.budgets import Spent, SpentTask

FLUSH_S = 0.25
"""Between two batches for the ledger."""
BEAT_S = 0.5
"""A process that holds anything says so at least this often."""
FRESH_S = 5.0
"""Limits are read anew after so long, should the news of a change be lost."""
MAX_WORKSPACES = 10_000
_AT_ONCE = 16
"""Workspaces that are told at the same time."""
_ROUNDS = 50
"""Exchanges that one call waits for at most: others may take what it was granted."""

_log = get_logger("budgets")


class BudgetStore(Protocol):
    """The source of truth: ``mesh.storage.budgets.BudgetRepository``."""

    async def list(self, workspace_id: UUID) -> list[Budget]: ...

    async def spent(self, workspace_id: UUID, counter: Counter, window: int) -> int: ...

    async def add(
        self, batch: UUID, spent: Sequence[Spent], tasks: Sequence[SpentTask]
    ) -> None: ...


@dataclass(slots=True)
class _Workspace:
    book: Book
    read_at: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reading: asyncio.Task[None] | None = None


class Meter:
    """One per process, in one event loop. ``run`` must run beside it."""

    def __init__(self, store: BudgetStore, counters: Counters, clock: Clock) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock
        self._holder = uuid4().hex
        self._workspaces: OrderedDict[UUID, _Workspace] = OrderedDict()
        self._loading: dict[UUID, asyncio.Task[_Workspace]] = {}
        self._usage = UsageBuffer()
        self._unsent: Batch | None = None
        self._unsent_holds: list[tuple[Book, list[tuple[Hold, int]]]] = []
        self._beat_at = 0.0
        self._flushed = self._failed = 0

    async def reserve(self, call: Call, amounts: Callable[[], Amounts]) -> Reservation | None:
        """What the call may use at most, out of every budget that binds it; None: none does.

        ``amounts`` is asked only when there is a budget. Raises BudgetExceeded, and Unavailable
        when limits or counters can't be read.
        """
        workspace = self._workspaces.get(call.workspace_id)
        if workspace is None:
            workspace = await self._load(call.workspace_id)
        elif self._clock.monotonic() - workspace.read_at > FRESH_S and workspace.reading is None:
            workspace.reading = asyncio.create_task(self._read_again(workspace))
        book = workspace.book
        if not book.budgets:
            return None
        wanted = amounts()
        try:
            for _ in range(_ROUNDS):
                found = book.reserve(call.key_id, call.task_id, wanted)
                if isinstance(found, Reservation):
                    return found if found.parts else None
                async with workspace.lock:
                    # Who waited here may find what another was granted.
                    found = book.reserve(call.key_id, call.task_id, wanted)
                    if isinstance(found, Reservation):
                        return found
                    await self._exchange(book, book.ask_for(found), dict(found.holds))
            raise BudgetExceeded("Too many calls at once spend from what is left.", {}, 1.0)
        except BudgetExceeded:
            metrics.BUDGETS_EXCEEDED.inc()
            raise

    def settle(self, call: Call, reservation: Reservation | None, model: str, usage: Usage) -> None:
        """The call has ended, well or not: so much it used. Never waits."""
        began_at = self._clock.now()
        if reservation is not None:
            if not reservation.open:
                return
            began_at = reservation.began_at
            workspace = self._workspaces.get(reservation.workspace_id)
            if workspace is not None:
                workspace.book.settle(reservation, {"tokens": usage.tokens, "cost": usage.cost})
        self._usage.add(call.workspace_id, began_at, call.key_id, call.task_id, model, usage)

    def changed(self, workspace_id: UUID | None = None) -> None:
        """Limits of this workspace (None: any) were changed: read them before the next call."""
        for id, workspace in self._workspaces.items():
            if workspace_id in (None, id):
                workspace.read_at = float("-inf")
                if workspace.reading is None:
                    workspace.reading = asyncio.create_task(self._read_again(workspace))

    async def run(self) -> None:
        """Until cancelled; then everything is told once more."""
        try:
            while True:
                await self._clock.sleep(FLUSH_S)
                await self.flush()
        finally:
            with contextlib.suppress(MailyError, TimeoutError):
                async with asyncio.timeout(2.0):
                    await self.flush()

    async def flush(self) -> None:
        """Usage into the ledger, then to the counters; what is idle goes back. Never raises."""
        now = self._clock.monotonic()
        beat = now - self._beat_at >= BEAT_S
        if beat:
            self._beat_at = now
        await self._write_ledger()
        telling = [w for w in self._workspaces.values() if w.book.holds]
        for at in range(0, len(telling), _AT_ONCE):
            await asyncio.gather(*(self._tell(w, beat) for w in telling[at : at + _AT_ONCE]))

    async def _tell(self, workspace: _Workspace, beat: bool) -> None:
        async with workspace.lock:
            try:
                await self._exchange(workspace.book, workspace.book.ask_in_passing(beat), {})
            except MailyError as error:
                self._failed += 1
                _log.warning("budgets.not_told", code=error.code)

    def statistics(self) -> dict[str, int]:
        books = [w.book.statistics for w in self._workspaces.values()]
        return {
            "workspaces": len(books),
            "reserved": sum(book.reserved for book in books),
            "refused": sum(book.refused for book in books),
            "exchanges": sum(book.exchanges for book in books),
            "calls": self._usage.calls,
            "batches": self._flushed,
            "failures": self._failed,
        }

    async def _write_ledger(self) -> None:
        if self._unsent is None:
            # In one step of the loop: what is taken from the books is what the batch holds.
            self._unsent = self._usage.take()
            self._unsent_holds = [
                (w.book, taken) for w in self._workspaces.values() if (taken := w.book.take_fresh())
            ]
        if self._unsent is None:
            return
        batch = self._unsent
        try:
            await self._store.add(batch.id, batch.spent, batch.tasks)
        except MailyError as error:
            self._failed += 1  # it is sent again, under the same id
            _log.warning("budgets.ledger", code=error.code)
            return
        for book, taken in self._unsent_holds:
            book.committed(taken)
        self._unsent, self._unsent_holds = None, []
        self._flushed += 1

    async def _exchange(
        self, book: Book, asks: list[tuple[Hold, Ask]], amounts: dict[Hold, int]
    ) -> None:
        """Ask, and ask again with the ledger's sum where the counter wants it."""
        for _ in range(3):
            if not asks:
                return
            try:
                grants = await self._counters.exchange(
                    book.workspace_id, book.holder, [ask for _, ask in asks]
                )
            except BaseException:
                for hold, _ in asks:
                    book.unanswered(hold)
                raise
            again = [
                hold
                for (hold, ask), grant in zip(asks, grants, strict=True)
                if book.answered(hold, ask, grant, amounts.get(hold, 0))
            ]
            for hold in again:
                hold.seed = await self._store.spent(book.workspace_id, hold.counter, hold.window)
            asks = book.ask_for(Short(tuple((hold, amounts.get(hold, 0)) for hold in again)))

    async def _load(self, workspace_id: UUID) -> _Workspace:
        """Many first calls at once read once."""
        task = self._loading.get(workspace_id)
        if task is None:
            task = self._loading[workspace_id] = asyncio.create_task(self._first(workspace_id))
            task.add_done_callback(lambda done: self._loaded(workspace_id, done))
        return await asyncio.shield(task)

    def _loaded(self, workspace_id: UUID, done: asyncio.Task[_Workspace]) -> None:
        self._loading.pop(workspace_id, None)
        if not done.cancelled():
            done.exception()  # read: its waiters may have left

    async def _first(self, workspace_id: UUID) -> _Workspace:
        read_at = self._clock.monotonic()
        book = Book(workspace_id, self._holder, self._clock)
        book.set_budgets(await self._store.list(workspace_id))
        workspace = self._workspaces[workspace_id] = _Workspace(book, read_at)
        if len(self._workspaces) > MAX_WORKSPACES:
            idle = next((id for id, w in self._workspaces.items() if not w.book.holds), None)
            if idle is not None:
                del self._workspaces[idle]
        return workspace

    async def _read_again(self, workspace: _Workspace) -> None:
        try:
            read_at = self._clock.monotonic()
            workspace.book.set_budgets(await self._store.list(workspace.book.workspace_id))
            workspace.read_at = read_at
        except MailyError as error:  # the old limits hold on
            workspace.read_at = self._clock.monotonic()
            _log.warning("budgets.limits", code=error.code)
        finally:
            workspace.reading = None
