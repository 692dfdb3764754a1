"""What a route leads to: one engine, how it is reached, and what is known of it here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Protocol

import orjson

from mesh.core.errors import EngineError
from mesh.llm.engine import Engine, Wire
from mesh.llm.pacing import sse_frames

PrefixStyle = Literal["prefill", "continue_final_message", "none"]


class Backend(Protocol):
    """How an engine is reached. Errors are those of ``mesh.llm.engine.Engine``; closing a stream
    or cancelling the awaiting task frees the engine's slot."""

    def frames(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """An answer as whole SSE frames (``data: {…}``), several at once, without ``[DONE]``.

        It begins with a comment, the name of the replica that has taken the request
        (``: name``), together with the first frames or before them. Empty ``bytes`` say that the
        request has its slot, or that a long prompt makes progress. ``avoid``: a replica that
        shall not be asked, where there are others.
        """
        ...

    async def answer(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> Wire:
        """A whole ``chat.completion`` or ``text_completion``."""
        ...


class Embed(Protocol):
    async def __call__(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """One engine of a route."""

    name: str
    """Of the engine, as the settings call it; its breaker has the same."""
    backend: Backend
    model: str
    """Id that the engine answers to; requests get it in place of the route's name."""
    context_tokens: int = 2_048
    """A prompt that is too long for one engine goes to the next with more."""
    replicas: int = 1
    """With more than one, a peer takes over at once."""
    prefix: PrefixStyle = "prefill"
    """How an answer that broke off is gone on with here."""


class EngineBackend:
    """An engine of this process as a Backend."""

    def __init__(self, engine: Engine, name: str = "local") -> None:
        self.engine = engine
        self._name = name

    async def frames(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        yield taken_by(self._name)
        wire = body | {"stream": True}
        async with aclosing(self.engine.stream_raw(wire, chat=chat, timeout_s=timeout_s)) as bursts:
            async for burst in bursts:
                yield sse_frames(burst) if burst else b""

    async def answer(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> Wire:
        ask = self.engine.chat if chat else self.engine.complete
        return await ask(body, timeout_s=timeout_s)


def taken_by(replica: str) -> bytes:
    """What a backend's frames begin with."""
    return b": %s\n\n" % replica.encode()


def chunks_of(frames: bytes) -> list[Wire]:
    """The chunks in whole SSE frames. Raises EngineError where one is no JSON object."""
    chunks: list[Wire] = []
    for frame in frames.split(b"\n\n"):
        if not frame.startswith(b"data: "):
            continue
        try:
            chunk = orjson.loads(frame[6:])
        except orjson.JSONDecodeError as error:
            raise EngineError("the engine sent something that is not JSON") from error
        if not isinstance(chunk, dict):
            raise EngineError("the engine sent something that is no object")
        chunks.append(chunk)
    return chunks
