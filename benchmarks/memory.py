"""Memory's searches beside exact search, pgvector's HNSW and LanceDB, at four filter selectivities.

    make bench-memory      # or: python -m benchmarks.memory --full  (and a million vectors)

The vectors are the embeddings of real sentences (``benchmarks.corpus``; the million adds blends of
them), the queries other sentences. Ours is the whole recall as an owner answers it, in this
process: filter, search, sealed texts opened; rows lie in the same PostgreSQL that pgvector uses.
One caller asks one query after the other. Writes ``benchmarks/results/memory.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from actors.context import ProcessContext
from actors.memory_keeper import KeeperOptions
from actors.memory_loop import HostOptions, MemoryLoop
from actors.memory_open import open_host_parts
from benchmarks.coordination.servers import Servers, embedded, scratch
from benchmarks.corpus import corpus, spread
from benchmarks.memory_driver import BATCH, NAMESPACE, SHARES, query_of, tags_of
from benchmarks.memory_peers import (
    RECALL,
    Floats,
    Peer,
    Search,
    Task,
    exact_answers,
    exact_peer,
    lancedb_peer,
    pgvector_peer,
)
from benchmarks.report import Report, Row, percentile
from mesh.contracts.memory import MemoryKind, NewMemory
from mesh.core.ids import uuid7
from mesh.core.logging import configure_logging
from mesh.core.settings import PostgresSettings, RedisSettings, Settings
from mesh.core.settings_tree import SecuritySettings
from mesh.memory.placement import SHARDS

RESULTS = Path(__file__).parent / "results"
REAL = 100_000
HELD_OUT = 1_000
WARM = 20
WRITERS = 4
GOAL_MS = 10.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one way to search, at one selectivity."""

    recall: float
    qps: float
    p95_ms: float


async def measured(task: Task, search: Search, tag: str) -> Figures:
    for query in task.queries[:WARM]:
        await search(query, tag)
    hits, times = 0, []
    for query, true in zip(task.queries, task.exact[tag], strict=True):
        began = time.perf_counter()
        found = await search(query, tag)
        times.append(time.perf_counter() - began)
        hits += len(true & set(found))
    recall = hits / (10 * len(times))
    return Figures(recall, len(times) / sum(times), percentile(times, 0.95) * 1_000)


@asynccontextmanager
async def ours(servers: Servers, task: Task, folder: Path) -> AsyncIterator[Peer]:
    """An owner over real tables, loaded through its own writes."""
    async with scratch(servers.postgres_url) as dsn:
        settings = Settings(
            home=folder,
            postgres=PostgresSettings.model_validate({"url": dsn}),
            redis=RedisSettings.model_validate({"url": servers.redis_url}),
            security=SecuritySettings.model_validate({"secret": "benchmarks have no secrets " * 2}),
        )
        context = await ProcessContext.open(settings, "benchmark")
        options = HostOptions(KeeperOptions(folder), pass_s=86_400.0)
        host = MemoryLoop("memory-host-0", open_host_parts(context), options)
        running = asyncio.create_task(host.run())
        try:
            while len(host.shards.held) < SHARDS:  # noqa: ASYNC110 (it offers no event)
                await asyncio.sleep(0.05)
            workspace = uuid7()
            await context.db.fetch(
                "INSERT INTO workspaces (id, name) VALUES ($1, 'benchmark')", workspace
            )
            began = time.monotonic()
            numbers = await _load(host, workspace, task.base)
            (partition,) = host.keeper.all()
            await asyncio.to_thread(partition.index.build_sketch)
            built = time.monotonic() - began

            async def search(query: Floats, tag: str) -> Sequence[int]:
                asked = query_of([1.0, 0.0], tag, 10).model_copy(update={"vector": None})
                (found,) = await host.find(workspace, asked, [NAMESPACE], query)
                return [numbers[f.record.id] for f in found]

            depth = partition.index.statistics()["depth"]
            yield Peer("ours", search, built, f"sketch of depth {depth}")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await context.aclose()


async def _load(host: MemoryLoop, workspace: UUID, base: Floats) -> dict[UUID, int]:
    starts = iter(range(0, len(base), BATCH))
    numbers: dict[UUID, int] = {}

    async def writer() -> None:
        for start in starts:
            part = range(start, min(start + BATCH, len(base)))
            items = [
                NewMemory.model_construct(
                    namespace=NAMESPACE,
                    kind=MemoryKind.DOCUMENT,
                    text=f"Number {n} of the benchmark's sentences",
                    tags=tags_of(n),
                )
                for n in part
            ]
            kept = await host.remember(workspace, items, [base[n] for n in part])
            numbers.update(zip((item.id for item in kept), part, strict=True))

    await asyncio.gather(*(writer() for _ in range(WRITERS)))
    return numbers


async def compare(
    report: Report, servers: Servers, base: Floats, queries: Floats, words: str, folder: Path
) -> None:
    task = Task(base, queries, await asyncio.to_thread(exact_answers, base, queries))
    found: dict[str, dict[str, Figures]] = {}
    peers: list[Peer] = []

    async def all_shares(peer: Peer) -> None:
        peers.append(peer)
        found[peer.name] = {
            share: await measured(task, peer.search, tag) for share, tag in SHARES.items()
        }
        print(f"{words}: {peer.name}, built in {peer.built_s:.0f} s, {peer.tuned}", flush=True)
        for share, figures in found[peer.name].items():
            print(f"  {share}: {figures}", flush=True)

    async with ours(servers, task, folder) as peer:
        await all_shares(peer)
    await all_shares(exact_peer(task))
    async with scratch(servers.postgres_url) as dsn, pgvector_peer(dsn, task) as peer:
        await all_shares(peer)
    async with lancedb_peer(folder, task) as peer:
        await all_shares(peer)
    for share in SHARES:
        _rows(report, words, share, found, peers)
    for peer in peers:
        report.add(Row(f"{words}: {peer.name} loaded and built", peer.built_s, "s"))


def _rows(
    report: Report,
    words: str,
    share: str,
    found: dict[str, dict[str, Figures]],
    peers: Sequence[Peer],
) -> None:
    mine = found["ours"][share]
    at = f"{words}, filter {share}"
    goal = f"≥ {RECALL}"
    report.add(Row(f"{at}: recall@10", mine.recall, "", goal=goal, holds=mine.recall >= RECALL))
    small = words.startswith("100 k")
    report.add(
        Row(
            f"{at}: p95",
            mine.p95_ms,
            "ms",
            goal=f"≤ {GOAL_MS:g}" if small else "",
            holds=mine.p95_ms <= GOAL_MS if small else None,
        )
    )
    for peer in peers[1:]:
        theirs = found[peer.name][share]
        report.add(
            Row(
                f"{at}: queries a second, peer {peer.name}",
                mine.qps,
                "1/s",
                theirs.qps,
                mine.qps / theirs.qps,
                note=f"its recall {theirs.recall:.4f}, p95 {theirs.p95_ms:.1f} ms; {peer.tuned}",
            )
        )


async def main_async(full: bool) -> Report:
    report = Report("Memory: recall and speed at filter selectivities", {"full": full})
    _, vectors = await asyncio.to_thread(corpus, REAL + HELD_OUT)
    base: Any = vectors[:REAL]
    queries: Any = vectors[REAL : REAL + (1_000 if full else 300)]
    with tempfile.TemporaryDirectory(prefix="maily-bench-memory-") as name:
        async with embedded() as servers:
            await compare(report, servers, base, queries, "100 k × 384", Path(name))
            if full:
                many = np.ascontiguousarray(spread(base, 1_000_000))
                await compare(report, servers, many, queries[:300], "1 M × 384", Path(name))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million vectors, too (an hour)")
    options = parser.parse_args()
    configure_logging("bench-memory", "WARNING")
    # Not uvloop: it can't start PostgreSQL as another user.
    report = asyncio.run(main_async(options.full))
    report.write(RESULTS, "memory")
    print(report.markdown())
    return 0 if all(row.holds is not False for row in report.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
