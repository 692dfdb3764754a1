"""Ask the model for one piece of text: constrained, streamed, checked, mended, tried again.

A piece is one short string. The model answers a tiny JSON schema, its value is streamed as it
comes, then cleaned and checked against the brief; what rules can mend is mended, what they can't
is asked again with another seed and a higher temperature, at most ``max_tries`` times. After
that there is no piece and the caller's template answers.

What a reader of the stream sees is what the step keeps: whenever the streamed text is not the
accepted one, ``step.retried`` voids it and the accepted text is said again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.agents.agent import StepContext
from mesh.agents.guard.check import Limits, problems
from mesh.agents.guard.facts import Facts
from mesh.agents.guard.injection import signs
from mesh.agents.guard.repair import mend
from mesh.agents.json_text import JsonText
from mesh.contracts.events import EventType
from mesh.core import metrics
from mesh.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    EngineError,
    Fenced,
    InvalidInput,
    MailyError,
    Overloaded,
    RateLimited,
    Unavailable,
    UnknownModel,
)
from mesh.core.tracing import current_traceparent

ENGINE_DEATHS = 2
"""Answers of a piece that may break off in the middle without counting as a try."""
PATIENCE_S = 30.0
"""How long a piece waits for a busy or restarting engine before the template answers."""
_GRACE_S = 1.0
"""Beyond the timeout that the engine was given, before we stop waiting ourselves."""

Check = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked. Examples are (question, answer) pairs; the brief is data."""

    system: str
    question: str
    examples: tuple[tuple[str, str], ...] = ()
    reference: str = ""
    """Which prompt file this is, for the decision."""

    def messages(self, field_name: str) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self.system}]
        for question, answer in self.examples:
            messages.append({"role": "user", "content": question})
            reply = json.dumps({field_name: answer}, ensure_ascii=False)
            messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": self.question})
        return messages


@dataclass(frozen=True, slots=True)
class Piece:
    """The accepted text, or None when the template has to answer; and what was tried."""

    text: str | None
    tries: int = 0
    repairs: tuple[str, ...] = ()
    rejected: tuple[dict[str, Any], ...] = ()
    failure: str = ""
    prompt: str = ""
    """Reference of the prompt file."""


@dataclass(slots=True)
class StepText:
    """The readable text of one step, kept equal to what its stream shows."""

    context: StepContext
    parts: list[str] = field(default_factory=list)
    separator: str = "\n"

    async def open_part(self) -> None:
        if self.parts:
            await self.context.writer.token(self.context.step, self.separator)

    async def void(self, reason: str, n: int) -> None:
        """Take back what was streamed since the last accepted part; say the accepted again."""
        context = self.context
        metrics.STEP_RETRIES.labels(step=context.step).inc()
        await context.writer.append(
            EventType.STEP_RETRIED, {"step": context.step, "reason": reason[:200], "n": n}
        )
        if self.parts:
            await context.writer.token(context.step, self.separator.join(self.parts))

    async def say(self, text: str) -> None:
        """Stream a part that needs no model."""
        await self.open_part()
        await self.context.writer.token(self.context.step, text)
        self.parts.append(text)


@dataclass(slots=True)
class _Answer:
    text: str
    streamed: str
    cut: bool


class Writer:
    """Writes the pieces of one step, one after the other."""

    def __init__(self, context: StepContext, facts: Facts) -> None:
        self.context = context
        self.facts = facts
        self.shown = StepText(context)
        self.calls = 0

    async def write(
        self,
        piece: str,
        prompt: Prompt,
        limits: Limits,
        *,
        also: Check | None = None,
        field_name: str = "text",
        tries: int | None = None,
        restore: Callable[[str], str] = str,
    ) -> Piece:
        """One piece of text. ``also``: further reasons to refuse a text, as words; ``restore``:
        what is done to an accepted text before it is kept.

        Raises DeadlineExceeded, UnknownModel, and what the stream writer raises.
        """
        context, options = self.context, self.context.options
        # Word lists of neutral words are English: others get some leave.
        factor = options.grounding * (1.0 if self.facts.brief.language[:2] == "en" else 0.8)
        limits = replace(limits, grounding=limits.grounding * factor)
        rejected: list[dict[str, Any]] = []
        waited = 0.0
        deaths = 0
        n = 0
        failure = ""
        while n < (tries or options.max_tries):
            left = context.deadline.remaining()
            if left <= 0:
                raise DeadlineExceeded(details={"step": context.step})
            timeout = min(options.call_timeout_s, left - options.reserve_s)
            if timeout <= 0:
                failure = "no time left for the model"
                break
            n += 1
            self.calls += 1
            try:
                answer = await self._ask(piece, n, prompt, limits, field_name, timeout)
            except (UnknownModel, Fenced):
                raise
            except (Overloaded, RateLimited, Unavailable) as error:
                # The engine is busy or coming back: waiting is not a try.
                pause = min(error.retry_after_s or 0.25, 2.0)
                failure = error.code
                if waited + pause > PATIENCE_S:
                    break
                n -= 1
                waited += pause
                await self.context.clock.sleep(pause)
                continue
            except EngineError as error:
                # It died under the answer. Its successor is waited for above; an engine that
                # fails again and again is the model's failure.
                failure = error.code
                await self.shown.void(error.code, n)
                if deaths < ENGINE_DEATHS:
                    deaths += 1
                    n -= 1
                else:
                    rejected.append({"text": "", "problems": [error.code], "try": n})
                continue
            except MailyError as error:
                failure = error.code
                rejected.append({"text": "", "problems": [error.code], "try": n})
                if isinstance(error, InvalidInput | BudgetExceeded):
                    break  # asking again changes nothing
                await self.shown.void(error.code, n)
                continue
            mended, repairs = mend(answer.text, self.facts, limits)
            found = [str(problem) for problem in problems(mended, self.facts, limits)]
            if not mended:
                # Nothing was left: what took it away says more than "too short".
                found = repairs + found
            if answer.cut and not limits.sentences:
                found.append("unfinished: the model ran out of tokens")
            # Cleaning takes the marks away by which a fake turn or tool call is known.
            found += [x for x in signs(answer.text) if not x.startswith("order")]
            found += also(mended) if also else []
            if not found:
                kept = restore(mended)
                if kept != answer.streamed:
                    await self.shown.void("mended: " + "; ".join(repairs or ["form"]), n)
                    await self.shown.say(kept)
                else:
                    self.shown.parts.append(kept)
                return Piece(kept, n, tuple(repairs), tuple(rejected), prompt=prompt.reference)
            failure = found[0]
            rejected.append({"text": answer.text[:300], "problems": found[:5], "try": n})
            await self.shown.void("; ".join(found[:3]), n)
        return Piece(None, n, (), tuple(rejected), failure, prompt.reference)

    async def fall_back(self, text: str) -> str:
        """Show the template's text instead of a piece."""
        await self.shown.say(text)
        return text

    async def _ask(
        self, piece: str, n: int, prompt: Prompt, limits: Limits, name: str, left_s: float
    ) -> _Answer:
        context = self.context
        body: dict[str, Any] = {
            "messages": prompt.messages(name),
            "stream": True,
            "temperature": min(
                1.2, context.options.temperature + (n - 1) * context.options.temperature_step
            ),
            "top_p": 0.9,
            "seed": context.seed(piece, n),
            # The examples before every question are the same: reading them anew costs more than
            # the answer. The price is rounding: a seed repeats an answer almost always, not always.
            "cache_prompt": True,
            "max_tokens": limits.max_chars // 3 + 24,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema(name, limits)},
            },
        }
        if context.model:
            body["model"] = context.model
        parser = JsonText()
        streamed: list[str] = []
        finish = ""
        opened = False
        try:
            async with asyncio.timeout(left_s + _GRACE_S):
                chunks = context.llm.stream_chat(
                    body,
                    timeout_s=left_s,
                    traceparent=current_traceparent() or context.task.traceparent,
                )
                async with _closing(chunks):
                    async for chunk in chunks:
                        text, reason = _delta(chunk)
                        finish = reason or finish
                        readable = parser.feed(text) if text else ""
                        if readable:
                            if not opened:
                                opened = True
                                await self.shown.open_part()
                            streamed.append(readable)
                            await context.writer.token(context.step, readable)
        except TimeoutError as error:
            raise DeadlineExceeded("the model did not answer in time") from error
        text = parser.fields.get(name) or parser.fields.get("") or ""
        return _Answer(text, "".join(streamed), cut=finish == "length" or not _whole(parser))


def schema(name: str, limits: Limits) -> dict[str, Any]:
    """A closed object with one string: small grammars cost the engine next to nothing."""
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "minLength": 1, "maxLength": limits.max_chars + 20}
        },
        "required": [name],
        "additionalProperties": False,
    }


def _whole(parser: JsonText) -> bool:
    return parser.complete or "" in parser.fields


def _delta(chunk: Any) -> tuple[str, str]:
    """Text and finish_reason of a chunk; an engine's malformed chunk holds neither."""
    try:
        choice = chunk["choices"][0]
        text = (choice.get("delta") or {}).get("content")
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", ""
    return (text if isinstance(text, str) else "", reason if isinstance(reason, str) else "")


@contextlib.asynccontextmanager
async def _closing(chunks: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Close the iterator whatever happens: that frees the engine's slot."""
    try:
        yield
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def decision_notes(pieces: Sequence[Piece]) -> list[str]:
    """What was mended and refused, in words, for a decision's ``repairs``."""
    notes: list[str] = []
    for piece in pieces:
        notes += piece.repairs
        notes += [f"try {r['try']} refused: {', '.join(r['problems'])}" for r in piece.rejected]
        if piece.text is None:
            notes.append(f"template instead of the model ({piece.failure or 'no answer'})")
    return notes
