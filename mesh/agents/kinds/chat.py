"""One turn of a chat: asked, streamed into the step's stream, put together."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.agents.agent import StepContext
from mesh.agents.tools.schema import for_model
from mesh.core import metrics
from mesh.core.errors import DeadlineExceeded, EngineError
from mesh.core.tracing import current_traceparent
from mesh.llm.assemble import assemble_chat
from mesh.llm.engine import Wire

DEATHS = 3
"""Answers that may break off in a row before the error is the worker's."""
_GRACE_S = 1.0


class Sampling(Protocol):
    @property
    def max_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said in one turn."""

    text: str
    calls: tuple[dict[str, Any], ...]
    finish_reason: str


async def ask(
    context: StepContext,
    messages: list[dict[str, Any]],
    sampling: Sampling,
    tools: Mapping[str, str],
    partial: str,
    *,
    piece: str,
) -> Said:
    """The next turn. ``partial``: its first words, which are in the stream already.

    An answer that breaks off is gone on with by its words so far; a call of a tool that was half
    said is said anew. Raises DeadlineExceeded, EngineError (it broke off again and again) and what
    the model client and the stream raise.
    """
    text, deaths = partial, 0
    while True:
        left = context.deadline.remaining()
        if left <= 0:
            raise DeadlineExceeded(details={"step": context.step})
        body = _body(context, messages, sampling, tools, text, piece)
        chunks: list[Wire] = []
        try:
            async with asyncio.timeout(left + _GRACE_S):
                stream = context.llm.stream_chat(
                    body,
                    timeout_s=left,
                    traceparent=current_traceparent() or context.task.traceparent,
                )
                async with aclosing(stream) as open_stream:  # type: ignore[type-var]
                    async for chunk in open_stream:
                        chunks.append(chunk)
                        word = _content(chunk)
                        if word:
                            text += word
                            await context.writer.token(context.step, word)
            whole = assemble_chat(chunks)
        except TimeoutError:
            raise DeadlineExceeded(
                "The model did not answer in time.", {"step": context.step}
            ) from None
        except EngineError:
            deaths += 1
            metrics.STEP_RETRIES.labels(step=metrics.bounded("step", context.step)).inc()
            if deaths >= DEATHS:
                raise
            continue
        choice = whole["choices"][0]
        calls = tuple(_call(call) for call in choice["message"].get("tool_calls") or ())
        return Said(text, calls, str(choice["finish_reason"]))


def _body(
    context: StepContext,
    messages: list[dict[str, Any]],
    sampling: Sampling,
    tools: Mapping[str, str],
    text: str,
    piece: str,
) -> Wire:
    box = context.services.tools
    body: Wire = {
        "messages": [*messages],
        "stream": True,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": context.seed(piece, 1),
    }
    if context.model:
        body["model"] = context.model
    if text:
        body["messages"].append({"role": "assistant", "content": text})
        # About four characters a token: what was said counts towards the limit.
        body["max_tokens"] = max(1, sampling.max_tokens - len(text) // 4)
    if tools and box is not None:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": function,
                    "description": box.find(name).description,
                    "parameters": for_model(box.find(name).input_schema),
                },
            }
            for function, name in sorted(tools.items())
        ]
    return body


def _content(chunk: Any) -> str:
    try:
        text = (chunk["choices"][0].get("delta") or {}).get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""
    return text if isinstance(text, str) else ""


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """With an id: some engines give none."""
    return {
        "id": call.get("id") or f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {
            "name": str(call["function"].get("name", "")),
            "arguments": str(call["function"].get("arguments", "")),
        },
    }
