"""When two requests may have one answer.

Exactly: everything that can change the answer is the same. Semantically: everything but the
wording of the last question is the same, and of that its length, its numbers, its names, its
quotes and its negations are too; only then may embeddings say that the two mean the same. So
"How do I cancel?" is never answered with "How do I not cancel?", nor 2025 with 2026.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from mesh.llm.engine import Wire

_NOT_THE_ANSWER = frozenset({"stream", "stream_options", "priority", "cache_prompt"})
"""How an answer travels, not what it says."""
MAX_QUESTION = 2_000
"""Characters; embeddings of longer texts say too little of them."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBER = re.compile(r"\d+(?:[.,:/\-]\d+)*%?")
_ADDRESS = re.compile(r"https?://\S+|\S+@\S+\.\S+")
_QUOTED = re.compile(r"[\"“„«']([^\"”“»']{1,200})[\"”“»']")
_CAPITAL = re.compile(r"\b[^\W\d_]*[A-Z\u00c0-\u00de\u0391-\u03a9\u0410-\u042f]\w*")
_WORD = re.compile(r"\w+(?:['’]\w+)?")
_NEGATIONS = _words(
    """no not never none nobody nothing neither nor without cannot except kein keine keinen nicht
    nie niemals ohne pas jamais sans aucun aucune sin nunca ningún ninguna"""
)
_NUMERALS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty
    sixty seventy eighty ninety hundred thousand million billion first second third half double
    twice monday tuesday wednesday thursday friday saturday sunday january february march april may
    june july august september october november december today tomorrow yesterday"""
)
_OPENERS = _words(
    """what how who whom whose when where why which is are was were can could do does did will would
    should please tell give show write explain describe list name i we you the a an and or in on at
    for of to with my our your"""
)
"""Capital letters of these say where a sentence begins, not whom it is about."""


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """Digests bind it to its workspace, policy, route and kind of answer."""

    digest: str
    """Of all that can change the answer."""
    partition: str | None
    """Of all but the wording of the last question; None: it has none to compare."""
    question: str


def cache_request(
    workspace_id: UUID, policy: str, body: Wire, *, chat: bool, semantic: bool
) -> CacheRequest:
    kept = {key: value for key, value in body.items() if key not in _NOT_THE_ANSWER}
    owner = [str(workspace_id), policy, chat]
    digest = _digest([*owner, kept])
    question = _question(kept) if semantic else None
    if question is None:
        return CacheRequest(digest, None, "")
    rest = dict(kept)
    if chat:
        rest["messages"] = kept["messages"][:-1]
    else:
        rest.pop("prompt")
    return CacheRequest(digest, _digest([*owner, rest, signs(question)]), question)


def signs(question: str) -> list[Any]:
    """What must be equal where two wordings shall count as one question."""
    words = [word.casefold() for word in _WORD.findall(question)]
    capitals = {word.casefold() for word in _CAPITAL.findall(question)} - _OPENERS
    negations = sum(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in words)
    return [
        len(words).bit_length(),
        sorted(_NUMBER.findall(question)),
        sorted(word for word in words if word in _NUMERALS),
        sorted(_ADDRESS.findall(question)),
        sorted(_QUOTED.findall(question)),
        sorted(capitals),
        negations,
        question.rstrip().endswith("?"),
    ]


def repeatable(body: Wire, max_temperature: float) -> bool:
    """Whether the same request would get the same answer anyway (or nearly): it is cold or has a
    seed."""
    if body.get("seed") is not None:
        return True
    temperature = body.get("temperature")
    return temperature is not None and temperature <= max_temperature


def whole(answer: Wire, body: Wire) -> bool:
    """An answer worth keeping: it ended by itself, calls no tool, and is JSON where that was
    asked for."""
    choices = answer.get("choices") or []
    if len(choices) != 1 or choices[0].get("finish_reason") != "stop" or answer.get("error"):
        return False
    message = choices[0].get("message")
    if message is None:
        return bool(choices[0].get("text"))
    text = message.get("content")
    if message.get("tool_calls") or message.get("refusal") or not isinstance(text, str) or not text:
        return False
    if (body.get("response_format") or {}).get("type") in ("json_object", "json_schema"):
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
    return True


def _question(body: Wire) -> str | None:
    prompt = body.get("prompt")
    if prompt is None:
        messages = body.get("messages") or [{}]
        if messages[-1].get("role") != "user":
            return None
        prompt = messages[-1].get("content")
        if isinstance(prompt, list):
            prompt = "\n".join(str(part.get("text", "")) for part in prompt)
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_QUESTION:
        return None
    return prompt


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
