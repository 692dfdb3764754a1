"""What one step asked the models and what it read, collected without handing anything down.

Whoever calls a model or reads a memory notes it here; whoever runs a step opens a ledger around
it and keeps what was noted with the step. Outside a ledger every note is dropped: the gateway's
own requests need no journal. Tasks that a step starts share its ledger.

The lists are bounded. What comes after is folded into one last record, so that totals stay right
however long a step runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mesh.contracts.trace import CallRecord, ReadRecord
from mesh.core import metrics

MAX_CALLS = 200
MAX_READS = 200


class Ledger:
    """The notes of one step, oldest first."""

    def __init__(self, max_calls: int = MAX_CALLS, max_reads: int = MAX_READS) -> None:
        if min(max_calls, max_reads) < 2:
            raise ValueError("a ledger keeps at least two records of each kind")
        self._max_calls = max_calls
        self._max_reads = max_reads
        self._calls: list[CallRecord] = []
        self._reads: list[ReadRecord] = []

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        return tuple(self._calls)

    @property
    def reads(self) -> tuple[ReadRecord, ...]:
        return tuple(self._reads)

    def add_call(self, record: CallRecord) -> None:
        if len(self._calls) < self._max_calls:
            self._calls.append(record)
        else:
            self._calls[-1] = _fold(self._calls[-1], record)

    def add_read(self, record: ReadRecord) -> None:
        if len(self._reads) < self._max_reads:
            self._reads.append(record)
        else:
            last = self._reads[-1]
            self._reads[-1] = last.model_copy(update={"folded": last.folded + record.folded})

    def price(self, cost_micros: float, prompt_tokens: int, completion_tokens: int) -> bool:
        """Give the newest call of so many tokens that has no price yet this one.

        Calls of the same size cost the same, so it doesn't matter which of several it is. False:
        there is none.
        """
        for index in range(len(self._calls) - 1, -1, -1):
            call = self._calls[index]
            same = (call.prompt_tokens, call.completion_tokens) == (
                prompt_tokens,
                completion_tokens,
            )
            if call.cost_micros is None and same:
                self._calls[index] = call.model_copy(update={"cost_micros": cost_micros})
                return True
        return False

    def statistics(self) -> dict[str, int]:
        return {
            "calls": sum(call.folded for call in self._calls),
            "reads": sum(read.folded for read in self._reads),
        }


_LEDGER: ContextVar[Ledger | None] = ContextVar("maily_ledger", default=None)


@contextmanager
def ledger() -> Iterator[Ledger]:
    """Collect what is noted within the block (the innermost ledger gets it)."""
    opened = Ledger()
    token = _LEDGER.set(opened)
    try:
        yield opened
    finally:
        _LEDGER.reset(token)


def collecting() -> bool:
    """Whether anybody keeps what is noted now: a record that nobody keeps need not be made."""
    return _LEDGER.get() is not None


def note_call(record: CallRecord) -> None:
    """A model was called: by whoever knows which engine answered, once per call, at its end.

    Counted by the standard names, too, inside a ledger or not.
    """
    _observe(record)
    if (current := _LEDGER.get()) is not None:
        current.add_call(record)


def note_cost(cost_micros: float, *, prompt_tokens: int, completion_tokens: int) -> None:
    """What a call that was noted before has cost: by whoever settles it."""
    if (current := _LEDGER.get()) is not None:
        current.price(cost_micros, prompt_tokens, completion_tokens)


def note_read(record: ReadRecord) -> None:
    """Something was read (a memory, a tool's answer, an earlier step), or couldn't be."""
    if (current := _LEDGER.get()) is not None:
        current.add_read(record)


def _observe(record: CallRecord) -> None:
    names = (
        {"completion": "text_completion"}.get(record.operation, record.operation),
        "maily",
        metrics.bounded("model", record.model or record.requested),
    )
    error = record.error or ("" if record.outcome in ("ok", "cached") else record.outcome)
    metrics.GENAI_CLIENT_SECONDS.labels(*names, metrics.bounded("error_type", error)).observe(
        record.seconds
    )
    if record.ttft_s is not None:
        metrics.GENAI_CLIENT_FIRST_CHUNK.labels(*names).observe(record.ttft_s)
    tokens = metrics.GENAI_CLIENT_TOKENS
    if record.prompt_tokens:
        tokens.labels(*names, "input").observe(record.prompt_tokens)
    if record.completion_tokens:
        tokens.labels(*names, "output").observe(record.completion_tokens)


def _fold(last: CallRecord, more: CallRecord) -> CallRecord:
    costs = [cost for cost in (last.cost_micros, more.cost_micros) if cost is not None]
    return last.model_copy(
        update={
            "folded": last.folded + more.folded,
            "seconds": last.seconds + more.seconds,
            "prompt_tokens": last.prompt_tokens + more.prompt_tokens,
            "completion_tokens": last.completion_tokens + more.completion_tokens,
            "cost_micros": sum(costs) if costs else None,
            "tries": [],
        }
    )
