"""``maily trust certify``: a source of messages into a batch, in pieces that can be sent again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from uuid import uuid4

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.cli.console import err
from cluster.client import Refused
from cluster.failures import UNHEALTHY, USAGE, Failure
from cluster.mailboxes import Item, items, size_of

if TYPE_CHECKING:
    from cluster.client import TaskClient

PIECE_LINES = 1_024
PIECE_BYTES = 4_000_000
"""Of one request: what is sent again when it breaks off. The gateway tells the certificates of so
many lines in its answer, and takes so many bytes as one page."""
PIECE_S = 300.0
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be certified, and into what."""

    sources: tuple[str, ...]
    recipient: str | None = None
    """Of every message; None: the first address in its To."""
    name: str = ""
    rolling: bool = False
    close: bool = True
    key: str | None = None
    lines_to: str | None = None
    """A file for the certificates' ids, a line each."""


class Certifying:
    """One run. Each piece may be sent twice and is taken once; with ``key`` a whole run may."""

    def __init__(self, client: TaskClient, plan: Plan, *, quiet: bool) -> None:
        self._client = client
        self._plan = plan
        self._quiet = quiet
        self._messages = self._repeated = 0

    def run(self) -> dict[str, Any]:
        """``batch`` (None of a rolling one), ``messages``, ``repeated``, ``certificates`` (of few).
        Raises Failure."""
        plan = self._plan
        source = chain.from_iterable(items(one, plan.recipient) for one in plan.sources)
        # Before a batch is opened for nothing.
        first = next(source, None)
        if first is None:
            named = ", ".join(plan.sources[:3])
            raise Failure(f"there is no message in {named}", "nothing was certified", USAGE)
        batch = None if plan.rolling else self._open()
        place = "rolling" if batch is None else batch["id"]
        told: list[dict[str, Any]] = []
        with ExitStack() as stack:
            lines_to = self._target(stack)
            progress = stack.enter_context(self._progress())
            bar = progress.add_task("certifying", total=self._total(), count=0)
            for piece in pieces(first, source):
                lines = self._send(place, piece)
                progress.update(bar, advance=sum(item.read for item in piece), count=self._messages)
                if lines_to is not None:
                    lines_to.writelines(json.dumps(line) + "\n" for line in lines)
                if len(told) < PIECE_LINES:
                    told += lines[: PIECE_LINES - len(told)]
        if batch is not None:
            path = f"/v1/trust/batches/{place}"
            batch = self._client.call(*(("POST", f"{path}/close") if plan.close else ("GET", path)))
        return {
            "batch": batch,
            "messages": self._messages,
            "repeated": self._repeated,
            "certificates": told if len(told) == self._messages else None,
        }

    def _open(self) -> dict[str, Any]:
        from urllib.parse import urlencode

        query = urlencode({"name": self._plan.name, "close": "false"})
        key = self._plan.key or str(uuid4())
        answer = self._client.upload(f"/v1/trust/batches?{query}", b"", NDJSON, key=key)
        batch: dict[str, Any] = answer["batch"]
        return batch

    def _send(self, place: str, piece: list[Item]) -> list[dict[str, Any]]:
        body = b"".join(item.line for item in piece)
        path = f"/v1/trust/batches/{place}/messages"
        try:
            answer = self._client.upload(path, body, NDJSON, timeout_s=PIECE_S)
        except Refused as refused:
            raise self._wrong(refused, place, piece) from None
        self._messages += answer["lines"]
        self._repeated += answer["repeated"]
        lines: list[dict[str, Any]] = answer["certificates"]
        return lines

    def _wrong(self, refused: Refused, place: str, piece: list[Item]) -> Failure:
        """Names the message, as the user has it."""
        details = refused.answer.get("details") or {}
        line = details.get("line")
        kept = self._messages + int(details.get("kept") or 0)
        message = str(refused.answer.get("message") or refused)
        where = ""
        if isinstance(line, int) and 0 < line <= len(piece):
            where = f"{piece[line - 1].where}: "
            message = message.removeprefix(f"line {line}: ")
        code = USAGE if line is not None else UNHEALTHY
        again = "into the same batch" if place == "rolling" else f"with --key {self._plan.key}"
        if self._plan.key is None and place != "rolling":
            again = f"nothing is lost: batch {place} is open"
        else:
            again = f"correct it and run it again {again}: nothing is taken twice"
        return Failure(f"{where}{message} ({kept:,} messages before are kept)", again, code)

    def _target(self, stack: ExitStack) -> TextIO | None:
        if self._plan.lines_to is None:
            return None
        try:
            return stack.enter_context(Path(self._plan.lines_to).open("w", encoding="utf-8"))
        except OSError as error:
            raise Failure(
                f"{self._plan.lines_to} can't be written: {error.strerror}",
                "choose another file",
                USAGE,
            ) from None

    def _total(self) -> int | None:
        sizes = [size_of(source) for source in self._plan.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]:,} messages"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=self._quiet,
        )


def pieces(first: Item, rest: Iterator[Item]) -> Iterator[list[Item]]:
    """So many lines or bytes together."""
    piece, size = [first], len(first.line)
    for item in rest:
        if len(piece) == PIECE_LINES or size + len(item.line) > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += len(item.line)
    yield piece
