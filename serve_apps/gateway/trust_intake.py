"""A streaming body of messages into a batch: a few pages on their way, the client waits for them.

A page is committed whole or not at all, and pages are begun in order. Whatever ends the stream
(a line that is wrong, a client that left, a part that is away), every line that came before it is
taken in first, and the error says how many lines are kept. Sending the same again repeats nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import ValidationError

from mesh.contracts.trust import MAX_LINES, CertificateLine, NewMessage
from mesh.core import metrics
from mesh.core.errors import InvalidInput, MailyError
from mesh.trust.client import Rolling, TrustClient
from serve_apps.gateway.answers import from_validation
from serve_apps.gateway.body import parse_json
from serve_apps.gateway.lines import Line, LineReader

_AT_ONCE = 32
"""Lines that are parsed before others of this loop get their turn."""
_WAIT_S, _MOST_S = 0.1, 2.0
"""Before a page is sent again: at first, and after many times."""


@dataclass(slots=True)
class Taken:
    """What became of a stream."""

    lines: int = 0
    """Messages of the stream that are kept now, however often they were sent."""
    repeated: int = 0
    """Of them, those that were there already."""
    certificates: list[CertificateLine] | None = field(default_factory=list)
    """In the order of the stream; None once they are too many to tell."""
    most_pages: int = 0
    """On their way at once, at most."""


_Outcome = tuple[list[CertificateLine], MailyError | None]
"""Of a page: what is kept of it, and what stood in the way of the rest."""


@dataclass(frozen=True, slots=True)
class IntakeOptions:
    pages: int = 4
    """On their way at once."""
    page_timeout_s: float = 60.0
    """For one page to be committed, however often it is sent."""
    max_depth: int = 32
    """Of a line's JSON."""
    told: int = MAX_LINES
    """So many certificates are told at once, at most."""


Opening = Callable[[], Awaitable[UUID | Rolling]]


class Intake:
    """One stream into one batch, which is opened with the first message that can be read.
    ``taken`` is right after ``run`` has ended, however it did."""

    def __init__(
        self,
        client: TrustClient,
        workspace: UUID,
        opening: Opening,
        options: IntakeOptions,
    ) -> None:
        self._client = client
        self._workspace = workspace
        self._opening = opening
        self._options = options
        self.batch: UUID | Rolling | None = None
        self._under_way: deque[asyncio.Task[_Outcome]] = deque()
        self.taken = Taken()

    async def run(self, reader: LineReader) -> Taken:
        """Until the body ends. Raises what ended it before, with ``details["kept"]``."""
        error: MailyError | None = None
        try:
            while True:
                page = await reader.page()
                if not page:
                    break
                messages, wrong = await self._parse(page)
                if messages:
                    if self.batch is None:
                        self.batch = await self._opening()
                    # Messages that show their own place go in one page after the other.
                    placed = any(message.certificate is not None for message in messages)
                    while len(self._under_way) >= (1 if placed else self._options.pages):
                        await self._settle_first()
                    self._begin(self.batch, messages, page[0][0])
                if wrong is not None:
                    raise wrong
            while self._under_way:
                await self._settle_first()
        except MailyError as caught:
            error = caught
        except BaseException:
            await self._drop()
            raise
        if error is not None:
            raise self._told(await self._settle_all(error))
        return self.taken

    async def _parse(self, page: Sequence[Line]) -> tuple[list[NewMessage], InvalidInput | None]:
        """The messages up to the first wrong line, and what is wrong with that."""
        messages: list[NewMessage] = []
        for at, (number, line) in enumerate(page):
            if at % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            try:
                messages.append(read_line(line, self._options.max_depth))
            except InvalidInput as error:
                return messages, _of_line(error, number)
        return messages, None

    def _begin(
        self, batch: UUID | Rolling, messages: Sequence[NewMessage], first_line: int
    ) -> None:
        self._under_way.append(asyncio.ensure_future(self._take(batch, messages, first_line)))
        self.taken.most_pages = max(self.taken.most_pages, len(self._under_way))

    async def _take(
        self, batch: UUID | Rolling, messages: Sequence[NewMessage], first_line: int
    ) -> _Outcome:
        """A page with a line that can't be taken goes in without that line and what follows."""
        try:
            return await self._add(batch, messages, first_line), None
        except MailyError as error:
            before = _line(error) - first_line
            if not 0 < before < len(messages):
                return [], error
            try:
                return await self._add(batch, messages[: int(before)], first_line), error
            except MailyError as other:
                return [], other

    async def _add(
        self, batch: UUID | Rolling, messages: Sequence[NewMessage], first_line: int
    ) -> list[CertificateLine]:
        """Patient: an owner that dies is replaced within seconds, one that is busy has room soon,
        and a page may be sent again."""
        now = asyncio.get_running_loop().time
        until = now() + self._options.page_timeout_s
        wait_s = _WAIT_S
        while True:
            try:
                return await self._client.add(
                    self._workspace,
                    batch,
                    messages,
                    first_line=first_line,
                    timeout_s=until - now(),
                )
            except MailyError as error:
                pause_s = min(_MOST_S, max(wait_s, error.retry_after_s or 0.0))
                if not error.retryable or now() + pause_s >= until:
                    raise
            await asyncio.sleep(pause_s)
            wait_s *= 2

    async def _settle_first(self) -> None:
        lines, error = await self._under_way.popleft()
        self._count(lines)
        if error is not None:
            raise error

    async def _settle_all(self, error: MailyError) -> MailyError:
        """Wait for what is under way. Of several errors the one of the first line counts."""
        while self._under_way:
            try:
                await self._settle_first()
            except MailyError as other:
                if _line(other) < _line(error):
                    error = other
        return error

    async def _drop(self) -> None:
        """Somebody cancels this request: nobody waits for what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()

    def _count(self, lines: Sequence[CertificateLine]) -> None:
        repeated = sum(line.repeated for line in lines)
        self.taken.lines += len(lines)
        self.taken.repeated += repeated
        metrics.TRUST_LINES.labels("new").inc(len(lines) - repeated)
        metrics.TRUST_LINES.labels("repeated").inc(repeated)
        told = self.taken.certificates
        if told is not None:
            fits = len(told) + len(lines) <= self._options.told
            self.taken.certificates = [*told, *lines] if fits else None

    def _told(self, error: MailyError) -> MailyError:
        """The error with what is kept all the same."""
        details = {**error.details, "kept": self.taken.lines}
        if self.batch is not None:
            details["batch"] = str(self.batch)
        return type(error)(error.message, details, error.retry_after_s)


def read_line(line: bytes, max_depth: int) -> NewMessage:
    """Raises InvalidInput that names the field."""
    data = parse_json(line, max_depth)
    if not isinstance(data, dict):
        raise InvalidInput("must be a JSON object", {"field": "line"})
    try:
        return NewMessage.model_validate_json(line, strict=True)
    except ValidationError as error:
        raise from_validation(error, data) from None


def _of_line(error: InvalidInput, number: int) -> InvalidInput:
    """The same kind of error, that names the line first."""
    field = str(error.details.get("field", ""))
    where = f"line {number}" if field in ("", "body", "line") else f"line {number}: {field}"
    details = {**error.details, "field": where, "line": number}
    return type(error)(f"line {number}: {error.message}", details)


def _line(error: MailyError) -> float:
    line = error.details.get("line")
    return line if isinstance(line, int) else float("inf")
