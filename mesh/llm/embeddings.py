"""Embeddings by sentence-transformers, batched across callers.

One text costs the model nearly what eight do, so callers that come within a few milliseconds
share a batch. The model runs in one thread of its own; the queue counts texts and is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mesh.core.errors import DeadlineExceeded, EngineError, Overloaded, Unavailable

Vector = list[float]


class Vectors(list[Vector]):
    """A vector for each text, and what reading the texts took."""

    prompt_tokens: int = 0
    """Tokens of all texts together, as the model counts them."""


class Embedder(Protocol):
    """Texts to vectors of unit length. Errors: Overloaded, DeadlineExceeded, EngineError,
    Unavailable."""

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> Vectors: ...

    def statistics(self) -> dict[str, int | float]: ...

    async def check(self) -> None: ...

    async def aclose(self) -> None: ...


class Encoder(Protocol):
    """The model itself; blocks. ``encode`` gives one vector per text, ``count`` its tokens."""

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: list[str]) -> list[Vector]: ...

    def count(self, texts: list[str]) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """How texts are gathered."""

    window_s: float = 0.005
    """Seconds that the first text of a batch waits for company."""
    batch: int = 64
    """Texts at once."""
    queue_limit: int = 4_096
    """Texts that wait; more are refused."""
    threads: int = 1
    """Of torch."""


@dataclass(slots=True)
class _Request:
    texts: list[str]
    answer: asyncio.Future[Vectors]
    vectors: Vectors = field(default_factory=Vectors)
    taken: int = 0


class BatchingEmbedder:
    """An Embedder over any Encoder. One event loop."""

    def __init__(self, encoder: Encoder, options: EmbedderOptions | None = None) -> None:
        self.options = options or EmbedderOptions()
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._waiting: deque[_Request] = deque()
        self._texts_waiting = 0
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._requests = self._texts = self._batches = self._refused = 0

    @property
    def dimensions(self) -> int:
        return self._encoder.dimensions

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> Vectors:
        """In the order of ``texts``. A caller that goes away takes its waiting texts along."""
        if self._closed:
            raise Unavailable("the embedder is shutting down", retry_after_s=1.0)
        if not texts:
            return Vectors()
        if self._texts_waiting + len(texts) > self.options.queue_limit:
            self._refused += 1
            raise Overloaded(
                f"{self._texts_waiting} texts wait to be embedded already", retry_after_s=1.0
            )
        loop = asyncio.get_running_loop()
        request = _Request(list(texts), loop.create_future())
        self._waiting.append(request)
        self._texts_waiting += len(texts)
        self._requests += 1
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        try:
            async with asyncio.timeout(timeout_s):
                return await request.answer
        except TimeoutError as exc:
            raise DeadlineExceeded("the deadline passed while embedding") from exc
        finally:
            self._drop(request)

    def statistics(self) -> dict[str, int | float]:
        """requests, texts embedded, batches, refused, texts waiting."""
        return {
            "requests": self._requests,
            "texts": self._texts,
            "batches": self._batches,
            "refused": self._refused,
            "queued": self._texts_waiting,
        }

    async def check(self) -> None:
        if self._closed:
            raise Unavailable("the embedder is shutting down", retry_after_s=1.0)

    async def aclose(self) -> None:
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for request in tuple(self._waiting):
            if not request.answer.done():
                request.answer.set_exception(Unavailable("the embedder is shutting down"))
        await asyncio.to_thread(self._thread.shutdown, True)

    async def _work(self) -> None:
        """Until nobody waits. The window is spent only when a batch isn't full already."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            if self._texts_waiting < self.options.batch:
                await asyncio.sleep(self.options.window_s)
            parts = self._take()
            if not parts:
                continue
            texts = [text for request, count in parts for text in _part(request, count)]
            try:
                vectors, counts = await loop.run_in_executor(self._thread, self._encode, texts)
            except Exception as exc:
                self._fail(parts, exc)
                continue
            self._batches += 1
            self._texts += len(texts)
            self._give(parts, vectors, counts)

    def _take(self) -> list[tuple[_Request, int]]:
        """The next batch: (request, texts of it)."""
        parts: list[tuple[_Request, int]] = []
        room = self.options.batch
        for request in self._waiting:
            count = min(room, len(request.texts) - request.taken)
            if count:
                parts.append((request, count))
                request.taken += count
                room -= count
                self._texts_waiting -= count
            if not room:
                break
        return parts

    def _encode(self, texts: list[str]) -> tuple[list[Vector], list[int]]:
        return self._encoder.encode(texts), self._encoder.count(texts)

    def _give(
        self, parts: list[tuple[_Request, int]], vectors: list[Vector], counts: list[int]
    ) -> None:
        at = 0
        for request, count in parts:
            request.vectors.extend(vectors[at : at + count])
            request.vectors.prompt_tokens += sum(counts[at : at + count])
            at += count
            if len(request.vectors) == len(request.texts):
                self._drop(request)
                if not request.answer.done():
                    request.answer.set_result(request.vectors)

    def _fail(self, parts: list[tuple[_Request, int]], exc: Exception) -> None:
        for request, _ in parts:
            self._drop(request)
            if not request.answer.done():
                request.answer.set_exception(
                    EngineError(f"the embedding model failed: {type(exc).__name__}")
                )

    def _drop(self, request: _Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)
            self._texts_waiting -= len(request.texts) - request.taken
            request.taken = len(request.texts)


def _part(request: _Request, count: int) -> list[str]:
    """The ``count`` texts taken last."""
    return request.texts[request.taken - count : request.taken]


class SentenceTransformerEncoder:
    """Loads the model in the constructor: blocks for seconds. ``path``: the model's folder."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        # Here and not above: importing torch takes seconds and 300 MB, and only one process of
        # the runtime needs it.
        import torch
        from sentence_transformers import SentenceTransformer

        if not path.is_dir():
            raise Unavailable(f"the embedding model {path.name} is missing: `maily models pull`")
        torch.set_num_threads(threads)
        self._model: Any = SentenceTransformer(str(path), device="cpu", local_files_only=True)
        self._model.eval()
        self._dimensions = len(self.encode(["ready"])[0])

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def encode(self, texts: list[str]) -> list[Vector]:
        vectors: list[Vector] = self._model.encode(
            texts,
            batch_size=len(texts),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        ).tolist()
        return vectors

    def count(self, texts: list[str]) -> list[int]:
        """What the model reads: beyond its longest input it reads nothing."""
        encoded = self._model.tokenizer(
            texts, truncation=True, max_length=self._model.max_seq_length, padding=False
        )
        return [len(ids) for ids in encoded["input_ids"]]


class SentenceTransformerEmbedder(BatchingEmbedder):
    """The Embedder that the runtime runs."""

    def __init__(self, path: Path, options: EmbedderOptions | None = None) -> None:
        options = options or EmbedderOptions()
        super().__init__(SentenceTransformerEncoder(path, options.threads), options)


class FakeEmbedder(BatchingEmbedder):
    """Deterministic vectors without a model."""

    def __init__(self, dimensions: int = 16, options: EmbedderOptions | None = None) -> None:
        super().__init__(_FakeEncoder(dimensions), options)


@dataclass(frozen=True, slots=True)
class _FakeEncoder:
    dimensions: int

    def encode(self, texts: list[str]) -> list[Vector]:
        from mesh.llm.fake import fake_embedding

        return [fake_embedding(text, self.dimensions) for text in texts]

    def count(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]
