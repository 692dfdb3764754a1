"""Which engine the settings mean, built from files that are already in the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.core.settings import LLMSettings
from mesh.llm.embeddings import Embedder, FakeEmbedder, SentenceTransformerEmbedder
from mesh.llm.engine import Engine
from mesh.llm.store import ModelStore

if TYPE_CHECKING:
    from mesh.llm.llamacpp import LlamaCppOptions


def default_threads(cores: int | None = None) -> int:
    """Cores - 1, at least 1: llama.cpp's threads spin, and a spinning thread beside a busy
    process stalls all the others."""
    return max(1, (cores or len(os.sched_getaffinity(0))) - 1)


def build_engine(llm: LLMSettings, store: Path) -> Engine:
    """Blocks while the model loads. Raises Unavailable when its file is not in the store."""
    if llm.engine == "fake":
        from mesh.llm.fake import FakeEngine

        return FakeEngine(
            model_id=llm.model,
            slots=llm.slots,
            queue_limit=llm.queue_limit,
            context_tokens=llm.context_tokens,
        )
    if llm.engine == "openai":
        from mesh.llm.remote import RemoteEngine, RemoteOptions

        key = llm.remote_api_key
        return RemoteEngine(
            llm.remote_url or "",
            model_id=llm.model,
            api_key=key.get_secret_value() if key else None,
            options=RemoteOptions(
                slots=llm.slots, queue_limit=llm.queue_limit, context_tokens=llm.context_tokens
            ),
        )
    from mesh.llm.llamacpp import LlamaCppEngine

    return LlamaCppEngine(ModelStore(store).require(llm.source), llm.model, llamacpp_options(llm))


def llamacpp_options(llm: LLMSettings) -> LlamaCppOptions:
    """What the settings say, in llama.cpp's terms."""
    from mesh.llm.llamacpp import LlamaCppOptions

    threads = llm.threads or default_threads()
    return LlamaCppOptions(
        threads=threads,
        batch_threads=threads,
        slots=llm.slots,
        context_tokens=llm.context_tokens,
        queue_limit=llm.queue_limit,
    )


def build_embedder(llm: LLMSettings, store: Path) -> Embedder:
    """Blocks while the model loads. Raises Unavailable when it is not in the store."""
    if llm.engine == "fake":
        return FakeEmbedder()
    return SentenceTransformerEmbedder(ModelStore(store).require(llm.embedding_source))
