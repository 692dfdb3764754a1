"""Salt, leaf and tree of a campaign: on one core, over several workers, and the memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median

from benchmarks.trustworks.campaign import columns
from mesh.trust.leaf import Columns, hash_columns
from mesh.trust.merkle import Tree, levels, split

_ready: dict[tuple[int, int], Columns] = {}
_unit = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process of its own, in MiB."""

    before: float
    """With Python and our modules, before any message."""
    columns: float
    """With the campaign's columns."""
    peak: float
    """With salts, hashes and the whole tree too."""


def one_core(size: int, rounds: int = 3) -> float:
    """Leaves a second of CPU: salt, leaf, tree, and the check that none occurs twice."""
    given, times = columns(0, size), []
    for _ in range(rounds):
        began = time.process_time()
        _, hashes = hash_columns(given)
        Tree(hashes)
        times.append(time.process_time() - began)
    return size / median(times)


def by_workers(size: int, workers: int, rounds: int = 3) -> float:
    """Leaves a second of wall time over processes that hash aligned ranges each, their parts sent
    back and joined to the one tree here."""
    ranges = split(size, workers)
    times = []
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in ranges]
        pairs = list(zip(pools, ranges, strict=True))
        for future in [pool.submit(prepare, *part) for pool, part in pairs]:
            future.result()
        for _ in range(rounds):
            began = time.perf_counter()
            runs: list[Future[tuple[bytes, list[bytes]]]] = [
                pool.submit(hashed, *part) for pool, part in pairs
            ]
            Tree.from_parts([run.result()[1] for run in runs])
            times.append(time.perf_counter() - began)
    return size / median(times)


def prepare(low: int, high: int) -> None:
    """The columns of a range, where its worker will look for them."""
    _ready[low, high] = columns(low, high)


def hashed(low: int, high: int) -> tuple[bytes, list[bytes]]:
    """Salts and the levels of an aligned range."""
    salts, hashes = hash_columns(_ready[low, high])
    return salts, levels(hashes)


def same_root(size: int, parts: tuple[int, ...]) -> bool:
    """Whether any number of workers gives the root that one gives."""
    _, hashes = hash_columns(columns(0, size))
    root = Tree(hashes).root
    return all(
        Tree.from_parts(
            [levels(hashes[32 * low : 32 * high]) for low, high in split(size, count)]
        ).root
        == root
        for count in parts
    )


def memory(size: int) -> Memory:
    """Measured in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_memory, size).result()


def _memory(size: int) -> Memory:
    before = _peak()
    given = columns(0, size)
    with_columns = _peak()
    _, hashes = hash_columns(given)
    tree = Tree(hashes)
    assert tree.size == size
    return Memory(before, with_columns, _peak())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _unit / 2**20
