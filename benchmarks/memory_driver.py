"""A process that joins a running instance's cluster and speaks to its memory hosts as an agent
worker does: the demonstrations' way to load and ask memory without HTTP in between.

    python -m benchmarks.memory_driver WORKSPACE < commands

It reads a command a line (JSON) and answers each with a line of JSON. Its environment is the
instance's (``start`` makes it).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from benchmarks.corpus import ROOT
from benchmarks.instance import Instance
from cluster import loopback
from cluster.embedded.ray_head import ray_environment
from cluster.layout import Layout
from mesh.contracts.memory import (
    MemoryFilter,
    MemoryKind,
    MemoryQuery,
    Namespace,
    NamespaceKind,
    NewMemory,
    SearchMode,
)

NAMESPACE = Namespace(kind=NamespaceKind.CAMPAIGN, id="benchmark")
SHARES = {"0.1 %": "every-1000", "1 %": "every-100", "10 %": "every-10", "100 %": ""}
"""Filter by its selectivity; the empty one lets everything through."""
STEPS = {"every-1000": 1_000, "every-100": 100, "every-10": 10}
BATCH = 256
WRITERS = 4


def tags_of(number: int) -> list[str]:
    return [tag for tag, step in STEPS.items() if number % step == 0]


def query_of(vector: list[float], tag: str, k: int) -> MemoryQuery:
    """By likeness alone, so that the exact answer is known."""
    return MemoryQuery(
        namespaces=[NAMESPACE],
        mode=SearchMode.DENSE,
        k=k,
        vector=vector,
        filter=MemoryFilter(tags=[tag] if tag else []),
        recency_weight=0.0,
        importance_weight=0.0,
        diversity=0.0,
    )


class Driver:
    """The other end of ``Session``."""

    def __init__(self, memory: Any, workspace: UUID) -> None:
        self._memory = memory
        self._workspace = workspace

    async def load(self, vectors: str, texts: str) -> dict[str, Any]:
        """Remember what lies in these files, in order. Gives the ids and seconds."""
        matrix = np.load(vectors)
        lines = Path(texts).read_text(encoding="utf-8").split("\n")  # noqa: ASYNC240 (once)
        starts = iter(range(0, len(matrix), BATCH))
        ids: dict[int, list[str]] = {}

        async def writer() -> None:
            for start in starts:
                part = range(start, min(start + BATCH, len(matrix)))
                items = [
                    NewMemory.model_construct(
                        namespace=NAMESPACE,
                        kind=MemoryKind.DOCUMENT,
                        text=f"{number} {lines[number % len(lines)]}",
                        tags=tags_of(number),
                        vector=matrix[number],
                    )
                    for number in part
                ]
                kept = await self._memory.remember(self._workspace, items, timeout_s=60)
                ids[start] = [str(item.id) for item in kept]

        began = time.monotonic()
        await asyncio.gather(*(writer() for _ in range(WRITERS)))
        seconds = time.monotonic() - began
        return {"ids": [i for start in sorted(ids) for i in ids[start]], "seconds": seconds}

    async def ask(self, vectors: str, tag: str, k: int, limit: int | None = None) -> dict[str, Any]:
        """Answers of each query, one after the other: ids, scores, milliseconds, degraded."""
        answers: dict[str, list[Any]] = {"ids": [], "scores": [], "ms": [], "degraded": []}
        for vector in np.load(vectors)[:limit]:
            query = query_of(vector.tolist(), tag, k)
            began = time.perf_counter()
            told = await self._memory.recall(self._workspace, query, timeout_s=20)
            answers["ms"].append((time.perf_counter() - began) * 1_000)
            answers["ids"].append([str(hit.item.id) for hit in told.hits])
            answers["scores"].append([hit.score for hit in told.hits])
            answers["degraded"].append(told.degraded)
        return answers


async def _serve(workspace: UUID) -> None:
    from actors.context import ProcessContext, settings_of_process
    from actors.memory_open import open_memory

    context = await ProcessContext.open(settings_of_process(), "driver")
    driver = Driver(open_memory(context, None), workspace)
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            try:
                answer = await getattr(driver, command.pop("do"))(**command)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        await context.aclose()


class Session:
    """A driver that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Raises RuntimeError with what went wrong there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the driver has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@asynccontextmanager
async def start(instance: Instance, workspace: UUID) -> AsyncIterator[Session]:
    """A driver of this instance; ended with the block."""
    layout = Layout(instance.settings.home)
    environ = {**os.environ, **ray_environment(instance.settings, layout)}
    environ.pop("PROMETHEUS_MULTIPROC_DIR")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.memory_driver", str(workspace),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environ,
        cwd=ROOT, limit=2**26,
    )  # fmt: skip
    try:
        yield Session(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def main() -> None:
    import ray

    from actors.names import NAMESPACE as CLUSTER
    from mesh.core.settings import SETTINGS_VARIABLE, settings_from_json

    loopback.apply()
    settings = settings_from_json(os.environ[SETTINGS_VARIABLE])
    ray.init(
        address=settings.ray.address,
        namespace=CLUSTER,
        log_to_driver=False,
        configure_logging=False,
    )
    asyncio.run(_serve(UUID(sys.argv[1])))


if __name__ == "__main__":
    main()
