"""The real engine, full of long prompts: a short question goes before them, and none is spoilt."""

from __future__ import annotations

import asyncio
from typing import Any

from llm_support import LIMIT_S, collect, real_engine, text_of, until

from mesh.llm.llamacpp import LlamaCppEngine

STORY = "The quick brown fox sells shoes in spring. " * 60


def question(text: str, tokens: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0.0,
        "stream": True,
    }


async def test_a_short_question_goes_before_long_prompts() -> None:
    engine: LlamaCppEngine = await asyncio.to_thread(real_engine, slots=4)
    ended: list[str] = []

    async def ask(name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        chunks = await collect(engine.stream_chat(body, timeout_s=2 * LIMIT_S))
        ended.append(name)
        return chunks

    try:
        long = [
            asyncio.create_task(ask(f"long {n}", question(f"{n}: {STORY}", 5))) for n in range(3)
        ]
        await until(lambda: engine.statistics()["active"] == 1)
        await asyncio.sleep(0.5)  # into the first one's prompt
        await ask("short", question("Say hello", 2))
        assert ended == ["short"]
        assert engine.statistics()["gave_way"] == 1
        for chunks in await asyncio.gather(*long):
            assert text_of(chunks)
            assert len({chunk["id"] for chunk in chunks}) == 1
            roles = [choice["delta"].get("role") for chunk in chunks for choice in chunk["choices"]]
            assert roles.count("assistant") == 1
            assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        figures = engine.statistics()
        assert (figures["active"], figures["queued"], figures["cancelled"]) == (0, 0, 0)
    finally:
        await engine.aclose()
