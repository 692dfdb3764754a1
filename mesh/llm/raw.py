"""What follows from an engine's raw stream: parsed streams and whole answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import orjson

from mesh.core.errors import EngineError
from mesh.llm.assemble import assemble_chat, assemble_completion
from mesh.llm.engine import Wire


class RawStreams(ABC):
    """The greater part of an Engine, for those that have ``stream_raw``."""

    @abstractmethod
    def stream_raw(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[list[bytes], None]: ...

    async def stream_chat(self, body: Wire, *, timeout_s: float) -> AsyncIterator[Wire]:
        async with aclosing(self.stream_raw(body, chat=True, timeout_s=timeout_s)) as raw:
            async for burst in raw:
                for chunk in burst:
                    yield _parsed(chunk)

    async def stream_completion(self, body: Wire, *, timeout_s: float) -> AsyncIterator[Wire]:
        async with aclosing(self.stream_raw(body, chat=False, timeout_s=timeout_s)) as raw:
            async for burst in raw:
                for chunk in burst:
                    yield _parsed(chunk)

    async def chat(self, body: Wire, *, timeout_s: float) -> Wire:
        return assemble_chat(await self._collect(body, chat=True, timeout_s=timeout_s))

    async def complete(self, body: Wire, *, timeout_s: float) -> Wire:
        return assemble_completion(await self._collect(body, chat=False, timeout_s=timeout_s))

    async def _collect(self, body: Wire, *, chat: bool, timeout_s: float) -> list[Wire]:
        """A request always runs as a stream inside, so that a unary call can be cancelled at any
        token as well."""
        wire = body | {"stream": True, "stream_options": {"include_usage": True}}
        async with aclosing(self.stream_raw(wire, chat=chat, timeout_s=timeout_s)) as raw:
            return [_parsed(chunk) async for burst in raw for chunk in burst]


def _parsed(chunk: bytes) -> Wire:
    try:
        wire: Wire = orjson.loads(chunk)
    except orjson.JSONDecodeError as error:
        raise EngineError("the engine sent something that is not JSON") from error
    return wire
