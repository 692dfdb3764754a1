"""What the LLM tests share: real model files, and engines made of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from mesh.core.settings import LLMSettings
from mesh.llm.llamacpp import LlamaCppEngine, LlamaCppOptions
from mesh.llm.store import ModelStore

STORE = Path(__file__).resolve().parents[1] / ".cache" / "store"
"""Kept between runs; the same one that whole test runtimes use."""

USER = [{"role": "user", "content": "Write a story about a shoe sale."}]
LIMIT_S = 60.0
"""Deadline of calls that should succeed: generous, since it decides nothing."""


def model_file() -> Path:
    """SmolLM2, fetched on first use and checked against its known sum."""
    return ModelStore(STORE, environ=os.environ).fetch(LLMSettings().source)


def embedding_folder() -> Path:
    return ModelStore(STORE, environ=os.environ).fetch(LLMSettings().embedding_source)


def real_engine(**options: Any) -> LlamaCppEngine:
    """Two slots and one thread unless said otherwise. Blocks."""
    return LlamaCppEngine(model_file(), "smol", LlamaCppOptions(**{"slots": 2, **options}))


async def until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Wait for a condition. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - statistics have no event to wait for
            await asyncio.sleep(0.01)


async def collect(chunks: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk async for chunk in chunks]


def text_of(chunks: list[dict[str, Any]]) -> str:
    """Of chat chunks."""
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )


def content_of(answer: dict[str, Any]) -> str:
    """Of a chat answer."""
    content = answer["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content
