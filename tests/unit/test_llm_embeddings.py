"""Batching across callers: each gets its own vectors, whoever else comes, goes or fails."""

from __future__ import annotations

import asyncio
import threading

import pytest
from llm_support import until

from mesh.core.errors import DeadlineExceeded, EngineError, Overloaded, Unavailable
from mesh.llm.embeddings import BatchingEmbedder, EmbedderOptions, FakeEmbedder
from mesh.llm.fake import fake_embedding


class Slow:
    """Encodes a text as its length, once it is let."""

    dimensions = 1

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[str]] = []

    def encode(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(texts)
        assert self.go.wait(20)
        if "poison" in texts:
            raise RuntimeError("no")
        return [[float(len(text))] for text in texts]

    def count(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]


async def test_callers_share_batches_and_keep_their_own() -> None:
    embedder = FakeEmbedder(options=EmbedderOptions(window_s=0.02, batch=16))
    wanted = [[f"text {caller} {n}" for n in range(caller)] for caller in range(12)]
    found = await asyncio.gather(*(embedder.embed(texts, timeout_s=10) for texts in wanted))
    assert found == [[fake_embedding(t, 16) for t in texts] for texts in wanted]
    tokens = [vectors.prompt_tokens for vectors in found]
    assert tokens == [sum(len(t.split()) for t in texts) for texts in wanted]
    figures = embedder.statistics()
    assert figures["texts"] == sum(map(len, wanted))
    assert figures["batches"] < figures["requests"]
    assert figures["queued"] == 0
    await embedder.aclose()


async def test_a_large_request_is_cut_into_batches() -> None:
    slow = Slow()
    slow.go.set()
    embedder = BatchingEmbedder(slow, EmbedderOptions(window_s=0, batch=4))
    vectors = await embedder.embed(["x" * n for n in range(1, 11)], timeout_s=10)
    assert vectors == [[float(n)] for n in range(1, 11)]
    assert [len(batch) for batch in slow.batches] == [4, 4, 2]
    await embedder.aclose()


async def test_the_queue_is_bounded() -> None:
    slow = Slow()
    embedder = BatchingEmbedder(slow, EmbedderOptions(window_s=0, batch=1, queue_limit=3))
    running = [asyncio.create_task(embedder.embed(["a"], timeout_s=10)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await embedder.embed(["a", "b", "c", "d"], timeout_s=10)
    slow.go.set()
    assert await asyncio.gather(*running) == [[[1.0]]] * 3
    await embedder.aclose()


async def test_a_deadline_and_a_cancel_leave_nothing_behind() -> None:
    slow = Slow()
    embedder = BatchingEmbedder(slow, EmbedderOptions(window_s=0, batch=1))
    first = asyncio.create_task(embedder.embed(["aa"], timeout_s=10))
    await until(lambda: bool(slow.batches))
    gone = asyncio.create_task(embedder.embed(["bbb", "cccc"], timeout_s=10))
    with pytest.raises(DeadlineExceeded):
        await embedder.embed(["dd"], timeout_s=0.01)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert embedder.statistics()["queued"] == 0
    slow.go.set()
    assert await first == [[2.0]]
    assert slow.batches == [["aa"]]
    await embedder.aclose()


async def test_a_failing_batch_fails_its_callers_alone() -> None:
    slow = Slow()
    slow.go.set()
    embedder = BatchingEmbedder(slow, EmbedderOptions(window_s=0, batch=1))
    with pytest.raises(EngineError):
        await embedder.embed(["poison"], timeout_s=10)
    assert await embedder.embed(["fine"], timeout_s=10) == [[4.0]]
    assert await embedder.embed([], timeout_s=10) == []
    await embedder.aclose()
    with pytest.raises(Unavailable):
        await embedder.embed(["x"], timeout_s=1)
