"""Which engine the settings mean, built from files that are already in the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.core.settings import EngineSettings, LLMSettings
from mesh.llm.embeddings import Embedder, FakeEmbedder, SentenceTransformerEmbedder
from mesh.llm.engine import Engine
from mesh.llm.faults import FaultPlan
from mesh.llm.store import ModelStore

if TYPE_CHECKING:
    from mesh.llm.llamacpp import LlamaCppOptions


def default_threads(cores: int | None = None) -> int:
    """Cores - 1, at least 1: llama.cpp's threads spin, and a spinning thread beside a busy
    process stalls all the others."""
    return max(1, (cores or len(os.sched_getaffinity(0))) - 1)


def build_engine(engine: EngineSettings, store: Path) -> Engine:
    """Blocks while the model loads. Raises Unavailable when its file is not in the store."""
    if engine.kind == "fake":
        from mesh.llm.fake import FakeEngine

        return FakeEngine(
            faults=FaultPlan.of(engine.faults),
            model_id=engine.model,
            slots=engine.slots,
            queue_limit=engine.queue_limit,
            context_tokens=engine.context_tokens,
        )
    if engine.kind == "openai":
        from mesh.llm.remote import RemoteEngine, RemoteOptions

        key = engine.remote_api_key
        return RemoteEngine(
            engine.remote_url or "",
            model_id=engine.model,
            api_key=key.get_secret_value() if key else None,
            options=RemoteOptions(
                slots=engine.slots,
                queue_limit=engine.queue_limit,
                context_tokens=engine.context_tokens,
            ),
        )
    from mesh.llm.llamacpp import LlamaCppEngine

    path = ModelStore(store).require(engine.source)
    return LlamaCppEngine(path, engine.model, llamacpp_options(engine))


def llamacpp_options(engine: EngineSettings | LLMSettings) -> LlamaCppOptions:
    """What the settings say, in llama.cpp's terms."""
    from mesh.llm.llamacpp import LlamaCppOptions

    threads = engine.threads or default_threads()
    return LlamaCppOptions(
        threads=threads,
        batch_threads=threads,
        slots=engine.slots,
        context_tokens=engine.context_tokens,
        queue_limit=engine.queue_limit,
    )


def build_embedder(llm: LLMSettings, store: Path) -> Embedder:
    """Blocks while the model loads. Raises Unavailable when it is not in the store."""
    if llm.engine == "fake":
        return FakeEmbedder()
    return SentenceTransformerEmbedder(ModelStore(store).require(llm.embedding_source))
