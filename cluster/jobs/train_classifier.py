"""The job that trains the classifier: ``python -m cluster.jobs.train_classifier``.

On the cluster it embeds with the embedder that serves there already, through the gateway and with
a token of its own as the service ``job``; alone (``--local``) it loads the embedding model itself.
The corpus is fetched once and checked against its known sum.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.jobs.submit import RESULT_MARK
from mesh.agents.classifier import artefact, corpus
from mesh.agents.classifier.corpus import Message
from mesh.agents.classifier.train import TrainOptions, train
from mesh.core.errors import Unavailable
from mesh.core.settings import (
    SETTINGS_VARIABLE,
    Settings,
    load_settings,
    settings_from_json,
)
from mesh.llm.store import ModelStore

EMBED_TIMEOUT_S = 120.0
EMBED_BATCH = 64
"""Texts a request: their vectors are a megabyte of JSON or so."""
_SAY_EVERY_S = 2.0

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]


def run(
    settings: Settings,
    store: ModelStore,
    embed: Embed,
    limit: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Train and store; what came of it, with metrics. ``limit``: at most so many messages,
    evenly over the groups of the corpus; 0: all."""
    started = time.monotonic()
    say("corpus: fetching and checking")
    messages = thinned(corpus.read_corpus(store.fetch(corpus.CORPUS_SOURCE)), limit)
    say(f"corpus: {len(messages)} messages, {sum(m.spam for m in messages)} of them spam")
    said = time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal said
        if done in (0, total) or time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{what}: {done} of {total}" if total > 1 else what)

    made = train(messages, embed, settings.llm.embedding_model, TrainOptions(seed=seed), progress)
    folder = artefact.save(made, settings.store_directory)
    return {
        "version": made.version,
        "folder": str(folder),
        "seconds": round(time.monotonic() - started, 1),
        "messages": len(messages),
        "metrics": made.metadata["metrics"],
    }


def thinned(messages: list[Message], limit: int) -> list[Message]:
    """Every so many-th, so that each group keeps its share."""
    if not limit or limit >= len(messages):
        return messages
    step = len(messages) / limit
    return [messages[int(index * step)] for index in range(limit)]


def local_embedder(settings: Settings, store: ModelStore) -> Embed:
    """The embedding model in this process. Blocks for seconds."""
    from mesh.llm.embeddings import SentenceTransformerEncoder

    path = store.fetch(settings.llm.embedding_source)
    encoder = SentenceTransformerEncoder(path, threads=max(1, (os.cpu_count() or 2) - 1))
    return lambda texts: encoder.encode(list(texts))


@contextmanager
def cluster_embedder(settings: Settings) -> Iterator[Embed]:
    """The embedder that serves on the cluster which this process is a job of."""
    from actors.gateway_client import gateway_client
    from mesh.security.services import Service

    loop = asyncio.new_event_loop()
    opening = gateway_client(settings, Service.JOB, timeout_s=EMBED_TIMEOUT_S)
    client = loop.run_until_complete(opening.__aenter__())

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), EMBED_BATCH):
            body = {
                "model": settings.llm.embedding_model,
                "input": list(texts[start : start + EMBED_BATCH]),
            }
            answer = await client.post("/v1/embeddings", json=body)
            if answer.status_code != 200:
                raise Unavailable(
                    f"The gateway did not embed: {answer.status_code} {answer.text[:200]}"
                )
            vectors += [entry["embedding"] for entry in answer.json()["data"]]
        return vectors

    try:
        yield lambda texts: loop.run_until_complete(embed(texts))
    finally:
        loop.run_until_complete(opening.__aexit__(None, None, None))
        loop.close()


def _settings(store: Path | None) -> Settings:
    """Those of the instance that this is a job of; alone: found like the command line's."""
    if passed := os.environ.get(SETTINGS_VARIABLE):
        settings = settings_from_json(passed)
        return settings.model_copy(update={"store": store}) if store else settings
    return load_settings({"store": store}, os.environ)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the classifier.")
    parser.add_argument("--local", action="store_true", help="without the cluster's embedder")
    parser.add_argument("--limit", type=int, default=0, help="messages of the corpus; 0: all")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--store", type=Path, help="the model store; default: the settings'")
    given = parser.parse_args(arguments)
    settings = _settings(given.store)
    store = ModelStore(settings.store_directory, environ=os.environ)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    if given.local:
        embed = local_embedder(settings, store)
        result = run(settings, store, embed, given.limit, given.seed, say)
    else:
        with cluster_embedder(settings) as embed:
            result = run(settings, store, embed, given.limit, given.seed, say)
    say(RESULT_MARK + json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
