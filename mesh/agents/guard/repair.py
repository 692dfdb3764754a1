"""Mend a text without asking the model again: every change is named."""

from __future__ import annotations

import re

from mesh.agents.guard import patterns as p
from mesh.agents.guard.check import Limits, content_problems, off_topic, repetition
from mesh.agents.guard.clean import clean
from mesh.agents.guard.facts import Facts, fold
from mesh.agents.guard.spam import caps_words

_ENDS = ".!?…。！？"


def sentences(text: str) -> list[str]:
    """Split at sentence ends; abbreviations may split too early, which only drops more."""
    return [s.strip() for s in p.SENTENCE_END.split(text) if s.strip()]


def mend(text: str, facts: Facts, limits: Limits) -> tuple[str, list[str]]:
    """The mended text and what was done. It may still have problems: check it again.

    Sentences that say what they must not are dropped whole: half a claim is no better.
    """
    repairs: list[str] = []
    mended = clean(text, facts.brief.merge_tags)
    if mended != re.sub(r"\s+", " ", text).strip():
        repairs.append("cleaned mark-up or placeholders")
    mended = _lowered(mended, facts, repairs)
    kept: list[str] = []
    for sentence in sentences(mended) if limits.sentences else [mended]:
        found = content_problems(sentence, facts)
        if found and limits.sentences:
            repairs.append(f"dropped a sentence ({found[0]})")
        elif limits.sentences and off_topic(sentence, facts, limits):
            repairs.append("dropped a sentence that is not about the brief")
        elif any(fold(sentence) == fold(other) for other in kept):
            repairs.append("dropped a repeated sentence")
        elif kept and limits.sentences and repetition(fold(" ".join([*kept, sentence]))):
            repairs.append("dropped a repetitive sentence")
        else:
            kept.append(sentence)
    if limits.sentences and kept and kept[-1].rstrip("\"'”’)")[-1:] not in _ENDS and len(kept) > 1:
        kept.pop()
        repairs.append("dropped an unfinished sentence")
    while limits.sentences and len(kept) > 1 and len(" ".join(kept)) > limits.max_chars:
        kept.pop()
        repairs.append("shortened to whole sentences")
    mended = " ".join(kept)
    mended = _calm(mended, limits, repairs)
    if not limits.sentences:
        mended = _one_line(mended, repairs)
    return mended, repairs


def _lowered(text: str, facts: Facts, repairs: list[str]) -> str:
    for word in caps_words(text):
        if word not in facts.text:
            text = re.sub(rf"\b{re.escape(word)}\b", word.lower(), text)
            repairs.append(f"lowered {word}")
    if repairs and repairs[-1].startswith("lowered"):
        parts = sentences(text)
        text = " ".join(part[0].upper() + part[1:] for part in parts)
    return text


def _calm(text: str, limits: Limits, repairs: list[str]) -> str:
    if text.count("!") > limits.max_exclamations:
        head, tail = text, ""
        if limits.max_exclamations:
            at = text.rindex("!")
            head, tail = text[:at], text[at:]
        text = re.sub(r"\s*!+", "." if limits.sentences else "", head) + tail
        text = re.sub(r"!+", "!", text)
        repairs.append("fewer exclamation marks")
    return text


def _one_line(text: str, repairs: list[str]) -> str:
    trimmed = text.rstrip(" .,;:-–—")
    if trimmed != text and not text.endswith("..."):
        repairs.append("trimmed the end")
    return trimmed
