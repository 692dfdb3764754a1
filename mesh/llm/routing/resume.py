"""How an answer that broke off goes on elsewhere: by its prefix, else by playing it again.

By prefix: the text so far is given to the engine as the beginning of its answer. What it can't
carry (a grammar's state, tool calls, log probabilities, reasoning) is played again with the same
seed and skipped while it repeats what went out; where it says something else the answer can only
end with an error, because what was said can't be taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from mesh.core.errors import EngineError
from mesh.llm.engine import Wire
from mesh.llm.pacing import sse_frames
from mesh.llm.routing.journal import Emitted, Journal, pieces
from mesh.llm.routing.target import PrefixStyle, chunks_of

Splice = Callable[[bytes], bytes]
"""Frames of the new engine → what of them is sent (empty: nothing)."""


class Diverged(EngineError):
    """Played again, the engine said something else than what had gone out."""


def by_prefix(body: Wire) -> bool:
    """Whether an answer to this request can be gone on with by its text alone."""
    format_ = body.get("response_format") or {}
    return (
        format_.get("type", "text") == "text"
        and not body.get("tools")
        and not body.get("logprobs")
        and not body.get("grammar")
    )


def continued(body: Wire, emitted: Emitted, *, chat: bool, style: PrefixStyle) -> Wire | None:
    """The request that goes on after what was emitted; None: this engine can't be asked so."""
    text = emitted.pieces.get("content", "")
    if not text:
        return body
    wire = dict(body)
    if (limit := body.get("max_tokens")) is not None:
        wire["max_tokens"] = max(1, limit - emitted.tokens)
    if not chat:
        wire["prompt"] = f"{body['prompt']}{text}"
        wire["prefix_chars"] = len(text)
        return wire
    if style == "none":
        return None
    messages = list(body["messages"])
    if messages and messages[-1].get("role") == "assistant":
        last = messages.pop()  # the caller began the answer already
        text = _text(last.get("content")) + text
    wire["messages"] = [*messages, {"role": "assistant", "content": text}]
    if style == "continue_final_message":
        wire |= {"add_generation_prompt": False, "continue_final_message": True}
    return wire


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content if isinstance(content, str) else ""


def all_said(body: Wire, emitted: Emitted) -> bool:
    """Whether only the end of the answer is missing: it has all its tokens."""
    limit = body.get("max_tokens")
    return limit is not None and emitted.tokens >= limit and emitted.only_content()


def cut_by_length(journal: Journal) -> bytes:
    """The closing frame of an answer that has all its tokens."""
    chunk = next(chunk for chunk in reversed(journal.tail()) if chunk.get("choices"))
    choice: Wire = {"index": 0, "finish_reason": "length"}
    if "delta" in chunk["choices"][0]:
        choice["delta"] = {}
    else:
        choice |= {"text": "", "logprobs": None}
    return sse_frames([orjson.dumps(chunk | {"choices": [choice]})])


@dataclass(slots=True)
class Continuation:
    """Makes the new engine's chunks the same stream: its id and time, one role, added usage."""

    emitted: Emitted
    complete: bool = False
    """All was said: one token more is asked for, only to learn the usage."""

    def __call__(self, frames: bytes) -> bytes:
        out: list[bytes] = []
        for chunk in chunks_of(frames):
            usage = chunk.get("usage")
            if usage:
                chunk["usage"] = added(usage, self.emitted.tokens, again=self.complete)
            if self.complete:
                if not usage:
                    continue
                chunk["choices"] = []
            choices = chunk.get("choices") or []
            if choices and self.emitted.role and _only_role(choices[0]):
                continue
            out.append(orjson.dumps(_renamed(chunk, self.emitted)))
        return sse_frames(out) if out else b""


def added(usage: Wire, tokens: int, *, again: bool = False) -> Wire:
    """Usage of the whole answer, from that of its last part: what had gone out was read there as
    part of the prompt. ``again``: what it made itself was thrown away."""
    prompt = max(0, int(usage.get("prompt_tokens") or 0) - tokens)
    completion = tokens + (0 if again else int(usage.get("completion_tokens") or 0))
    return usage | {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


class Replay:
    """Skips what went out already. Raises Diverged."""

    def __init__(self, emitted: Emitted) -> None:
        self._emitted = emitted
        self._again: dict[str, str] = {}

    def __call__(self, frames: bytes) -> bytes:
        out: list[bytes] = []
        for chunk in chunks_of(frames):
            choices = chunk.get("choices") or []
            if choices and not self._new(choices[0]):
                continue
            out.append(orjson.dumps(_renamed(chunk, self._emitted)))
        return sse_frames(out) if out else b""

    def _new(self, choice: Wire) -> bool:
        """Whether something of the choice has not gone out; takes the rest out of it."""
        said = pieces(choice)
        finish = choice.get("finish_reason") is not None
        if not said:
            if finish and any(
                len(self._again.get(name, "")) < len(text)
                for name, text in self._emitted.pieces.items()
            ):
                raise Diverged("The engine broke off, and its second answer is another one.")
            return finish or not self._emitted.role
        fresh = False
        for name, text in said:
            had = self._again.get(name, "")
            whole = self._again[name] = had + text
            went_out = self._emitted.pieces.get(name, "")
            if not (went_out.startswith(whole) or whole.startswith(went_out)):
                raise Diverged("The engine broke off, and its second answer is another one.")
            rest = whole[max(len(went_out), len(had)) :]
            if rest != text:
                _cut(choice, name, rest)
            fresh = fresh or bool(rest)
        if fresh and self._emitted.role and "delta" in choice:
            choice["delta"].pop("role", None)
        return fresh or finish


def _cut(choice: Wire, name: str, rest: str) -> None:
    if "delta" not in choice:
        choice["text"] = rest
        return
    delta: Wire = choice["delta"]
    if not name.startswith("tool."):
        delta[name] = rest
        return
    _, index, field = name.split(".")
    for call in delta.get("tool_calls") or ():
        if str(call.get("index") or 0) == index:
            call["function"][field] = rest


def _only_role(choice: Wire) -> bool:
    delta: Wire = choice.get("delta") or {}
    return "role" in delta and not pieces(choice) and not choice.get("finish_reason")


def _renamed(chunk: Wire, emitted: Emitted) -> Wire:
    if emitted.id:
        chunk["id"] = emitted.id
        chunk["created"] = emitted.created
    return chunk
