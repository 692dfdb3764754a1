"""One call of one engine, watched phase by phase: taken, a slot, the first token, each next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from mesh.core.errors import DeadlineExceeded, EngineError, MailyError, Unavailable
from mesh.llm.routing.journal import begins
from mesh.llm.routing.options import RoutingOptions
from mesh.llm.routing.state import TargetState
from mesh.llm.routing.watch import Watch
from mesh.resilience.breaker import Permit


class PhaseTimeout(EngineError):
    """The engine was silent for too long."""


class Attempt:
    """``first``, then ``next`` until it gives nothing, then ``aclose``, whatever happens.

    Each may run in another task than the one before. Closing frees the engine's slot.
    """

    def __init__(
        self,
        state: TargetState,
        permit: Permit,
        kind: str,
        stream: AsyncGenerator[bytes, None],
        options: RoutingOptions,
        deadline: float,
    ) -> None:
        """``deadline``: of the loop's clock."""
        self.state = state
        self.tried = state.tried(kind)
        self.replica: str | None = None
        """Which has taken it."""
        self.started = asyncio.get_running_loop().time()
        self._permit = permit
        self._stream = stream
        self._options = options
        self._watch = Watch(asyncio.get_running_loop(), deadline)
        self._between_s = options.between_tokens_s
        self._moved_on = False
        self._closed = False
        state.active += 1

    async def first(self, may_leave: bool) -> bytes:
        """The frames up to the first token: that alone shows that the engine works. ``may_leave``:
        give up queueing when the breaker opens meanwhile.

        Raises what the engine raises, PhaseTimeout, or DeadlineExceeded.
        """
        key = id(self)
        if may_leave:
            self.state.waiting[key] = self._leave
        try:
            item = await self._next(self._options.connect_s, "connect")
            if item.startswith(b": "):
                name, _, item = item.partition(b"\n\n")
                self.replica = name[2:].decode()
                item = item or await self._next(None, "queue")
            self.state.waiting.pop(key, None)
            held = b""
            while True:
                if item:
                    held += _sound(item)
                    if begins(_sound(item)):
                        break
                item = await self._next(self._options.first_token_s, "first_token")
        finally:
            self.state.waiting.pop(key, None)
        self.tried.ttft_s = asyncio.get_running_loop().time() - self.started
        self._permit.well()
        return held

    async def next(self) -> bytes:
        """The next frames; empty: it has ended. Errors as ``first``."""
        watch = self._watch
        while True:
            watch.begin(self._between_s)
            try:
                item = await anext(self._stream)
            except StopAsyncIteration:
                return b""
            except asyncio.CancelledError:
                if watch.caught():
                    raise self._late("between_tokens") from None
                raise
            finally:
                watch.end()
            if item:
                return _sound(item)

    def failed(self, error: BaseException, *, counts: bool) -> None:
        """``counts``: it speaks against the engine."""
        self.tried.outcome = "failed"
        self.tried.error = error.code if isinstance(error, MailyError) else type(error).__name__
        if not counts:
            self._permit.release()
        elif self.state.news(self.replica, self.started, asyncio.get_running_loop().time()):
            self._permit.badly()
        else:
            self._permit.void()

    def succeeded(self) -> None:
        self.tried.outcome = "ok"

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.tried.seconds = asyncio.get_running_loop().time() - self.started
        self.state.active -= 1
        self.state.count(self.tried)
        self._permit.release()
        self._watch.close()
        await self._stream.aclose()

    async def _next(self, limit_s: float | None, phase: str) -> bytes:
        watch = self._watch
        watch.begin(limit_s)
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            raise EngineError("the engine gave no answer") from None
        except asyncio.CancelledError:
            if watch.caught():
                raise self._late(phase) from None
            raise
        finally:
            watch.end()

    def _leave(self) -> None:
        self._moved_on = True
        self._watch.fire()

    def _late(self, phase: str) -> MailyError:
        if self._moved_on:
            return LeftQueue("the engine fails for others; its queue was left")
        if self._watch.passed():
            return DeadlineExceeded("the deadline passed while generating", {"phase": phase})
        return PhaseTimeout(
            f"the engine {_SILENT[phase]} in time",
            {"phase": phase, "engine": self.state.target.name},
        )


class LeftQueue(Unavailable):
    """The attempt ended because its engine's breaker opened; no sign against the engine."""


_SILENT = {
    "connect": "did not take the request",
    "queue": "gave no slot",
    "first_token": "gave no first token",
    "between_tokens": "gave no further token",
}


def _sound(item: bytes) -> bytes:
    """Whole frames look like this at both ends; reading what is between would cost too much."""
    if item.startswith(b"data: {") and item.endswith(b"}\n\n"):
        return item
    raise EngineError("the engine sent something that is no frame")
