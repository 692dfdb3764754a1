"""A model that is no model: deterministic, instant, and as faulty as a test wishes.

It answers from a script, else from the request itself (same request and seed, same text), obeys
``response_format`` and ``tools``, and fails by plan. It ships with the package so that users can
test their agents on a laptop without a model.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    MailyError,
    Overloaded,
    Unavailable,
    UnknownModel,
)
from mesh.llm.admission import Admission
from mesh.llm.assemble import assemble_chat, assemble_completion
from mesh.llm.engine import EngineInfo, Wire
from mesh.llm.fake_schema import instance_of

Script = Callable[[Wire], "str | dict[str, Any] | MailyError"]
"""Called with the request's body; a dict is answered as JSON, an error is raised."""

_WORDS = tuple(
    re.findall(
        r"\w+",
        "our spring sale opens today with fresh colours soft leather and honest prices you will "
        "find boots sandals and sneakers made to last come in look around and take your time",
    )
)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What goes wrong. Counts are of requests, positions of tokens, from 1."""

    refuse_first: int = 0
    """So many requests get Overloaded before one is let in."""
    fail_first: int = 0
    """So many requests fail with EngineError before their first token."""
    die_at_token: int | None = None
    """Every stream ends with EngineError instead of this token."""
    hang_at_token: int | None = None
    """Every stream waits at this token until it is cancelled or its deadline passes."""
    token_delay_s: float = 0.0
    """Seconds before each token."""
    unavailable: bool = False
    """Nothing answers at all."""


class FakeEngine:
    """An Engine. Tokens are words with the blank before them."""

    def __init__(
        self,
        script: Script | Sequence[str | dict[str, Any] | MailyError] | None = None,
        faults: FaultPlan = FaultPlan(),
        *,
        model_id: str = "fake",
        slots: int = 8,
        queue_limit: int = 64,
        context_tokens: int = 2_048,
        dimensions: int = 16,
    ) -> None:
        self.faults = faults
        self.bodies: list[Wire] = []
        """Every request that was let in, oldest first."""
        self._script = script if callable(script) or script is None else _in_turn(script)
        self._info = EngineInfo("fake", (model_id,), context_tokens, slots, dimensions)
        self._admission = Admission(slots, queue_limit)
        self._tokens = 0
        self._cancelled = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def stream_chat(self, body: Wire, *, timeout_s: float) -> AsyncIterator[Wire]:
        async with aclosing(self._stream(body, chat=True, timeout_s=timeout_s)) as stream:
            async for chunk in stream:
                yield chunk

    async def chat(self, body: Wire, *, timeout_s: float) -> Wire:
        wire = body | {"stream": True, "stream_options": {"include_usage": True}}
        return assemble_chat(
            [chunk async for chunk in self._stream(wire, chat=True, timeout_s=timeout_s)]
        )

    async def stream_completion(self, body: Wire, *, timeout_s: float) -> AsyncIterator[Wire]:
        async with aclosing(self._stream(body, chat=False, timeout_s=timeout_s)) as stream:
            async for chunk in stream:
                yield chunk

    async def complete(self, body: Wire, *, timeout_s: float) -> Wire:
        wire = body | {"stream": True, "stream_options": {"include_usage": True}}
        return assemble_completion(
            [chunk async for chunk in self._stream(wire, chat=False, timeout_s=timeout_s)]
        )

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        self._alive()
        return [fake_embedding(text, self._info.embedding_dimensions or 1) for text in texts]

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": self._admission.active,
            "queued": self._admission.queued,
            "slots": self._info.slots,
            "refused": self._admission.refused,
            "requests": len(self.bodies),
            "tokens_generated": self._tokens,
            "cancelled": self._cancelled,
            "tokens_after_cancel": 0,
        }

    async def check(self) -> None:
        self._alive()

    async def aclose(self) -> None:
        self._admission.close()

    async def _stream(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[Wire, None]:
        self._alive()
        self._check(body, chat=chat)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        async with self._admission.slot(timeout_s):
            self.bodies.append(body)
            self._fail_first()
            text = self._answer(body)
            done = False
            try:
                chunks = self._chunks(body, text, chat=chat)
                while True:
                    # Per chunk: a timeout around a yield would cancel whichever task asked first.
                    try:
                        async with asyncio.timeout_at(deadline):
                            chunk = await anext(chunks)
                    except StopAsyncIteration:
                        break
                    yield chunk
                done = True
            except TimeoutError as exc:
                done = True
                raise DeadlineExceeded("the deadline passed while generating") from exc
            except EngineError:
                done = True
                raise
            finally:
                self._cancelled += not done

    async def _chunks(self, body: Wire, text: str, *, chat: bool) -> AsyncGenerator[Wire, None]:
        tokens = re.findall(r"\s*\S+|\s+$", text)
        limit = body.get("max_tokens") or self._info.context_tokens
        finish = "length" if len(tokens) > limit else "stop"
        shape = _Shape(body, chat, self._info.models[0])
        if chat:
            yield shape.chunk(delta={"role": "assistant", "content": None})
        sent = 0
        for number, token in enumerate(tokens[:limit], 1):
            if number == self.faults.die_at_token:
                raise EngineError(f"the fake engine died at token {number}, as planned")
            if number == self.faults.hang_at_token:
                await asyncio.Event().wait()
            await asyncio.sleep(self.faults.token_delay_s)
            self._tokens += 1
            sent = number
            yield shape.chunk(delta={"content": token}, text=token)
        call = _tool_call(body, text) if chat else None
        if call is not None:
            yield shape.chunk(delta={"tool_calls": [call]})
            finish = "tool_calls"
        yield shape.chunk(delta={}, finish=finish)
        if (body.get("stream_options") or {}).get("include_usage"):
            yield shape.usage(prompt=_prompt_tokens(body), completion=sent)

    def _alive(self) -> None:
        if self.faults.unavailable:
            raise Unavailable("the fake engine is down, as planned", retry_after_s=1.0)

    def _fail_first(self) -> None:
        if self.faults.refuse_first > 0:
            self.faults = replace(self.faults, refuse_first=self.faults.refuse_first - 1)
            raise Overloaded("the fake engine is full, as planned", retry_after_s=1.0)
        if self.faults.fail_first > 0:
            self.faults = replace(self.faults, fail_first=self.faults.fail_first - 1)
            raise EngineError("the fake engine failed, as planned")

    def _check(self, body: Wire, *, chat: bool) -> None:
        if body.get("model", self._info.models[0]) not in self._info.models:
            raise UnknownModel(f"there is no model {body['model']!r} here", {"field": "model"})
        tokens = _prompt_tokens(body)
        if tokens >= self._info.context_tokens:
            raise InvalidInput(
                f"the prompt has {tokens} tokens; this model reads at most "
                f"{self._info.context_tokens}, the answer included",
                {
                    "field": "messages" if chat else "prompt",
                    "prompt_tokens": tokens,
                    "context_tokens": self._info.context_tokens,
                },
            )

    def _answer(self, body: Wire) -> str:
        if self._script is not None:
            scripted = self._script(body)
            if isinstance(scripted, MailyError):
                raise scripted
            text = scripted if isinstance(scripted, str) else json.dumps(scripted)
        else:
            text = _made_up(body)
        stops = body.get("stop") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop, 1)[0]
        return text


class _Shape:
    """OpenAI's chunk objects for one stream."""

    def __init__(self, body: Wire, chat: bool, model: str) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{_digest(body)[:24]}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1_700_000_000,
            "model": model,
        }

    def chunk(self, *, delta: Wire, text: str = "", finish: str | None = None) -> Wire:
        choice: Wire = {"index": 0, "finish_reason": finish}
        choice |= {"delta": delta} if self._chat else {"text": text, "logprobs": None}
        return self._head | {"choices": [choice]}

    def usage(self, *, prompt: int, completion: int) -> Wire:
        return self._head | {
            "choices": [],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }


def fake_embedding(text: str, dimensions: int) -> list[float]:
    """Unit length, the same for the same text."""
    values = [
        int.from_bytes(hashlib.sha256(f"{i}:{text}".encode()).digest()[:4]) / 2**31 - 1
        for i in range(dimensions)
    ]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]


def _in_turn(answers: Sequence[str | dict[str, Any] | MailyError]) -> Script:
    """One answer a request; the last one repeats."""
    left: Iterator[str | dict[str, Any] | MailyError] = iter(answers)
    last: list[str | dict[str, Any] | MailyError] = []

    def script(body: Wire) -> str | dict[str, Any] | MailyError:
        last[:] = [next(left, last[0] if last else "")]
        return last[0]

    return script


def _made_up(body: Wire) -> str:
    """Words or JSON that depend on the request and its seed alone."""
    seed = int(_digest(body)[:8], 16)
    format_ = body.get("response_format") or {}
    if format_.get("type") == "json_schema":
        return json.dumps(instance_of(format_["json_schema"]["schema"], seed))
    if format_.get("type") == "json_object":
        return json.dumps({"text": _WORDS[seed % len(_WORDS)]})
    if _wanted_tool(body):
        return ""
    return " ".join(_WORDS[(seed + i * 7) % len(_WORDS)] for i in range(12)) + "."


def _wanted_tool(body: Wire) -> Wire | None:
    choice = body.get("tool_choice")
    tools: list[Wire] = body.get("tools") or []
    if isinstance(choice, dict):
        return next((t for t in tools if t["function"]["name"] == choice["function"]["name"]), None)
    return tools[0] if choice == "required" and tools else None


def _tool_call(body: Wire, text: str) -> Wire | None:
    tool = _wanted_tool(body)
    if tool is None:
        return None
    function = tool["function"]
    arguments = instance_of(function.get("parameters") or {"type": "object"}, len(text))
    return {
        "index": 0,
        "id": f"call_{_digest(body)[:16]}",
        "type": "function",
        "function": {"name": function["name"], "arguments": json.dumps(arguments)},
    }


def _prompt_tokens(body: Wire) -> int:
    said = body.get("messages") or body.get("prompt") or ""
    return len(json.dumps(said).split())


def _digest(body: Wire) -> str:
    kept = {k: body.get(k) for k in ("messages", "prompt", "seed", "response_format", "tools")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
