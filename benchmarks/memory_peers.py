"""What memory's searches are compared with: exact search, pgvector and LanceDB, each tuned on the
unfiltered queries for the recall that we ask of ourselves, then used as it is with filters."""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.memory_driver import STEPS

Floats = npt.NDArray[np.float32]
Search = Callable[[Floats, str], Awaitable[Sequence[int]]]
"""(query, filter) → numbers of the nearest, best first."""

K = 10
RECALL = 0.99
COLUMNS = {tag: f"f{step}" for tag, step in STEPS.items()}
EF = (40, 80, 120, 200, 320, 500, 800, 1_000)
PROBES = ((10, 10), (20, 10), (40, 10), (80, 20), (160, 20), (320, 30))


@dataclass(frozen=True, slots=True)
class Peer:
    """One that is ready to be asked."""

    name: str
    search: Search
    built_s: float
    """Loading and building, in seconds."""
    tuned: str


@dataclass(frozen=True, slots=True)
class Task:
    """What everybody is given."""

    base: Floats
    queries: Floats
    exact: dict[str, list[set[int]]]
    """By filter: the true answers."""


def exact_answers(base: Floats, queries: Floats) -> dict[str, list[set[int]]]:
    found = {}
    for tag in ("", *STEPS):
        among = np.arange(0, len(base), STEPS.get(tag, 1))
        part = base[among]
        scores = queries @ part.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        found[tag] = [set(among[row].tolist()) for row in best]
    return found


async def recall_of(task: Task, search: Search, tag: str, limit: int | None = None) -> float:
    hits = 0
    queries = task.queries[:limit]
    for query, true in zip(queries, task.exact[tag], strict=False):
        hits += len(true & set(await search(query, tag)))
    return hits / (K * len(queries))


def exact_peer(task: Task) -> Peer:
    """FAISS over all vectors in full precision, one thread; filters by bitmap."""
    faiss.omp_set_num_threads(1)
    began = time.monotonic()
    index: Any = faiss.IndexFlatIP(task.base.shape[1])
    index.add(task.base)
    built = time.monotonic() - began
    masks = {}
    for tag, step in STEPS.items():
        mask = np.zeros(len(task.base), dtype=np.bool_)
        mask[::step] = True
        masks[tag] = np.packbits(mask, bitorder="little")
    kind: Any = faiss

    async def search(query: Floats, tag: str) -> Sequence[int]:
        parameters = None
        if tag:
            parameters = kind.SearchParameters(sel=kind.IDSelectorBitmap(masks[tag]))
        _, found = index.search(query[None], K, params=parameters)
        answer: list[int] = found[0].tolist()
        return answer

    return Peer("exact (FAISS flat, float32)", search, built, "1 thread")


@asynccontextmanager
async def pgvector_peer(dsn: str, task: Task) -> AsyncIterator[Peer]:
    """HNSW in our own PostgreSQL, b-trees over the filters, iterative scans on."""
    connection = await asyncpg.connect(dsn, timeout=30, command_timeout=7_200)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        version = await connection.fetchval(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        )
        await connection.set_type_codec(
            "vector", encoder=_pack, decoder=bytes, schema="public", format="binary"
        )
        began = time.monotonic()
        await _load_pgvector(connection, task.base)
        built = time.monotonic() - began

        async def search(query: Floats, tag: str) -> Sequence[int]:
            where = f"WHERE {COLUMNS[tag]}" if tag else ""
            rows = await connection.fetch(
                f"SELECT id FROM peers {where} ORDER BY embedding <#> $1 LIMIT {K}", query
            )
            return [row["id"] for row in rows]

        await connection.execute("SET hnsw.iterative_scan = strict_order")
        ef = await _tuned_ef(connection, task, search)
        yield Peer(f"pgvector {version} HNSW", search, built, f"m 16, ef_search {ef}")
    finally:
        await connection.close(timeout=10)


async def _load_pgvector(connection: asyncpg.Connection[asyncpg.Record], base: Floats) -> None:
    flags = ", ".join(f"{column} boolean" for column in COLUMNS.values())
    await connection.execute("DROP TABLE IF EXISTS peers")
    await connection.execute(
        f"CREATE UNLOGGED TABLE peers (id integer, {flags}, embedding vector({base.shape[1]}))"
    )
    for start in range(0, len(base), 20_000):
        records = [
            (n, *(n % step == 0 for step in STEPS.values()), base[n])
            for n in range(start, min(start + 20_000, len(base)))
        ]
        await connection.copy_records_to_table("peers", records=records)
    await connection.execute("SET maintenance_work_mem = '4GB'")
    await connection.execute("SET max_parallel_maintenance_workers = 1")
    await connection.execute("CREATE INDEX ON peers USING hnsw (embedding vector_ip_ops)")
    for column in COLUMNS.values():
        await connection.execute(f"CREATE INDEX ON peers (id) WHERE {column}")
    await connection.execute("ANALYZE peers")


async def _tuned_ef(
    connection: asyncpg.Connection[asyncpg.Record], task: Task, search: Search
) -> int:
    for ef in EF:
        await connection.execute(f"SET hnsw.ef_search = {ef}")
        if await recall_of(task, search, "", 100) >= RECALL:
            return ef
    return EF[-1]


@asynccontextmanager
async def lancedb_peer(folder: Path, task: Task) -> AsyncIterator[Peer]:
    """IVF-PQ with refinement, bitmaps over the filters, prefiltered. It uses every core."""
    import lancedb
    import pyarrow as pa

    path = folder / "lance"
    shutil.rmtree(path, ignore_errors=True)
    began = time.monotonic()
    flat = pa.array(task.base.reshape(-1))
    columns: dict[str, Any] = {
        "id": pa.array(np.arange(len(task.base), dtype=np.int64)),
        "vector": pa.FixedSizeListArray.from_arrays(flat, task.base.shape[1]),
    }
    for tag, step in STEPS.items():
        columns[COLUMNS[tag]] = pa.array(np.arange(len(task.base)) % step == 0)
    table = lancedb.connect(path).create_table("peers", pa.table(columns))
    table.create_index(
        metric="dot",
        index_type="IVF_PQ",
        num_partitions=int(len(task.base) ** 0.5),
        num_sub_vectors=task.base.shape[1] // 4,
    )
    for column in COLUMNS.values():
        table.create_scalar_index(column, index_type="BITMAP")
    built = time.monotonic() - began
    tuned = {"nprobes": PROBES[0][0], "refine": PROBES[0][1]}

    async def search(query: Floats, tag: str) -> Sequence[int]:
        asked = table.search(query).distance_type("dot").nprobes(tuned["nprobes"])
        asked = asked.refine_factor(tuned["refine"]).limit(K).select(["id"])
        if tag:
            asked = asked.where(f"{COLUMNS[tag]} = true", prefilter=True)
        answer: list[int] = asked.to_arrow()["id"].to_pylist()
        return answer

    for nprobes, refine in PROBES:
        tuned.update(nprobes=nprobes, refine=refine)
        if await recall_of(task, search, "", 100) >= RECALL:
            break
    words = f"nprobes {tuned['nprobes']}, refine {tuned['refine']}"
    yield Peer(f"LanceDB {lancedb.__version__} IVF-PQ", search, built, words)
    shutil.rmtree(path, ignore_errors=True)


def _pack(vector: Floats) -> bytes:
    """pgvector's binary form."""
    return struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()
