"""A body of lines that never ends, read a page at a time: as much is held as the reader asked for.

Nothing is read ahead of ``page``: while its caller is busy with what it has, the client is made to
wait by the connection itself. So a body of a million messages takes the memory of a page.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from starlette.types import Message, Receive

from mesh.core.errors import BodyTooLarge, Cancelled, DeadlineExceeded, MailyError

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LineLimits:
    line_bytes: int
    """A longer line ends the reading."""
    page_lines: int = 1_024
    page_bytes: int = 4_194_304
    """A page ends with the line that reaches this."""
    age_s: float = 1.0
    """A page that is not full is given out so long after its first line came …"""
    silence_s: float = 60.0
    """… and the reading ends when nothing came for so long."""


Line = tuple[int, bytes]
"""Its number in the body, from 1, and what it says. Empty lines have a number and no more."""


class LineReader:
    """Belongs to one request; ``aclose`` it."""

    def __init__(self, receive: Receive, limits: LineLimits) -> None:
        self._receive = receive
        self._limits = limits
        self._ready: deque[Line] = deque()
        self._ready_bytes = 0
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._number = 0
        self._pending: asyncio.Task[Message] | None = None
        self._ended = False
        self._error: MailyError | None = None
        self.bytes = 0
        """Read so far."""
        self.most_bytes = 0
        """Held at once, at most."""

    @property
    def ended(self) -> bool:
        """Whether all of the body was read."""
        return self._ended

    async def page(self) -> list[Line]:
        """The next lines, in order; none: the body has ended.

        Raises, once every line before has been given out: BodyTooLarge (a line is), Cancelled (the
        client has left), DeadlineExceeded (it was silent).
        """
        limits = self._limits
        now = asyncio.get_running_loop().time
        due = now() + limits.age_s
        while not (self._ended or self._error is not None or self._full()):
            if not self._ready:
                due = now() + limits.age_s
            message = await self._next(due - now() if self._ready else limits.silence_s)
            if message is not None:
                self._take(message)
            elif self._ready:
                break
            else:
                self._error = self._silent()
        if not self._ready and self._error is not None:
            raise self._error
        return self._cut()

    async def skip(self) -> None:
        """Read the rest and keep nothing of it. Raises Cancelled, DeadlineExceeded."""
        self._ready.clear()
        self._ready_bytes = 0
        while not self._ended:
            message = await self._next(self._limits.silence_s)
            if message is None:
                raise self._silent()
            if message["type"] == "http.disconnect":
                raise Cancelled("The client left while sending its body")
            self.bytes += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)

    async def aclose(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
            self._pending = None

    def _silent(self) -> DeadlineExceeded:
        silence_s = self._limits.silence_s
        return DeadlineExceeded(f"Nothing came for {silence_s:g} s", {"timeout_s": silence_s})

    def _full(self) -> bool:
        limits = self._limits
        return len(self._ready) >= limits.page_lines or self._ready_bytes >= limits.page_bytes

    async def _next(self, wait_s: float) -> Message | None:
        """None: nothing came. The waiting goes on where it was: a receive is not given up, for
        not every server can take that back."""
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._receive())
        done, _ = await asyncio.wait({self._pending}, timeout=max(0.0, wait_s))
        if not done:
            return None
        message = self._pending.result()
        self._pending = None
        return message

    def _take(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._error = Cancelled("The client left while sending its body")
            return
        data: bytes = message.get("body", b"")
        self.bytes += len(data)
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._rest.append(piece)
            self._rest_bytes += len(piece)
            self._end_line()
            if self._error is not None:
                return
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
        if not message.get("more_body", False):
            self._ended = True
            if self._rest:
                self._end_line()
        elif self._rest_bytes > self._limits.line_bytes:
            self._number += 1
            self._too_long()
        self.most_bytes = max(self.most_bytes, self._ready_bytes + self._rest_bytes)

    def _end_line(self) -> None:
        line = b"".join(self._rest)
        self._rest, self._rest_bytes = [], 0
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(BOM)
        line = line.strip(b" \t\r")
        if len(line) > self._limits.line_bytes:
            self._too_long()
        elif line:
            self._ready.append((self._number, line))
            self._ready_bytes += len(line)

    def _too_long(self) -> None:
        self._rest, self._rest_bytes = [], 0
        self._error = BodyTooLarge(
            f"Line {self._number} is longer than {self._limits.line_bytes} bytes",
            {
                "field": f"line {self._number}",
                "line": self._number,
                "limit_bytes": self._limits.line_bytes,
            },
        )

    def _cut(self) -> list[Line]:
        """A page's numbers have no gap, so that its first tells all of them."""
        limits, page, size = self._limits, list[Line](), 0
        while self._ready and len(page) < limits.page_lines and size < limits.page_bytes:
            number, line = self._ready[0]
            if page and number != page[-1][0] + 1:
                break
            page.append(self._ready.popleft())
            size += len(line)
        self._ready_bytes -= size
        return page
